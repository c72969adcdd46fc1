"""What a training step keeps in memory, and which settings make it less, without allocating or computing anything.

The model runs once on fake tensors, which have shapes but no numbers, while what autograd keeps for the backward pass
is counted. On top come buffers that live for one operation (about 0.8 GiB for the full model at 512 pixels), workspaces
of the device's libraries, and the networks of `loss.perceptual_weight` and `loss.adversarial_weight`.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pikavae.config import Config
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.presets import parse_config
from pikavae.training.optimizers import split_for_muon

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 2**30
WORTHWHILE = 0.05  # a setting is advised when it saves at least this share


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: all parameters, float32.
        gradients: of those that are trained.
        moments: what the optimizer keeps about them.
        ema: the moving average of the weights.
        activations: what the forward pass keeps for the backward pass.
    """

    weights: int
    gradients: int
    moments: int
    ema: int
    activations: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.weights + self.gradients + self.moments + self.ema + self.activations


def estimate(config: Config) -> Memory:
    """The memory of an uncompiled training step on one device, with square pictures of `data.image_size`.

    Where this process has no CUDA device but `training.device` is `cuda`, attention counts with all its scores, which
    a CUDA device would not keep: 0.1 GiB for the full model at 512 pixels, batch 1.

    Args:
        config: `training.device` decides whose rules of autocast count; `auto` is CUDA where there is such a device.
            The `training.processes` share `training.batch_size`.
    """
    training = config.training
    count = -(-training.batch_size // (training.processes or 1))
    with FakeTensorMode(), torch.device(_device_type(config)):
        model = AutoencoderKL(config.model).train()
        model.gradient_checkpointing = training.gradient_checkpointing
        if training.trainable == "decoder":
            model.encoder.requires_grad_(False)
            model.quant_conv.requires_grad_(False)
        activations = _saved_activations(model, config, count)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        hidden = split_for_muon(model)[0] if config.optimizer.name == "muon" else []  # Muon keeps one moment of these
        weights, gradients = _nbytes(model.parameters()), _nbytes(trained)
        single = _nbytes(parameter for parameter in hidden if parameter.requires_grad)
    return Memory(
        weights=weights,
        gradients=gradients,
        moments=2 * gradients - single,
        ema=weights if training.ema_decay is not None else 0,
        activations=activations,
    )


def out_of_memory_advice(config: Config, error: BaseException | None = None) -> str:
    """One line: what `config` needs by estimate, and which settings would make it how much less, the best ones first.

    Settings that save less than a twentieth are left out. Smaller pictures come last, since they make another task.

    Args:
        config: the configuration that did not fit.
        error: the allocator's complaint; where it tells the device's capacity, so does the line.
    """
    total = estimate(config).total
    gains = [(estimate(_with(config, change)).total, change) for change in _remedies(config)]
    gains = sorted((gain for gain in gains if gain[0] < (1 - WORTHWHILE) * total), key=lambda gain: gain[0])
    side = config.data.image_size // 2
    if config.data.crop != "buckets" and side >= 64 and side % config.model.downsampling_factor == 0:
        change = {"data.image_size": side}
        gains.append((estimate(_with(config, change)).total, change))
    listed = [f"{_spelled(change)}: about {_gib(needed)}" for needed, change in gains]
    capacity = re.search(r"total capacity of ([\d.]+ [KMGT]iB)", str(error))
    device = f"the device's {capacity[1]}" if capacity else "the device's memory"
    apart = _not_counted(config)
    return (
        f"out of memory: a training step keeps about {_gib(total)} by estimate{apart}, and with its passing buffers "
        f"that is more than {device} had left; " + ("; ".join(listed) or "use a smaller model (model.channels)")
    )


def _remedies(config: Config) -> Iterator[dict[str, Any]]:
    """Changes that may need less, as dotted names to values."""
    training = config.training
    if not training.gradient_checkpointing:
        yield {"training.gradient_checkpointing": True}
    if training.precision == "float32":
        yield {"training.precision": "bf16"}
        if not training.gradient_checkpointing:
            yield {"training.precision": "bf16", "training.gradient_checkpointing": True}
    half = training.batch_size // 2
    if half and training.batch_size % 2 == 0:
        yield {"training.batch_size": half, "training.accumulation": 2 * training.accumulation}
    if training.trainable == "all":
        yield {"training.trainable": "decoder"}
    if training.ema_decay is not None:
        yield {"training.ema_decay": None}


def _with(config: Config, change: dict[str, Any]) -> Config:
    return parse_config(config.model_dump(mode="json"), overrides=change)


def _spelled(change: dict[str, Any]) -> str:
    """As in YAML: `training.batch_size 4 with training.accumulation 2`."""
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in change.items()}
    return " with ".join(f"{name} {word}" for name, word in words.items())


def _not_counted(config: Config) -> str:
    names = [
        name
        for name, weight in (
            ("loss.perceptual_weight", config.loss.perceptual_weight),
            ("loss.adversarial_weight", config.loss.adversarial_weight),
        )
        if weight
    ]
    return f" (not counting {' and '.join(names)})" if names else ""


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _device_type(config: Config) -> str:
    """`cuda` or `cpu`, by whose rules the step is counted."""
    if config.training.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if config.training.device == "cuda" else "cpu"


def _saved_activations(model: AutoencoderKL, config: Config, count: int) -> int:
    """Bytes that one forward pass of `count` pictures, with its loss, keeps for the backward pass."""
    side = config.data.image_size
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    images = torch.empty(count, 3, side, side).contiguous(memory_format=layout)
    device_type = images.device.type
    with saved_for_backward() as held:
        with _autocast(device_type, config.training.precision):
            reconstructions, posterior = model(images)
        loss = F.mse_loss(reconstructions.float(), images) + posterior.kl().mean()
    kept = saved_bytes(held, model)
    del loss  # only now: the graph hangs on it
    return kept


class Saved:
    """A tensor that autograd keeps; it lives as long as the graph that needs it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(held: Iterable[Saved], model: nn.Module) -> int:
    """Bytes of what is `held`, each storage once, without the parameters of `model`."""
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages = {saved.tensor.untyped_storage()._cdata: saved.tensor.untyped_storage().nbytes() for saved in held}
    return sum(nbytes for address, nbytes in storages.items() if address not in parameters)


@contextmanager
def saved_for_backward() -> Iterator[weakref.WeakSet[Saved]]:
    """What autograd saves meanwhile, as far as it is still alive."""
    held: weakref.WeakSet[Saved] = weakref.WeakSet()

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor.detach())  # the tensor itself may refer to the graph, which would then never end
        held.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        yield held


@contextmanager
def _autocast(device_type: str, precision: str) -> Iterator[None]:
    """As `torch.autocast`, which switches itself off where the device is missing; fake tensors need none."""
    before, dtype = torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type)
    torch.set_autocast_enabled(device_type, precision in AUTOCAST_DTYPES)
    torch.set_autocast_dtype(device_type, AUTOCAST_DTYPES.get(precision, dtype))
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled(device_type, before)
        torch.set_autocast_dtype(device_type, dtype)
