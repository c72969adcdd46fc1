"""Attention by products: softmax in float32 and every gradient, against float64 and against torch's fused kernel."""

import pytest
import torch
import torch.nn.functional as F

from pikavae.model import attention
from pikavae.model.attention import ProductsInParts, attend

SHAPES = {"few positions": (2, 6, 8), "one position": (3, 1, 4), "more positions than channels": (1, 40, 4)}


def given(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    query, key, value, gradient = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    return [query.mul_(3), key, value], gradient


def results(function, inputs, gradient):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    out = function(*inputs)
    out.backward(gradient)
    return [out.detach(), *(tensor.grad for tensor in inputs)]


def by_torch(query, key, value):
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_attention_and_its_gradients_are_those_of_float64(shape, dtype):
    inputs, gradient = given(shape, dtype)
    found = results(attend, inputs, gradient)
    expected = results(by_torch, [tensor.double() for tensor in inputs], gradient.double())
    tolerance = 8 * torch.finfo(dtype).eps
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(
            value.double(), reference, rtol=tolerance, atol=tolerance * reference.abs().max().item()
        )


def test_scores_are_not_rounded_under_autocast():
    """Scores of some hundreds, a softmax of which bf16 would change by tenths."""
    inputs, gradient = given((1, 30, 64), torch.bfloat16)
    inputs[0].mul_(10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(attend, inputs, gradient)
    expected = results(by_torch, [tensor.double() for tensor in inputs], gradient.double())
    for value, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(value.double(), reference, rtol=0.03, atol=0.03 * reference.abs().max().item())


def test_many_positions_go_to_the_fused_kernel(monkeypatch):
    inputs, gradient = given((2, 12, 8))
    products = results(attend, inputs, gradient)
    monkeypatch.setattr(attention, "PRODUCTS_UP_TO", 11)
    for value, expected in zip(results(attend, inputs, gradient), results(by_torch, inputs, gradient), strict=True):
        assert torch.equal(value, expected)
    for value, expected in zip(products, results(by_torch, inputs, gradient), strict=True):
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("at_once", [1, 2 * 12 * 5, 2 * 12 * 12], ids=["one query", "three parts", "all"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_attention_in_parts_is_that_of_float64(at_once, dtype, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", at_once)
    inputs, gradient = given((2, 12, 8), dtype)
    found = results(ProductsInParts.apply, inputs, gradient)
    expected = results(by_torch, [tensor.double() for tensor in inputs], gradient.double())
    tolerance = 8 * torch.finfo(dtype).eps
    for value, reference in zip(found, expected, strict=True):
        assert value.dtype == dtype
        torch.testing.assert_close(
            value.double(), reference, rtol=tolerance, atol=tolerance * reference.abs().max().item()
        )


def test_the_softmax_is_kept_in_the_inputs_type():
    inputs, _ = given((2, 50, 4), torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda x: x):
        attend(*(tensor.requires_grad_() for tensor in inputs))
    assert sum(kept) == 3 * inputs[0].nbytes + 2 * 50 * 50 * 2
