"""Layers that can be computed in two ways, in turn: what the constants of `attention` and `upsampling` are chosen by.

    python -m benchmarks.layers                                    # on CUDA if it is there, in bf16; else on the CPU
    python -m benchmarks.layers --device cpu --rounds 5 --small

A number is the median time of a forward and a backward pass, in ms: of the processor on the CPU, which other
work on the machine moves less, and of the clock on CUDA.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from pikavae.model import attention, upsampling
from pikavae.model.attention import attend
from pikavae.model.upsampling import upsample

POSITIONS = ((16, 256), (16, 1024), (4, 4096), (1, 16384))
MAPS = ((16, 512, 32), (16, 512, 64), (16, 256, 128))
SMALL_POSITIONS = ((8, 64), (2, 256), (1, 1024), (1, 4096))
SMALL_MAPS = ((8, 64, 8), (4, 128, 32), (1, 256, 32))
CHANNELS = 512


def attention_ways(pictures: int, positions: int, device: str, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Return attention over 512 channels by products and by the fused kernel."""
    inputs = [torch.randn(pictures, positions, CHANNELS, device=device, dtype=dtype).requires_grad_() for _ in range(3)]
    gradient = torch.randn(pictures, positions, CHANNELS, device=device, dtype=dtype)

    def run(limit: int) -> None:
        with mock.patch.object(attention, "PRODUCTS_UP_TO", limit):
            attend(*inputs).backward(gradient)

    return {"products": partial(run, positions), "fused": partial(run, 0)}


def upsampling_ways(
    pictures: int, channels: int, side: int, device: str, dtype: torch.dtype
) -> dict[str, Callable[[], None]]:
    """Return upsampling and convolution in one step and in two."""

    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)

    x = tensor(pictures, channels, side, side).to(dtype).requires_grad_()
    weight = (tensor(channels, channels, 3, 3) / (9 * channels) ** 0.5).requires_grad_()
    bias = torch.zeros(channels, device=device, requires_grad=True)
    gradient = tensor(pictures, channels, 2 * side, 2 * side).to(dtype)

    def run(folded: set[str]) -> None:
        autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
        with mock.patch.object(upsampling, "FOLDED_ON", folded), autocast:
            out = upsample(x, weight, bias, shortcut=False)
        out.backward(gradient)

    return {"one step": partial(run, {device}), "two steps": partial(run, set())}


def in_turn(ways: dict[str, Callable[[], None]], rounds: int, device: str) -> dict[str, float]:
    """Return the median ms of each way; the first round is not measured."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, way in ways.items():
            if device == "cuda":
                torch.cuda.synchronize()
            began = clock()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(1000 * (clock() - began))
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--small", action="store_true", help="sizes for one core of a CPU")
    chosen = parser.parse_args(arguments)
    device, dtype = chosen.device, torch.bfloat16 if chosen.device == "cuda" else torch.float32
    groups: tuple[tuple[str, Callable[..., dict[str, Callable[[], None]]], tuple[tuple[int, ...], ...]], ...] = (
        ("attention", attention_ways, SMALL_POSITIONS if chosen.small else POSITIONS),
        ("upsampling", upsampling_ways, SMALL_MAPS if chosen.small else MAPS),
    )
    for name, ways, sizes in groups:
        for size in sizes:
            (first, one), (second, other) = in_turn(ways(*size, device, dtype), chosen.rounds, device).items()
            print(f"{name} {size}: {first} {one:.2f} ms, {second} {other:.2f} ms, ratio {one / other:.2f}", flush=True)


if __name__ == "__main__":
    main()
