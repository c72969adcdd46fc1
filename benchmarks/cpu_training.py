"""On a CPU: training step, encoding and decoding beside diffusers' AutoencoderKL of the same weights.

    python -m benchmarks.cpu_training                                  # the full model at 256 px, a small one at 64 px
    python -m benchmarks.cpu_training --cases small --seconds 5        # in a minute
    python -m benchmarks.cpu_training --precisions float32 bf16        # bf16 by autocast, for CPUs that compute in it
    python -m benchmarks.cpu_training --processor-time --threads 1     # on a busy machine

Both have the same weights, pictures, noise and optimizer, and take turns; a number is a median, and a ratio is that of
medians: above 1, ours is faster. It prints a Markdown table.
"""

from __future__ import annotations

import argparse
import copy
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from torch import Tensor, nn

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import diffusers_config
from pikavae.process.cpus import count_allowed, count_free

CASES: dict[str, tuple[ModelConfig, int, int]] = {
    "full": (ModelConfig(), 256, 1),
    "small": (ModelConfig(channels=(32, 64, 128, 128), num_res_blocks=1, norm_groups=8), 64, 4),
}
"""The model, the side of its pictures, and how many of them are a batch, by name."""
WAYS = ("training step", "encode", "decode")
MIN_ROUNDS = 3
KL_WEIGHT = 1e-8

Run = Callable[[], object]


def batch_of(sizes: ModelConfig, side: int, count: int) -> tuple[Tensor, Tensor]:
    """Return smooth synthetic pictures (B, 3, H, W) in [-1, 1], and noise (B, Z, H/f, W/f)."""
    generator, length = torch.Generator().manual_seed(0), side // sizes.downsampling_factor
    coarse = torch.rand(count, 3, side // 8, side // 8, generator=generator) * 2 - 1
    images = F.interpolate(coarse, scale_factor=8.0, mode="bilinear")
    return images, torch.randn(count, sizes.latent_channels, length, length, generator=generator)


def training_step(model: nn.Module, forward: Callable[[], tuple[Tensor, Tensor, Tensor]], images: Tensor) -> Run:
    """Return a step: squared error, KL, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        reconstructions, mean, logvar = forward()
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        (F.mse_loss(reconstructions.float(), images) + KL_WEIGHT * kl).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def ways_of(name: str, layout: torch.memory_format) -> dict[str, dict[str, Run]]:
    """Return what to measure: for each of `WAYS`, ours and diffusers'."""
    sizes, side, count = CASES[name]
    images, noise = batch_of(sizes, side, count)
    images = images.contiguous(memory_format=layout)
    torch.manual_seed(0)
    ours = AutoencoderKL(sizes).to(memory_format=layout)
    settings = {key: value for key, value in diffusers_config(sizes, side).items() if not key.startswith("_")}
    theirs = DiffusersAutoencoderKL(**settings)
    theirs.load_state_dict(ours.state_dict())
    theirs.to(memory_format=layout)
    frozen = [copy.deepcopy(model).eval().requires_grad_(False) for model in (ours, theirs)]

    def of_ours() -> tuple[Tensor, Tensor, Tensor]:
        reconstructions, posterior = ours(images, noise)
        return reconstructions, posterior.mean, posterior.logvar

    def of_theirs() -> tuple[Tensor, Tensor, Tensor]:
        posterior = theirs.encode(images).latent_dist
        latents = posterior.mean + torch.exp(0.5 * posterior.logvar) * noise
        return theirs.decode(latents).sample, posterior.mean.float(), posterior.logvar.float()

    return {
        "training step": {
            "ours": training_step(ours, of_ours, images),
            "diffusers": training_step(theirs, of_theirs, images),
        },
        "encode": {"ours": in_use(frozen[0].encode, images), "diffusers": in_use(frozen[1].encode, images)},
        "decode": {"ours": in_use(frozen[0].decode, noise), "diffusers": in_use(frozen[1].decode, noise)},
    }


def in_use(function: Callable[[Tensor], object], given: Tensor) -> Run:
    """Return `function` of `given`, without gradients."""
    return partial(torch.inference_mode()(function), given)


def in_turn(runs: dict[str, Run], seconds: float, precision: str, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median of each by `clock`, in seconds; they take turns after one unmeasured round."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    end = float("inf")
    while time.perf_counter() < end or len(times["ours"]) <= MIN_ROUNDS:
        for name, run in runs.items():
            began = clock()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                run()
            times[name].append(clock() - began)
        end = min(end, time.perf_counter() + seconds)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def name_of_cpu() -> str:
    """Return the CPU's name as Linux tells it, and whether it multiplies matrices of bf16."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.+)", told)
    units = [unit for unit in ("amx_bf16", "avx512_bf16") if unit in told]
    return f"{name[1].strip() if name else platform.processor()} ({', '.join(units) or 'no bf16'})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bf16"], default=["float32"])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each row, at least three rounds")
    parser.add_argument("--threads", type=int, help="by default the CPUs that other work leaves free")
    parser.add_argument("--channels-last", action="store_true", help="for both")
    parser.add_argument("--processor-time", action="store_true", help="count what all threads of this process compute")
    chosen = parser.parse_args(arguments)
    clock = time.process_time if chosen.processor_time else time.perf_counter
    torch.set_num_threads(chosen.threads or count_free())
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    layout_name = "channels_last" if chosen.channels_last else "NCHW"
    print(
        f"{name_of_cpu()}, {torch.get_num_threads()} of {count_allowed()} threads, torch {torch.__version__}, "
        f"{layout_name}, {'processor' if chosen.processor_time else 'wall'} time\n"
    )
    print("| model, pictures | | precision | ours, ms | diffusers, ms | diffusers / ours |\n|" + " --- |" * 6)
    for name in chosen.cases:
        _, side, count = CASES[name]
        runs = ways_of(name, layout)
        for way in WAYS:
            for precision in chosen.precisions:
                found = in_turn(runs[way], chosen.seconds, precision, clock)
                ours, theirs = (1000 * found[whose] for whose in ("ours", "diffusers"))
                cells = (f"{name}, {count} x {side} px", way, precision, f"{ours:.4g}", f"{theirs:.4g}")
                print(f"| {' | '.join(cells)} | {theirs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
