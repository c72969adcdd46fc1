"""Estimate a training step's memory, choose what it keeps, and advise settings that need less; nothing is computed.

The model runs forward and backward on fake tensors, which have shapes but no numbers, and the bytes that are alive are
counted. Workspaces of the device's libraries are counted where they are large: on CUDA, cuDNN's kernels for tensor
cores copy maps that do not have their channels innermost. What is left out is a fixed tenth of a GiB or so.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from pikavae.config import Config
from pikavae.data.prepared.loader import choose_layout
from pikavae.features.lpips import LPIPS
from pikavae.model import autoencoder
from pikavae.model.autoencoder import Activations
from pikavae.model.norm import NAMESPACE
from pikavae.model.tiny import build_autoencoder
from pikavae.presets import parse_config
from pikavae.training.adversarial import PatchDiscriminator, hinge_generator
from pikavae.training.losses import autoencoder_terms
from pikavae.training.optimizers import split_for_muon
from pikavae.training.peak import LiveBytes, SavedTensors, backpropagate
from pikavae.training.precision import resolve_precision

logger = logging.getLogger(__name__)

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 2**30
WORTHWHILE = 0.05  # a setting is advised if it saves at least this share
ROOM = 1.2
"""How much more than its estimate a step must find free: a tenth for the estimate's error, a tenth for gaps between
blocks, of which an allocator that has little room left makes use, but not of all."""


@dataclass(frozen=True)
class Memory:
    """Holds the bytes that a training step needs on one device.

    Attributes:
        weights: all parameters, float32.
        gradients: the gradients of the trained parameters.
        moments: the optimizer's state of the trained parameters.
        ema: the moving average of the weights.
        activations: what is alive after the forward pass besides the above, for the backward pass.
        total: the most that is alive at once, all of the above and what lives for one operation.
    """

    weights: int
    gradients: int
    moments: int
    ema: int
    activations: int
    total: int


def estimate(config: Config) -> Memory:
    """Return the memory of an uncompiled training step on one device, with square pictures of `data.image_size`.

    Args:
        config: `training.device` decides which rules of autocast and which kernels apply; `auto` is CUDA if there is
            such a device. The `training.processes` share `training.batch_size`. `training.activations` counts as
            `checkpoint` if it is `auto`, which comes to that if nothing else fits.
    """
    device_type = _device_type(config)
    config = resolve_precision(config, torch.device(device_type))
    training = config.training
    count = -(-training.batch_size // (training.processes or 1))
    activations: Activations = "checkpoint" if training.activations == "auto" else training.activations
    with _pretending(device_type), LiveBytes(_workspace if device_type == "cuda" else lambda *_: 0) as live:
        with torch.device(device_type):
            networks = _Networks(config, activations)
            trained = [parameter for parameter in networks.model.parameters() if parameter.requires_grad]
            hidden = split_for_muon(networks.model)[0] if config.optimizer.name == "muon" else []  # one moment of these
            weights, gradients = _nbytes(networks.model.parameters()), _nbytes(trained)
            moments = 2 * gradients - _nbytes(parameter for parameter in hidden if parameter.requires_grad)
            ema = weights if training.ema_decay is not None else 0
            others = networks.others()
            if training.accumulation > 1 or count < training.batch_size:  # gradients of an earlier batch, or buckets
                for parameter in trained:
                    parameter.grad = torch.empty_like(parameter)
            before = live.now
            images = torch.empty(count, config.model.image_channels, config.data.image_size, config.data.image_size)
            images = images.contiguous(memory_format=choose_layout(device_type, training.channels_last))
            saved = SavedTensors()
            with saved.kept():
                loss = networks.loss(images)
        kept = live.now - before
        node, one = loss.grad_fn, torch.ones_like(loss)
        assert node is not None
        del loss
        backpropagate(node, one, saved)
    beside = moments + ema + others
    return Memory(
        weights=weights,
        gradients=gradients,
        moments=moments,
        ema=ema,
        activations=kept,
        total=beside + max(live.peak, weights + gradients),
    )


class _Networks:
    """Holds the networks of a step without numbers, and computes its loss.

    Args:
        config: the whole configuration.
        activations: what is kept for the backward pass.
    """

    def __init__(self, config: Config, activations: Activations) -> None:
        self._config = config
        self.model = build_autoencoder(config.model).train()
        self.model.choose_activations(activations)
        if config.training.trainable == "decoder":
            self.model.encoder.requires_grad_(False)
            self.model.quant_conv.requires_grad_(False)
        self._perceptual = LPIPS.unloaded() if config.loss.perceptual_weight else None
        self._discriminator = (
            PatchDiscriminator(config.model.image_channels) if config.loss.adversarial_weight else None
        )

    def others(self) -> int:
        """Return the bytes of the discriminator's gradients and moments."""
        return 0 if self._discriminator is None else 3 * _nbytes(self._discriminator.parameters())

    def loss(self, images: Tensor) -> Tensor:
        """Return the loss of the autoencoder at the end of the run, when every term counts."""
        precision, loss = self._config.training.precision, self._config.loss
        dtype = AUTOCAST_DTYPES.get(precision)
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            reconstructions, posterior = self.model(images)
        channels = self._config.data.channel_names
        terms = autoencoder_terms(loss, images, reconstructions, posterior, 1.0, self._perceptual, channels)
        total = torch.stack([term.weighted for term in terms.values()]).sum()
        if self._discriminator is not None:
            self._discriminator.requires_grad_(False)
            with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
                logits = self._discriminator(reconstructions)
            total = total + loss.adversarial_weight * hinge_generator(logits)
        return total


@contextmanager
def _pretending(device_type: str) -> Iterator[None]:
    """Make tensors that have no numbers, on a device that need not be there.

    `torch.autocast`, also that of a checkpoint, would disable itself without the device; and attention would take the
    way that a device takes of which nothing is known.
    """
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        if device_type == "cuda":
            stack.enter_context(_EfficientAttention())
            if not torch.cuda.is_available():
                common = torch.cuda.amp.common
                stack.enter_context(mock.patch.object(common, "amp_definitely_not_available", return_value=False))
                stack.enter_context(mock.patch.object(torch.cuda, "is_bf16_supported", return_value=True))
        yield


class _EfficientAttention(TorchFunctionMode):
    """Computes attention as CUDA does for heads of more than 256 channels: by the memory-efficient kernel."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            efficient: Any = torch.ops.aten._scaled_dot_product_efficient_attention
            return efficient(*args, None, compute_log_sumexp=True)[0]
        return func(*args, **(kwargs or {}))


def _workspace(name: str, args: tuple[Any, ...], out: Any) -> int:
    """Return the bytes that an operation on CUDA needs beside its inputs and outputs.

    cuDNN's convolutions on tensor cores compute with the channels innermost, and copy maps in another layout: input and
    output in the forward pass; backwards the gradient with the input, or with the input's gradient, which are as large
    (NVIDIA's guide to convolutional layers, section on NCHW). The norm's kernels keep sums of parts of the map.
    """
    if name == "aten.convolution.default":
        return _copied(args[0]) + _copied(out)
    if name == "aten.convolution_backward.default":
        return _copied(args[0]) + _copied(args[1])
    if name.startswith(f"{NAMESPACE}.group_norm"):
        from pikavae.model.norm_triton import nbytes_of_parts

        return nbytes_of_parts(args[0])
    return 0


def _copied(x: Tensor) -> int:
    """Return the bytes of a copy of a map; nothing if its channels are innermost already."""
    return 0 if x.is_contiguous(memory_format=torch.channels_last) else prod(x.shape) * x.element_size()


def choose_activations(
    config: Config, device: torch.device, *, pictures: int = 0, announces: bool = False
) -> Activations:
    """Return what training keeps for the backward pass: as configured, or by `auto` the fastest way that fits.

    Args:
        config: the whole configuration.
        device: where it trains.
        pictures: the bytes of training pictures that will be on the device.
        announces: log the choice in a line.
    """
    chosen = config.training.activations
    if chosen != "auto":
        return chosen
    if _largest_map(config) < autoencoder.RECOMPUTE_ABOVE:
        return "keep"  # the other ways would not save anything worth an estimate
    config = _with(config, {"training.device": device.type})
    sharing = 1 if device.type == "cuda" else config.training.processes or 1
    room, needs = _room(device) // sharing - pictures, {}
    ways: tuple[Activations, ...] = ("keep", "recompute", "checkpoint")
    for way in ways:
        needs[way] = estimate(_with(config, {"training.activations": way})).total
        if ROOM * needs[way] <= room:
            break
    if announces:
        listed = ", ".join(f"{one} {_gib(needed)}" for one, needed in needs.items())
        fits = "" if ROOM * needs[way] <= room else "; it may not fit"
        logger.info("training.activations auto: %s (by estimate %s, with %s free%s)", way, listed, _gib(room), fits)
    return way


def _largest_map(config: Config) -> int:
    """Return the number of elements of the decoder's largest map, which the last level gets from the one before."""
    count = -(-config.training.batch_size // (config.training.processes or 1))
    return count * max(config.model.decoder_widths[:2]) * config.data.image_size**2


def _room(device: torch.device) -> int:
    """Return the bytes that this process could have on a device, with what it has there already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free, group = psutil.virtual_memory().available, Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    except (OSError, ValueError):  # no such group, or `max`: no limit
        return free
    return min(free, limit - used + (int(cached[1]) if cached else 0))


def out_of_memory_advice(config: Config, error: BaseException | None = None) -> str:
    """Return one line: the estimate for `config`, and the settings that would need less and how much, best first.

    Settings that save less than a twentieth are left out. Smaller pictures come last, since they change the task.

    Args:
        config: the configuration that did not fit.
        error: the allocator's error; if it names the device's capacity, the line does too.
    """
    if config.training.activations == "auto":
        chosen = choose_activations(config, torch.device(_device_type(config)))
        config = _with(config, {"training.activations": chosen})
    total = estimate(config).total
    gains = [(estimate(_with(config, change)).total, change) for change in _remedies(config)]
    gains = sorted((gain for gain in gains if gain[0] < (1 - WORTHWHILE) * total), key=lambda gain: gain[0])
    side = config.data.image_size // 2
    if config.data.crop != "buckets" and side >= 64 and side % config.model.downsampling_factor == 0:
        change = {"data.image_size": side}
        gains.append((estimate(_with(config, change)).total, change))
    listed = [f"{_spell(change)}: about {_gib(needed)}" for needed, change in gains]
    capacity = re.search(r"total capacity of ([\d.]+ [KMGT]iB)", str(error))
    device = f"the device's {capacity[1]}" if capacity else "the device's memory"
    return (
        f"out of memory: a training step needs about {_gib(total)} by estimate, and that is more than {device} had "
        f"left; " + ("; ".join(listed) or "use a smaller model (model.channels)")
    )


def _remedies(config: Config) -> Iterator[dict[str, Any]]:
    """Yield changes that may need less memory, as dotted names to values."""
    training = config.training
    if training.activations != "checkpoint":
        yield {"training.activations": "checkpoint"}
    if resolve_precision(config, torch.device(_device_type(config))).training.precision == "float32":
        yield {"training.precision": "bf16"}
        if training.activations != "checkpoint":
            yield {"training.precision": "bf16", "training.activations": "checkpoint"}
    half = training.batch_size // 2
    if half and training.batch_size % 2 == 0:
        yield {"training.batch_size": half, "training.accumulation": 2 * training.accumulation}
    if training.trainable == "all":
        yield {"training.trainable": "decoder"}
    if training.ema_decay is not None:
        yield {"training.ema_decay": None}


def _with(config: Config, change: dict[str, Any]) -> Config:
    return parse_config(config.model_dump(mode="json"), overrides=change)


def _spell(change: dict[str, Any]) -> str:
    """Format a change with values as in YAML: `training.batch_size 4 with training.accumulation 2`."""
    words = {name: value if isinstance(value, str) else json.dumps(value) for name, value in change.items()}
    return " with ".join(f"{name} {word}" for name, word in words.items())


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"


def _nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _device_type(config: Config) -> str:
    """Return `cuda` or `cpu`, the device whose rules the step is counted by."""
    if config.training.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if config.training.device == "cuda" else "cpu"
