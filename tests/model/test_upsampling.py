"""Upsampling and convolution in one step and in two: the same numbers, forward and backward, in either layout."""

import math

import pytest
import torch
import torch.nn.functional as F

from pikavae.model import upsampling
from pikavae.model.upsampling import AddDoubled, Double, double_cells, upsample


def results(function, *inputs):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(out.shape, generator=generator).to(out.dtype)
    out.backward(gradient.contiguous(memory_format=layout_of(inputs[0])))
    return [out.detach(), *(tensor.grad for tensor in inputs)]


def layout_of(x):
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


def as_written(x, weight, bias, *, shortcut):
    double = F.interpolate(x, scale_factor=2.0, mode="nearest")
    out = F.conv2d(double, weight, bias, padding=1)
    return out + double if shortcut else out


@pytest.mark.parametrize("folded", [True, False], ids=["one step", "two steps"])
@pytest.mark.parametrize("shortcut", [True, False], ids=["shortcut", "plain"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(2, 5, 4, 7), (1, 3, 1, 1)], ids=str)
def test_both_ways_are_upsampling_and_convolution(folded, shortcut, layout, size, monkeypatch):
    monkeypatch.setattr(upsampling, "FOLDED_ON", frozenset({"cpu"} if folded else ()))
    generator = torch.Generator().manual_seed(0)
    channels = size[1]
    x = torch.randn(size, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(channels, channels, 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(channels, generator=generator, dtype=torch.float64)
    found = results(lambda *inputs: upsample(*inputs, shortcut=shortcut), x, weight, bias)
    expected = results(lambda *inputs: as_written(*inputs, shortcut=shortcut), x, weight, bias)
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-13, atol=1e-13)
    if size[2:] != (1, 1):  # one cell has no layout to keep
        assert all(value.is_contiguous(memory_format=layout) for value in found[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_gradient_of_a_cell_is_the_sum_over_its_copies(dtype, layout):
    """Whole numbers, whose sums every format holds: no rounding, no order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 5, generator=generator).to(dtype).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randint(-30, 30, (2, 3, 8, 10), generator=generator).to(dtype).contiguous(memory_format=layout)
    double = Double.apply(x)
    assert torch.equal(double, F.interpolate(x, scale_factor=2.0, mode="nearest"))
    double.backward(gradient)
    expected = gradient.double().unflatten(3, (5, 2)).unflatten(2, (4, 2)).sum(dim=(3, 5))
    assert torch.equal(x.grad.double(), expected)
    assert double.is_contiguous(memory_format=layout)
    assert x.grad.is_contiguous(memory_format=layout)
    out = torch.zeros_like(gradient, requires_grad=True)
    x.grad.zero_()
    added = AddDoubled.apply(out, x)
    added.backward(gradient)
    assert torch.equal(added, double)
    assert torch.equal(x.grad.double(), expected)
    assert torch.equal(out.grad, gradient)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(2, 5, 4, 7), (1, 3, 1, 6), (1, 3, 6, 1)], ids=str)
def test_doubled_cells_have_the_bits_and_layout_of_torchs_upsampling(dtype, layout, size):
    """Also those of numbers that no arithmetic keeps."""
    x = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(dtype).contiguous(memory_format=layout)
    x[0, 0, 0, 0], x[0, 1, 0, 0], x[0, 2, 0, 0] = math.nan, -math.inf, -0.0
    found, expected = double_cells(x), F.interpolate(x, scale_factor=2.0, mode="nearest")
    bits = {torch.float32: torch.int32}.get(dtype, torch.int16)
    assert torch.equal(found.view(bits), expected.view(bits))
    assert found.stride() == expected.stride()


def test_one_step_keeps_no_doubled_map():
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    weight, bias = torch.randn(4, 4, 3, 3), torch.randn(4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        upsample(x, weight.requires_grad_(), bias, shortcut=True)
    assert max(kept) == 4 * 4 * 16
