"""On a CUDA device: memory and time of training steps, and pictures a second beside diffusers' AutoencoderKL.

    python -m benchmarks.gpu_training                          # everything; compiling takes minutes
    python -m benchmarks.gpu_training --parts memory finite    # what needs neither a compiler nor diffusers
    python -m benchmarks.gpu_training --device cpu --tiny      # the same code with a small model, in seconds

Needs torch, pydantic, PyYAML and safetensors; diffusers for the comparison, which is left out without it. Both models
have the same weights, pictures, noise, autocast and optimizer, and take turns in one run; a number is a median.
The last line is everything as JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pikavae.config import Config, ModelConfig
from pikavae.model import autoencoder
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import diffusers_config, read_snapshot
from pikavae.training.memory import GIB, estimate

DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TINY = ModelConfig(channels=(8, 8), num_res_blocks=1, norm_groups=4)
BATCHES = {256: 4, 512: 1}
PARTS = ("memory", "training", "inference", "finite")
KL_WEIGHT = 1e-8
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Setting:
    """What all measurements share."""

    device: torch.device
    model: ModelConfig
    seconds: float
    backend: str
    layout: torch.memory_format
    batches: dict[int, int]
    snapshot: Path | None

    def weights(self) -> AutoencoderKL:
        """The model on the device: the snapshot's weights, or random ones that are the same each time."""
        torch.manual_seed(0)
        model = read_snapshot(self.snapshot) if self.snapshot else AutoencoderKL(self.model)
        return model.requires_grad_(True).to(self.device, memory_format=self.layout).train()

    def batch(self, count: int, size: int) -> tuple[Tensor, Tensor]:
        """Smooth synthetic pictures (count, 3, size, size) in [-1, 1], and noise for their latents."""
        generator = torch.Generator().manual_seed(0)
        factor, channels = self.model.downsampling_factor, self.model.latent_channels
        coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator) * 2 - 1
        images = F.interpolate(coarse, scale_factor=8.0, mode="bilinear")
        noise = torch.randn(count, channels, size // factor, size // factor, generator=generator)
        return images.to(self.device, memory_format=self.layout), noise.to(self.device)

    def autocast(self, precision: str) -> torch.autocast:
        """The precision of a forward pass."""
        return torch.autocast(self.device.type, dtype=DTYPES[precision], enabled=DTYPES[precision] is not None)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Ours(nn.Module):
    """Pictures and noise to reconstruction, mean and log-variance."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.model = setting.weights()

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whole model."""
        reconstructions, posterior = self.model(images, noise)
        return reconstructions, posterior.mean, posterior.logvar

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's mode."""
        return self.model.encode(images).mode()

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures."""
        return self.model.decode(latents)


class Theirs(nn.Module):
    """The same by diffusers' AutoencoderKL, whose weights are ours: the names are the same."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        from diffusers import AutoencoderKL as DiffusersAutoencoderKL

        sizes = diffusers_config(setting.model, max(setting.batches))
        self.model = DiffusersAutoencoderKL(**{key: value for key, value in sizes.items() if not key.startswith("_")})
        self.model.load_state_dict(setting.weights().state_dict())
        self.model.to(setting.device, memory_format=setting.layout).train()

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whole model."""
        posterior = self.model.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        return self.model.decode(mean + torch.exp(0.5 * logvar) * noise).sample, mean, logvar

    def encode(self, images: Tensor) -> Tensor:
        """The posterior's mode."""
        mode: Tensor = self.model.encode(images).latent_dist.mode()
        return mode

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures."""
        images: Tensor = self.model.decode(latents).sample
        return images


def stepper(
    setting: Setting, network: nn.Module, batch: tuple[Tensor, Tensor], precision: str, forward: Callable[..., object]
) -> Callable[[], None]:
    """A training step of `network` by `forward`, its own or a compiled one: squared error, KL, fused AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    images, noise = batch

    def step() -> None:
        with setting.autocast(precision):
            reconstructions, mean, logvar = forward(images, noise)
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        (F.mse_loss(reconstructions.float(), images) + KL_WEIGHT * kl).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def in_turn(setting: Setting, ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way; they take turns until `seconds` are over, after two unmeasured rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in [*ways.values(), *ways.values()]:
        way()
    end = time.perf_counter() + setting.seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < MIN_ROUNDS:
        for name, way in ways.items():
            setting.synchronize()
            began = time.perf_counter()
            way()
            setting.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


@contextmanager
def as_written() -> Iterator[None]:
    """Nothing is computed twice, as in the original."""
    with mock.patch.object(autoencoder, "RECOMPUTE_ABOVE", float("inf")):
        yield


def measure_memory(setting: Setting) -> list[dict[str, object]]:
    """Peak memory and step time at the largest size, batch 1, for each precision and way to keep activations."""
    size = max(setting.batches)
    batch = setting.batch(1, size)
    found: list[dict[str, object]] = []
    for precision in ("float32", "bf16"):
        network = Ours(setting)
        step = stepper(setting, network, batch, precision, network)
        ways = {
            "as written": partial(run_as, network, step, as_written, False),
            "default": partial(run_as, network, step, nullcontext, False),
            "checkpointing": partial(run_as, network, step, nullcontext, True),
        }
        peaks = {name: peak_gib(setting, way) for name, way in ways.items()}
        seconds = in_turn(setting, {name: way for name, way in ways.items() if peaks[name] is not None})
        training = {"precision": precision, "device": setting.device.type, "batch_size": 1}
        fields = {"model": setting.model.model_dump(), "data": {"image_size": size}}
        for name, peak in peaks.items():
            fields["training"] = {**training, "gradient_checkpointing": name == "checkpointing"}
            counted = estimate(Config.model_validate(fields)).total / GIB
            found.append(
                {
                    "precision": precision,
                    "way": name,
                    "peak GiB": peak[0] if peak else None,
                    "reserved GiB": peak[1] if peak else None,
                    "estimate GiB": counted if name in {"default", "checkpointing"} else None,
                    "ms a step": 1000 * seconds[name] if name in seconds else None,
                    "times default": seconds[name] / seconds["default"]
                    if {name, "default"} <= seconds.keys()
                    else None,
                }
            )
        del network, step, ways
        free(setting)
    return found


def run_as(network: Ours, step: Callable[[], None], way: Callable[[], object], checkpointing: bool) -> None:
    """One step with the activations kept in a certain way."""
    network.model.gradient_checkpointing = checkpointing
    with way():
        step()


def peak_gib(setting: Setting, way: Callable[[], object]) -> tuple[float, float] | None:
    """Peak of what was allocated and reserved over two steps; None where they do not fit, zeros without CUDA."""
    if setting.device.type != "cuda":
        way()
        return 0.0, 0.0
    free(setting)
    torch.cuda.reset_peak_memory_stats()
    try:
        way()
        way()
    except torch.cuda.OutOfMemoryError:
        return None
    return torch.cuda.max_memory_allocated() / GIB, torch.cuda.max_memory_reserved() / GIB


def free(setting: Setting) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()


def measure_training(setting: Setting) -> list[dict[str, object]]:
    """Pictures a second of training steps in bf16, plain and compiled, ours and diffusers' in turn."""
    found = []
    for size, count in setting.batches.items():
        batch, ways = setting.batch(count, size), {}
        for name, network in (("ours", Ours(setting)), ("diffusers", Theirs(setting))):
            compiled = torch.compile(network, backend=setting.backend, dynamic=False)
            ways[f"{name}, plain"] = stepper(setting, network, batch, "bf16", network)
            ways[f"{name}, compiled"] = stepper(setting, network, batch, "bf16", compiled)
        found += compared("training", size, count, in_turn(setting, ways))
        del ways, network, compiled
        free(setting)
    return found


def measure_inference(setting: Setting) -> list[dict[str, object]]:
    """Pictures a second of encoding and of decoding in bf16, plain and compiled, ours and diffusers' in turn."""
    found = []
    networks = {"ours": Ours(setting).eval(), "diffusers": Theirs(setting).eval()}
    for size, count in setting.batches.items():
        images, noise = setting.batch(count, size)
        for what, given in (("encode", images), ("decode", noise)):
            ways = {}
            for name, network in networks.items():
                plain = getattr(network, what)
                compiled = torch.compile(plain, backend=setting.backend, dynamic=False)
                ways[f"{name}, plain"] = partial(without_gradients, setting, plain, given)
                ways[f"{name}, compiled"] = partial(without_gradients, setting, compiled, given)
            found += compared(what, size, count, in_turn(setting, ways))
    return found


@torch.no_grad()
def without_gradients(setting: Setting, function: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """`function` of `given` in bf16."""
    with setting.autocast("bf16"):
        return function(given)


def compared(what: str, size: int, count: int, seconds: dict[str, float]) -> list[dict[str, object]]:
    """Rows of pictures a second, ours over diffusers' with either both plain or both compiled."""
    return [
        {
            "what": what,
            "size": size,
            "batch": count,
            "way": way,
            "ours/s": count / seconds[f"ours, {way}"],
            "diffusers/s": count / seconds[f"diffusers, {way}"],
            "ratio": seconds[f"diffusers, {way}"] / seconds[f"ours, {way}"],
        }
        for way in ("plain", "compiled")
    ]


@torch.no_grad()
def measure_finite(setting: Setting) -> list[dict[str, object]]:
    """Whether decoding is finite in half precision, by autocast and with weights of that type."""
    size, found = max(setting.batches), []
    model = setting.weights().eval()
    images, _ = setting.batch(1, size)
    latents = model.encode(images).mode()
    expected = model.decode(latents)
    for precision in ("bf16", "fp16"):
        with setting.autocast(precision):
            by_autocast = model.decode(latents)
        dtype = DTYPES[precision]
        by_weights = copy.deepcopy(model).to(dtype).decode(latents.to(dtype))
        for way, decoded in (("autocast", by_autocast), ("weights", by_weights)):
            found.append(
                {
                    "precision": precision,
                    "way": way,
                    "finite": bool(decoded.isfinite().all()),
                    "largest difference": (decoded.float() - expected).abs().max().item(),
                }
            )
    return found


def print_table(title: str, rows: Sequence[dict[str, object]]) -> None:
    """As Markdown."""
    print(f"\n### {title}\n\n| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
    for row in rows:
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        print(f"| {' | '.join('-' if cell == 'None' else cell for cell in cells)} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what `--parts` names and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each group of measurements, warm-up apart")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small model and small pictures, compiled to nothing")
    parser.add_argument("--channels-last", action="store_true", help="for both models")
    parser.add_argument("--snapshot", type=Path, help="weights of this snapshot or diffusers folder, not random ones")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; --device cpu --tiny runs the same code")
    model = TINY if chosen.tiny else ModelConfig()
    setting = Setting(
        device=torch.device(chosen.device),
        model=read_snapshot(chosen.snapshot).config if chosen.snapshot else model,
        seconds=chosen.seconds,
        backend="eager" if chosen.tiny else "inductor",
        layout=torch.channels_last if chosen.channels_last else torch.contiguous_format,
        batches={16: 2, 32: 1} if chosen.tiny else BATCHES,
        snapshot=chosen.snapshot,
    )
    card = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    results: dict[str, object] = {
        "device": card,
        "torch": torch.__version__,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "channels_last": chosen.channels_last,
    }
    print(", ".join(f"{name} {value}" for name, value in results.items()))
    titles: dict[str, tuple[str, Callable[[Setting], list[dict[str, object]]]]] = {
        "memory": (f"Training at {max(setting.batches)} px, batch 1", measure_memory),
        "training": ("Training steps in bf16 against diffusers", measure_training),
        "inference": ("Encoding and decoding in bf16 against diffusers", measure_inference),
        "finite": ("Decoding in half precision", measure_finite),
    }
    for part in chosen.parts:
        title, measure = titles[part]
        if part in {"training", "inference"} and importlib.util.find_spec("diffusers") is None:
            print(f"\n{title}: left out, diffusers is not installed")
            continue
        rows = measure(setting)
        print_table(title, rows)
        results[part] = rows
    print(f"\n{json.dumps(results)}")


if __name__ == "__main__":
    main()
