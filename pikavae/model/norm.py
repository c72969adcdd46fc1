"""GroupNorm, optionally with SiLU: one operator with few reads and writes on CUDA, torch's own functions elsewhere.

The operator computes in float32 and returns the type of its input. torch's GroupNorm returns float32 under autocast,
and the next convolution or linear layer rounds that to half precision: the numbers that it gets are the same. For the
backward pass the operator keeps its input, and a mean and a reciprocal deviation of each group.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NAMESPACE = __name__.partition(".")[0]
"""A registered model carries a copy of this file below a name of its own, and its operators do not replace these."""


def _constant(function: Callable[[], bool]) -> Callable[[], bool]:
    """Mark a function as `torch.compiler.assume_constant_result` does, which would import the compiler: 4 seconds."""
    vars(function)["_dynamo_marked_constant"] = True
    return function


class GroupNorm(nn.GroupNorm):
    """Normalises groups of channels of (B, C, h, w), and applies SiLU if it is asked to.

    Args:
        groups: the number of groups, which divides `channels`.
        channels: the number of channels.
        eps: is added to the variance.
        activate: follow the norm with SiLU.
    """

    def __init__(self, groups: int, channels: int, eps: float, *, activate: bool = False) -> None:
        super().__init__(groups, channels, eps=eps)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map, in memory as `x`; on CUDA always with the channels innermost."""
        return group_norm(x, self.weight, self.bias, self.num_groups, self.eps, activate=self.activate)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, *, activate: bool) -> Tensor:
    """Return the norm of `x` (B, C, h, w), with SiLU if `activate`, by the operator if it can compute it."""
    if uses_operator(x):
        out: Tensor = normalise(x.contiguous(memory_format=torch.channels_last), weight, bias, groups, eps, activate)[0]
        return out
    plain = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(plain) if activate else plain


def to_fastest_layout(x: Tensor) -> Tensor:
    """Return `x` (B, C, h, w) in the layout in which its network is fastest: channels innermost, or unchanged.

    Channels are innermost if the operator computes the norms, and in bf16 without gradients on a CPU with AMX: its
    convolutions then take half the time. What enters a network goes through this once; each layer keeps the layout.
    """
    return x.contiguous(memory_format=torch.channels_last) if uses_operator(x) or uses_amx(x) else x


def uses_amx(x: Tensor) -> bool:
    """Return True if a CPU's AMX units compute the convolutions of `x`, in bf16, and no gradient is wanted."""
    if x.device.type != "cpu" or torch.is_grad_enabled() or not has_amx():
        return False
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return autocast or x.dtype == torch.bfloat16


# The compiler would read the machine's facts again, and warn.
@_constant
def has_amx() -> bool:
    """Return True if this machine's CPU multiplies matrices of bf16 in units of its own (Intel's AMX)."""
    return _has_amx()


@lru_cache
def _has_amx() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch has no such function
    return bool(capabilities.get("amx_bf16", False))


def uses_operator(x: Tensor) -> bool:
    """Return True if the Triton kernels compute the norm of `x`: on NVIDIA's GPUs, in at most 32 bits."""
    return x.is_cuda and x.dtype in KERNEL_DTYPES and x.ndim == 4 and x.numel() > 0 and triton_can_compile()


@_constant
def triton_can_compile() -> bool:
    """Return True if Triton is there, with the C compiler that it needs, and torch is not built for AMD's GPUs."""
    return _triton_can_compile()


@lru_cache
def _triton_can_compile() -> bool:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return importlib.util.find_spec("triton") is not None and compiler is not None and torch.version.hip is None


@torch.library.custom_op(f"{NAMESPACE}::group_norm", mutates_args=())
def normalise(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, and the means and reciprocal deviations of the groups (B, G) float32; see `norm_triton.forward`."""
    from .norm_triton import forward

    _check(x, groups)
    with torch.cuda.device(x.device.index if x.is_cuda else -1):
        return forward(x, weight, bias, groups, eps, activate)


@torch.library.custom_op(f"{NAMESPACE}::group_norm_backward", mutates_args=())
def differentiate(
    gradient: Tensor,
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    activate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias; see `norm_triton.backward`."""
    from .norm_triton import backward

    gradient = gradient.contiguous(memory_format=torch.channels_last)
    with torch.cuda.device(x.device.index if x.is_cuda else -1):
        return backward(gradient, x, means, scales, weight, bias, groups, activate)


def _check(x: Tensor, groups: int) -> None:
    if x.ndim != 4 or x.numel() == 0 or x.shape[1] % groups or x.dtype not in KERNEL_DTYPES:
        raise ValueError(
            f"a {x.dtype} map of shape {tuple(x.shape)} in {groups} groups: expected (B, C, h, w) in float32, bf16 or "
            f"fp16, none of them zero, and C a multiple of the groups"
        )
    if not x.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(f"strides {x.stride()}: expected the channels innermost (torch.channels_last)")


@normalise.register_fake
def _(
    x: Tensor,
    weight: Tensor,  # noqa: ARG001
    bias: Tensor,  # noqa: ARG001
    groups: int,
    eps: float,  # noqa: ARG001
    activate: bool,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    means, scales = (x.new_empty((x.shape[0], groups), dtype=torch.float32) for _ in range(2))
    return torch.empty_like(x), means, scales


@differentiate.register_fake
def _(gradient: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG001
    weight, bias = others[2:4]
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, bias, ctx.groups, _, ctx.activate = inputs
    _, means, scales = output
    ctx.save_for_backward(x, means, scales, weight, bias)
    ctx.mark_non_differentiable(means, scales)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, gradient: Tensor | None, *_: object) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 6
    return (*differentiate(gradient, *ctx.saved_tensors, ctx.groups, ctx.activate), None, None, None)


normalise.register_autograd(_differentiate, setup_context=_keep)
