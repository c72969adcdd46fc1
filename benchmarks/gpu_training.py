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
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.both import DTYPES, Ours, Row, Setting, first_call, free, in_turn, networks, stepper
from benchmarks.gpu.kernels import measure_breakdown
from benchmarks.gpu.whole import measure_whole
from pikavae.config import Config, ModelConfig
from pikavae.model.autoencoder import Activations
from pikavae.training.memory import GIB, estimate
from pikavae.weights.published import read_snapshot

WAYS: tuple[Activations, ...] = ("keep", "recompute", "checkpoint")
PARTS = ("training", "decoding", "breakdown", "memory", "whole", "finite")


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


def measure_training(setting: Setting) -> Iterator[Row]:
    """Measure training steps in bf16, eager and compiled, ours and diffusers' in turn."""
    for size, count in setting.batches.items():
        if size not in setting.sizes:
            continue
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
        yield from compare(what, count, in_turn(setting, ways), compiling)
        del ways, network, batch
        free(setting)


@torch.no_grad()
def measure_decoding(setting: Setting) -> Iterator[Row]:
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
    yield from compare(f"decoding {setting.decoded} px", 1, in_turn(setting, ways), compiling)


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


def show(title: str, rows: Iterable[Row]) -> list[Row]:
    """Print rows as Markdown, each when it comes, and return them."""
    shown = []
    print(f"### {title}\n")
    for row in rows:
        if not shown:
            print(f"| {' | '.join(row)} |\n|{' --- |' * len(row)}")
        cells = (
            "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
            for value in row.values()
        )
        print(f"| {' | '.join(cells)} |", flush=True)
        shown.append(row)
    print(flush=True)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what `--parts` names and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="no measurement begins after them")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each group of measurements, warm-up apart")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--sizes", nargs="+", type=int, help="of pictures in the part `training`; all by default")
    parser.add_argument("--small", action="store_true", help="a small model and small pictures, compiled to nothing")
    parser.add_argument("--snapshot", type=Path, help="weights of this snapshot or diffusers folder, not random ones")
    parser.add_argument("--prepared", type=Path, help="the prepared set of the whole run, not drawn sprites")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA device; --device cpu --small runs the same code")
    model = ModelConfig(channels=(8, 8), num_res_blocks=1, norm_groups=4) if chosen.small else ModelConfig()
    batches = {16: 2, 32: 1} if chosen.small else {256: 16, 512: 4}
    setting = Setting(
        device=torch.device(chosen.device),
        model=read_snapshot(chosen.snapshot).config if chosen.snapshot else model,
        seconds=chosen.seconds,
        backend="eager" if chosen.small else "inductor",
        batches=batches,
        sizes=tuple(chosen.sizes or batches),
        decoded=32 if chosen.small else 1024,
        snapshot=chosen.snapshot,
        prepared=chosen.prepared,
        deadline=time.perf_counter() + 60 * chosen.minutes,
    )
    card = torch.cuda.get_device_name() if chosen.device == "cuda" else "CPU"
    print(f"## {card}, torch {torch.__version__}\n\n`python -m benchmarks.gpu_training`\n", flush=True)
    sizes = "{} px, batch {}".format(*next(iter(setting.batches.items())))
    parts: dict[str, tuple[str, Callable[[Setting], Iterable[Row]]]] = {
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
            results[part] = show(title, measure(setting))
        except ModuleNotFoundError as error:
            setting.notes.append(f"{title}: left out, {error}")
    results["notes"] = setting.notes
    print("".join(f"- {note}\n" for note in setting.notes))
    print(json.dumps(results))


if __name__ == "__main__":
    main()
