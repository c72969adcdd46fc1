"""Measure training and decoding on a CUDA device, ours beside diffusers' AutoencoderKL, in one run of six minutes.

    python -m benchmarks.gpu_training                             # everything, as Markdown
    python -m benchmarks.gpu_training --parts memory breakdown    # what needs neither a compiler nor diffusers
    python -m benchmarks.gpu_training --device cpu --small        # the same code with a small model, in seconds

Both models have the same weights, pictures, noise, autocast and optimizer, and take turns; a number is a median. Each
has the memory layout in which it is fastest: diffusers NCHW, ours with the channels innermost. Compiled means whole for
diffusers; ours trains with compiled blocks, as `training.compile` does it, and decodes compiled whole.

diffusers is left out if it cannot be imported, and a part whose time has run out too: the table says so. The part
`whole` needs all that a training needs; it draws its pictures, or takes a prepared set. The last line is everything as
JSON.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.util
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pikavae.config import Config, ModelConfig
from pikavae.model.autoencoder import Activations, AutoencoderKL
from pikavae.model.snapshot import diffusers_config
from pikavae.training.compiling import compile_blocks
from pikavae.training.memory import GIB, estimate
from pikavae.weights.published import read_snapshot

DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
WAYS: tuple[Activations, ...] = ("keep", "recompute", "checkpoint")
PARTS = ("training", "decoding", "breakdown", "memory", "whole", "finite")
KL_WEIGHT = 1e-8
MIN_ROUNDS = 3
RUN_STEPS = 150
RECIPE = {
    "optimizer.name": "muon",
    "optimizer.learning_rate": 0.005,
    "optimizer.max_grad_norm": 1.0,
    "model.resample_shortcuts": True,
    "model.zero_init_residuals": True,
    "training.ema_decay": 0.995,
    "training.compile": False,
}
"""What the whole run trains with, beside sizes: the recipe of a training from nothing."""

Row = dict[str, object]

KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("changes of layout", ("nchwtonhwc", "nhwctonchw", "transpose")),
    ("norm", ("_measure_parts", "_join_moments", "_normalise", "_sum_parts", "_join_sums", "_backpropagate")),
    ("reductions", ("triton_red", "triton_per")),
    ("element by element", ("triton_poi",)),
    ("attention", ("fmha", "flash", "attention", "softmax")),
    ("convolutions", ("conv", "cudnn", "wgrad", "dgrad", "fprop")),
    ("products of matrices", ("gemm", "nvjet", "cutlass", "addmm", "bmm", "aten::mm")),
    ("optimizer", ("multi_tensor", "adam", "lerp", "foreach")),
    ("upsampling and pooling", ("upsample", "pool")),
    ("norm", ("group_norm", "groupnorm", "rowwisemoments")),
    ("copies and casts", ("copy", "memcpy", "memset", "catarray", "aten::cat", "aten::_to")),
    ("reductions", ("reduce", "aten::sum", "aten::mean")),
    ("element by element", ("elementwise", "aten::")),
)
"""Kinds of kernels by parts of their names in small letters; the first that matches counts."""


@dataclass
class Setting:
    """Holds what all measurements share.

    Attributes:
        device: where everything runs.
        model: the sizes of both models.
        seconds: how long a group of ways is measured.
        backend: of torch.compile.
        batches: how many pictures of each size a training step takes.
        decoded: the size of decoded pictures.
        snapshot: the weights of both models; random ones without it.
        prepared: the pictures of the whole run; drawn ones without it.
        deadline: the time of `perf_counter` after which no measurement begins.
    """

    device: torch.device
    model: ModelConfig
    seconds: float
    backend: str
    batches: dict[int, int]
    decoded: int
    snapshot: Path | None = None
    prepared: Path | None = None
    deadline: float = float("inf")
    notes: list[str] = field(default_factory=list)

    def weights(self, layout: torch.memory_format) -> AutoencoderKL:
        """Return the model on the device: the snapshot's weights, or random ones that are the same each time."""
        torch.manual_seed(0)
        model = read_snapshot(self.snapshot) if self.snapshot else AutoencoderKL(self.model)
        return model.requires_grad_(True).to(self.device).to(memory_format=layout).train()

    def batch(self, count: int, size: int, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Return smooth synthetic pictures (count, 3, size, size) in [-1, 1], and noise for their latents."""
        generator = torch.Generator().manual_seed(0)
        factor, channels = self.model.downsampling_factor, self.model.latent_channels
        coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator) * 2 - 1
        images = F.interpolate(coarse, scale_factor=8.0, mode="bilinear")
        noise = torch.randn(count, channels, size // factor, size // factor, generator=generator)
        return images.to(self.device, memory_format=layout), noise.to(self.device)

    def autocast(self, precision: str) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, dtype=DTYPES[precision], enabled=DTYPES[precision] is not None)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def has_time(self, what: str) -> bool:
        """Return True if another measurement may begin; otherwise note what is left out."""
        if time.perf_counter() < self.deadline:
            return True
        self.notes.append(f"{what}: left out, the time is over")
        return False


class Ours(nn.Module):
    """Turns pictures and noise into reconstruction, mean and log-variance by pikavae's model."""

    name = "ours"
    layout = torch.channels_last

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.model = setting.weights(self.layout)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the whole model."""
        reconstructions, posterior = self.model(images, noise)
        return reconstructions, posterior.mean, posterior.logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures."""
        return self.model.decode(latents)

    def compiled(self, backend: str) -> Callable[..., Any]:
        """Compile what trains, and return it."""
        network = copy.deepcopy(self)
        compile_blocks(network.model, varies=False, backend=backend)
        return network


class Theirs(nn.Module):
    """Does the same by diffusers' AutoencoderKL, whose weights are ours: the names are the same."""

    name = "diffusers"
    layout = torch.contiguous_format

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        from diffusers import AutoencoderKL as DiffusersAutoencoderKL

        sizes = diffusers_config(setting.model, max(setting.batches))
        self.model = DiffusersAutoencoderKL(**{key: value for key, value in sizes.items() if not key.startswith("_")})
        self.model.load_state_dict(setting.weights(self.layout).state_dict())
        self.model.to(setting.device).to(memory_format=self.layout).train()

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the whole model."""
        posterior = self.model.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        return self.model.decode(mean + torch.exp(0.5 * logvar) * noise).sample, mean, logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures."""
        images: Tensor = self.model.decode(latents).sample
        return images

    def compiled(self, backend: str) -> Callable[..., Any]:
        """Compile what trains, and return it."""
        compiled: Callable[..., Any] = torch.compile(self, backend=backend, dynamic=False)
        return compiled


Network = Ours | Theirs


def has_diffusers() -> bool:
    """Return True if diffusers can be imported."""
    return importlib.util.find_spec("diffusers") is not None


def networks(setting: Setting) -> list[Network]:
    """Return ours, and diffusers' if it can be imported."""
    if not has_diffusers():
        if not any("diffusers" in note for note in setting.notes):
            setting.notes.append("diffusers is not installed: its columns are left out")
        return [Ours(setting)]
    return [Ours(setting), Theirs(setting)]


def stepper(
    setting: Setting, network: nn.Module, batch: tuple[Tensor, Tensor], precision: str, forward: Callable[..., Any]
) -> Callable[[], None]:
    """Return a training step of `network` by `forward`, its own or a compiled one: squared error, KL, fused AdamW."""
    module = forward if isinstance(forward, nn.Module) else network
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    images, noise = batch

    def step() -> None:
        with setting.autocast(precision):
            reconstructions, mean, logvar = forward(images, noise)
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        (F.mse_loss(reconstructions.float(), images) + KL_WEIGHT * kl).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def in_turn(setting: Setting, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each way; they take turns, after two unmeasured rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in [*ways.values(), *ways.values()]:
        way()
    end = time.perf_counter() + setting.seconds
    while time.perf_counter() < end or min(map(len, times.values())) < MIN_ROUNDS:
        for name, way in ways.items():
            setting.synchronize()
            began = time.perf_counter()
            way()
            setting.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def first_call(setting: Setting, way: Callable[[], object]) -> float:
    """Return the seconds of a way's first call, which compiles it."""
    began = time.perf_counter()
    way()
    setting.synchronize()
    return time.perf_counter() - began


def free(setting: Setting) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()


def compare(what: str, count: int, seconds: Mapping[str, float], compiling: Mapping[str, float]) -> list[Row]:
    """Return a row for each way, eager and compiled, of what both models took."""
    rows: list[Row] = []
    for way in ("eager", "compiled"):
        ours, theirs = seconds.get(f"ours, {way}"), seconds.get(f"diffusers, {way}")
        if ours is None and theirs is None:
            continue
        best = min((value for name, value in seconds.items() if name.startswith("diffusers")), default=None)
        rows.append(
            {
                "what": what,
                "way": way,
                "diffusers ms": None if theirs is None else 1000 * theirs,
                "ours ms": None if ours is None else 1000 * ours,
                "diffusers / ours": ours and theirs and theirs / ours,
                "diffusers' best / ours": ours and best and best / ours,
                "ours, pictures/s": ours and count / ours,
                "seconds to compile, diffusers / ours": shown_pair(
                    compiling.get(f"diffusers, {way}"), compiling.get(f"ours, {way}")
                ),
            }
        )
    return rows


def shown_pair(first: float | None, second: float | None) -> str | None:
    """Return two numbers of seconds for a cell."""
    if first is None and second is None:
        return None
    return " / ".join("-" if value is None else f"{value:.0f}" for value in (first, second))


def measure_training(setting: Setting) -> list[Row]:
    """Measure training steps in bf16, eager and compiled, ours and diffusers' in turn."""
    rows: list[Row] = []
    for size, count in setting.batches.items():
        what = f"step, {size} px, batch {count}"
        if not setting.has_time(what):
            continue
        ways: dict[str, Callable[[], None]] = {}
        compiling: dict[str, float] = {}
        for network in networks(setting):
            batch = setting.batch(count, size, network.layout)
            ways[f"{network.name}, eager"] = stepper(setting, network, batch, "bf16", network)
            name = f"{network.name}, compiled"
            if setting.has_time(f"{what}, {name}"):
                ways[name] = stepper(setting, network, batch, "bf16", network.compiled(setting.backend))
                compiling[name] = first_call(setting, ways[name])
        rows += compare(what, count, in_turn(setting, ways), compiling)
        del ways, network, batch
        free(setting)
    return rows


@torch.no_grad()
def measure_decoding(setting: Setting) -> list[Row]:
    """Measure decoding one picture with weights in bf16, eager and compiled, ours and diffusers' in turn."""
    ways: dict[str, Callable[[], Tensor]] = {}
    compiling: dict[str, float] = {}
    for network in networks(setting):
        network.eval().to(torch.bfloat16)
        _, latents = setting.batch(1, setting.decoded, network.layout)
        latents = latents.to(torch.bfloat16)
        ways[f"{network.name}, eager"] = partial(network.decode, latents)
        name = f"{network.name}, compiled"
        if setting.has_time(f"decoding, {name}"):
            decode = torch.compile(network.decode, backend=setting.backend, dynamic=False)
            ways[name] = partial(decode, latents)
            compiling[name] = first_call(setting, ways[name])
    return compare(f"decoding {setting.decoded} px", 1, in_turn(setting, ways), compiling)


def measure_memory(setting: Setting) -> list[Row]:
    """Measure peak memory and step time at the largest size, batch 1, for each precision and way of activations."""
    size = max(setting.batches)
    rows: list[Row] = []
    batch = setting.batch(1, size, Ours.layout)
    for precision in ("float32", "bf16"):
        network = Ours(setting)
        step = stepper(setting, network, batch, precision, network)
        ways = {way: partial(step_as, network, step, way) for way in WAYS}
        peaks = {way: peak_gib(setting, run) for way, run in ways.items()}
        seconds = in_turn(setting, {way: run for way, run in ways.items() if peaks[way] is not None})
        for way, peak in peaks.items():
            training = {"precision": precision, "device": setting.device.type, "batch_size": 1, "activations": way}
            fields = {"model": setting.model.model_dump(), "data": {"image_size": size}, "training": training}
            counted = estimate(Config.model_validate(fields)).total / GIB
            rows.append(
                {
                    "precision": precision,
                    "training.activations": way,
                    "peak GiB": peak and peak[0],
                    "reserved GiB": peak and peak[1],
                    "estimate GiB": counted,
                    "estimate / peak": counted / peak[0] if peak and peak[0] else None,
                    "ms a step": 1000 * seconds[way] if way in seconds else None,
                    "times the fastest": seconds[way] / min(seconds.values()) if way in seconds else None,
                }
            )
        del network, step, ways
        free(setting)
    return rows


def step_as(network: Ours, step: Callable[[], None], way: Activations) -> None:
    """Take a step with the activations kept in a certain way."""
    network.model.choose_activations(way)
    step()


def peak_gib(setting: Setting, way: Callable[[], object]) -> tuple[float, float] | None:
    """Return the peak of what was allocated and reserved over two steps; None if they do not fit; 0 without CUDA."""
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


def measure_breakdown(setting: Setting) -> list[Row]:
    """Measure where an eager step of ours goes, by kind of kernel, beside the card's own ceilings."""
    size, count = next(iter(setting.batches.items()))
    network = Ours(setting)
    step = stepper(setting, network, setting.batch(count, size, Ours.layout), "bf16", network)
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    step()
    steps = 3
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.device.type == "cuda" else [])]
    with profile(activities=activities) as profiled:
        for _ in range(steps):
            step()
        setting.synchronize()
    flops = {str(name): number for name, number in counter.get_flop_counts().get("Global", {}).items()}
    of_convolutions = sum(number for name, number in flops.items() if "conv" in name)
    rows = by_kind(kernels_of(profiled, setting.device.type), steps, of_convolutions)
    del step, network
    free(setting)
    return rows + ceilings(setting)


def kernels_of(profiled: profile, device_type: str) -> Iterator[tuple[str, float]]:
    """Yield name and microseconds of each kernel on CUDA, or of each operation on the CPU without those inside it."""
    for event in profiled.events() or ():
        if device_type != "cuda":
            yield event.name, event.self_cpu_time_total
        elif event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False):
            yield event.name, event.time_range.elapsed_us()


def kind_of(name: str) -> str:
    """Return the kind of a kernel."""
    name = name.lower()
    return next((kind for kind, parts in KINDS if any(part in name for part in parts)), "other")


def by_kind(kernels: Iterable[tuple[str, float]], steps: int, flops_of_convolutions: float) -> list[Row]:
    """Return a row for each kind of kernel, the longest first: ms a step, share, TFLOP/s of the convolutions."""
    sums: dict[str, float] = defaultdict(float)
    longest: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, microseconds in kernels:
        kind = kind_of(name)
        sums[kind] += microseconds / 1000 / steps
        longest[kind][name] += microseconds
    total = sum(sums.values()) or 1.0
    return [
        {
            "what": kind,
            "ms a step": spent,
            "share": spent / total,
            "TFLOP/s": flops_of_convolutions / spent / 1e9 if kind == "convolutions" and spent else None,
            "longest kernel": max(longest[kind], key=lambda name: longest[kind][name])[:60].replace("|", "/"),
        }
        for kind, spent in sorted(sums.items(), key=lambda item: -item[1])
    ]


@torch.no_grad()
def ceilings(setting: Setting) -> list[Row]:
    """Measure what the device reaches alone in bf16: products of matrices, 3x3 convolutions of the model's sizes."""
    side = 8192 if setting.device.type == "cuda" else 128
    a = torch.randn(side, side, device=setting.device, dtype=torch.bfloat16)
    ways: dict[str, tuple[float, Callable[[], object]]] = {
        f"ceiling: product of {side} x {side}": (2.0 * side**3, partial(torch.mm, a, a))
    }
    size, count = next(iter(setting.batches.items()))
    for level, channels in enumerate(setting.model.channels):
        x = torch.randn(count, channels, size >> level, size >> level, device=setting.device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        conv = nn.Conv2d(channels, channels, 3, padding=1, device=setting.device, dtype=torch.bfloat16)
        conv = conv.to(memory_format=torch.channels_last)
        name = f"ceiling: 3x3 convolution, {channels} channels, {size >> level} px, batch {count}"
        ways[name] = (18.0 * channels**2 * x.numel() / channels, partial(conv, x))
    short = copy.copy(setting)
    short.seconds = min(setting.seconds, 1.0)
    seconds = in_turn(short, {name: way for name, (_, way) in ways.items()})
    return [
        {
            "what": name,
            "ms a step": 1000 * seconds[name],
            "share": None,
            "TFLOP/s": flops / seconds[name] / 1e12,
            "longest kernel": None,
        }
        for name, (flops, _) in ways.items()
    ]


def measure_whole(setting: Setting) -> list[Row]:
    """Measure a whole training, with all that is around the model, against the bare step of the same model."""
    from pikavae.data.prepare import prepare
    from pikavae.data.prepared.dataset import open_prepared
    from pikavae.presets import parse_config
    from pikavae.training.loop import train
    from pikavae.training.observer import Observer

    size, count = next(iter(setting.batches.items()))
    steps, block = (RUN_STEPS, 10) if setting.device.type == "cuda" else (4, 1)
    changes = {
        **RECIPE,
        "data.image_size": size,
        "data.source": "sprites",
        "data.sprites_count": 512 if setting.device.type == "cuda" else 24,
        "training.device": setting.device.type,
        "training.precision": "bf16",
        "training.batch_size": count,
        "training.steps": steps,
    }
    model = {f"model.{name}": value for name, value in setting.model.model_dump().items()}
    config = parse_config({}, overrides=model | changes)

    class Clock(Observer):
        """Notes when each block of steps has ended on the device."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step(self, state: Any, *_: object) -> None:
            if state.step % block == 0:
                setting.synchronize()
                self.ends.append(time.perf_counter())

    clock, bare_setting = Clock(), copy.copy(setting)
    bare_setting.model, bare_setting.snapshot = config.model, None
    network = Ours(bare_setting)
    step = stepper(bare_setting, network, setting.batch(count, size, Ours.layout), "bf16", network)
    bare = in_turn(bare_setting, {"bare": step})["bare"]
    del network, step
    free(setting)
    with tempfile.TemporaryDirectory(prefix="pikavae-benchmark-") as folder:
        prepared = open_prepared(setting.prepared) if setting.prepared else None
        prepared = prepared or prepare(config.data, Path(folder, "prepared"))[0]
        result = train(config, prepared, Path(folder, "run"), setting.device, clock)
    free(setting)
    return share_of_bare(bare, clock.ends, block, result.images_per_second, count)


def share_of_bare(bare: float, ends: Sequence[float], block: int, whole: float, count: int) -> list[Row]:
    """Return rows of pictures a second: of the bare step, of the run's steps, and of the run with all that it does.

    Args:
        bare: seconds of a bare step.
        ends: when each block of steps of the run has ended; the second half counts.
        block: the steps of a block.
        whole: pictures a second of the whole run.
        count: pictures in a step.
    """
    blocks = [later - earlier for earlier, later in pairwise(ends)]
    step = statistics.median(blocks[len(blocks) // 2 :]) / block
    rates = {
        "bare step": count / bare,
        "run, steps between measurements": count / step,
        "run with first steps, validation, previews and checkpoints": whole,
    }
    return [{"what": name, "pictures/s": rate, "share of bare": rate * bare / count} for name, rate in rates.items()]


@torch.no_grad()
def measure_finite(setting: Setting) -> list[Row]:
    """Measure if decoding is finite in half precision, by autocast and with weights of that type."""
    size = max(setting.batches)
    rows: list[Row] = []
    model = setting.weights(Ours.layout).eval()
    images, _ = setting.batch(1, size, Ours.layout)
    latents = model.encode(images).mode()
    expected = model.decode(latents)
    for precision in ("bf16", "fp16"):
        with setting.autocast(precision):
            by_autocast = model.decode(latents)
        dtype = DTYPES[precision]
        by_weights = copy.deepcopy(model).to(dtype).decode(latents.to(dtype))
        for way, decoded in (("autocast", by_autocast), ("weights", by_weights)):
            rows.append(
                {
                    "precision": precision,
                    "way": way,
                    "finite": bool(decoded.isfinite().all()),
                    "largest difference": (decoded.float() - expected).abs().max().item(),
                }
            )
    return rows


def table(title: str, rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""
    lines = [f"### {title}", ""]
    if rows:
        lines += [f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    for row in rows:
        cells = (
            "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
            for value in row.values()
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what `--parts` names and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="no measurement begins after them")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each group of measurements, warm-up apart")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a small model and small pictures, compiled to nothing")
    parser.add_argument("--snapshot", type=Path, help="weights of this snapshot or diffusers folder, not random ones")
    parser.add_argument("--prepared", type=Path, help="the prepared set of the whole run, not drawn sprites")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; --device cpu --small runs the same code")
    model = ModelConfig(channels=(8, 8), num_res_blocks=1, norm_groups=4) if chosen.small else ModelConfig()
    setting = Setting(
        device=torch.device(chosen.device),
        model=read_snapshot(chosen.snapshot).config if chosen.snapshot else model,
        seconds=chosen.seconds,
        backend="eager" if chosen.small else "inductor",
        batches={16: 2, 32: 1} if chosen.small else {256: 16, 512: 4},
        decoded=32 if chosen.small else 1024,
        snapshot=chosen.snapshot,
        prepared=chosen.prepared,
        deadline=time.perf_counter() + 60 * chosen.minutes,
    )
    card = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    print(f"## {card}, torch {torch.__version__}\n\n`python -m benchmarks.gpu_training`\n", flush=True)
    sizes = "{} px, batch {}".format(*next(iter(setting.batches.items())))
    parts: dict[str, tuple[str, Callable[[Setting], list[Row]]]] = {
        "training": ("Training steps in bf16", measure_training),
        "decoding": ("Decoding with weights in bf16", measure_decoding),
        "breakdown": (f"Where an eager step of {sizes} goes", measure_breakdown),
        "memory": (f"Memory of a step, {max(setting.batches)} px, batch 1", measure_memory),
        "whole": (f"A whole training against its bare step, both eager, {sizes}", measure_whole),
        "finite": ("Decoding in half precision", measure_finite),
    }
    results: dict[str, object] = {"device": card, "torch": torch.__version__}
    for part in chosen.parts:
        title, measure = parts[part]
        if not setting.has_time(title):
            continue
        try:
            rows = measure(setting)
        except ModuleNotFoundError as error:
            setting.notes.append(f"{title}: left out, {error}")
            continue
        results[part] = rows
        print(f"{table(title, rows)}\n", flush=True)
    results["notes"] = setting.notes
    print("".join(f"- {note}\n" for note in setting.notes))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
