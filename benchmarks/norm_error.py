"""Measure the error of the fused GroupNorm and SiLU against float64, beside that of torch's own functions.

    python -m benchmarks.norm_error              # on CUDA if it is there, else in Triton's interpreter, in a minute
    python -m benchmarks.norm_error --large      # maps as in a training at 256 px; on CUDA

An error is the largest difference, over the largest number of the tensor. torch's functions get the map as float32, as
autocast gives it to them, and their result is rounded to the map's format. The interpreter cuts numbers to half formats
where a GPU rounds them, so it shows up to twice a GPU's error there.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = {(2, 64, 9, 17): 32, (1, 130, 5, 13): 2, (2, 8, 30, 30): 1}
LARGE = {(16, 128, 256, 256): 32, (16, 512, 32, 32): 32, (1, 128, 512, 512): 32}
OFFSETS = (0.0, 10.0, 1000.0)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
EPS = 1e-6
NAMES = ("y", "dx", "dweight", "dbias")


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return the activated norm by torch's functions, in at least float32 inside, in the type of `x`."""
    wide = x if x.dtype == torch.float64 else x.float()
    return F.silu(F.group_norm(wide, groups, weight, bias, EPS)).to(x.dtype)


def by_operator(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Return the activated norm by the kernels."""
    from pikavae.model.norm import normalise

    y: Tensor = normalise(x, weight, bias, groups, EPS, True)[0]
    return y


def results(function: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor, groups: int) -> list[Tensor]:
    """Return what `function` gives, and the gradients of its inputs, as float64."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*inputs, groups)
    y.backward(gradient)
    return [y.detach().double(), *(tensor.grad.double() for tensor in inputs if tensor.grad is not None)]


def errors(shape: tuple[int, ...], groups: int, offset: float, dtype: torch.dtype, device: str) -> str:
    """Return a row of the table."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, gradient = (
        torch.randn(size, generator=generator) for size in (shape, shape[1:2], shape[1:2], shape)
    )
    x = (x + offset).to(device, dtype).contiguous(memory_format=torch.channels_last)
    gradient = gradient.to(device, dtype).contiguous(memory_format=torch.channels_last)
    inputs = [x, weight.to(device), bias.to(device)]
    expected = results(by_torch, [tensor.double() for tensor in inputs], gradient.double(), groups)
    cells = []
    for function in (by_operator, by_torch):
        found = results(function, inputs, gradient, groups)
        cells.append([((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True)])
    pairs = " | ".join(f"{ours:.1e} / {theirs:.1e}" for ours, theirs in zip(*cells, strict=True))
    return f"| {shape} | {groups} | {offset:g} | {str(dtype).removeprefix('torch.')} | {pairs} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="maps as in a training, for a GPU")
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read while Triton is imported
    print(f"kernel / torch, on {torch.cuda.get_device_name() if device == 'cuda' else 'the interpreter'}\n")
    print(f"| map | groups | mean | format | {' | '.join(NAMES)} |\n|{' --- |' * 8}")
    for shape, groups in (LARGE if chosen.large else SMALL).items():
        for offset in OFFSETS:
            for dtype in DTYPES:
                print(errors(shape, groups, offset, dtype, device), flush=True)


if __name__ == "__main__":
    main()
