"""Where a training step goes, by kind of kernel, beside what the device reaches alone."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from unittest import mock

import torch
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.both import Ours, Row, Setting, free, in_turn, stepper
from pikavae.model import attention

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


def measure_breakdown(setting: Setting) -> list[Row]:
    """Measure where an eager step of ours goes, by kind of kernel, beside the card's own ceilings."""
    size, count = next(iter(setting.batches.items()))
    network = Ours(setting)
    step = stepper(setting, network, setting.batch(count, size, Ours.layout), "bf16", network)
    counter = FlopCounterMode(display=False)
    with counter, mock.patch.object(attention, "_product", torch.bmm):  # torch 2.11 cannot count `out_dtype`
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
