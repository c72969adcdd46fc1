"""On CUDA: the norm's kernels at the sizes of a training, and a model with them against one without."""

import pytest
import torch
import torch.nn.functional as F

from pikavae.config import ModelConfig
from pikavae.model import attention, norm, upsampling
from pikavae.model.attention import attend
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.norm import normalise

from .test_layout import layers_that_change_it

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
LAST = torch.channels_last
EPS = 1e-6
SHAPES = {
    "256 px, batch 16": ((16, 128, 256, 256), 32),
    "bottleneck": ((16, 512, 32, 32), 32),
    "512 px, batch 1": ((1, 128, 512, 512), 32),
    "odd": ((3, 130, 37, 53), 2),
    "more than 2**31 numbers": ((65, 128, 512, 512), 32),
}
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def given(shape, dtype, offset=0.0):
    generator = torch.Generator(CUDA).manual_seed(0)
    x, weight, bias, gradient = (
        torch.randn(size, generator=generator, device=CUDA) for size in (shape, shape[1:2], shape[1:2], shape)
    )
    x, gradient = ((tensor + of).to(dtype, memory_format=LAST) for tensor, of in ((x, offset), (gradient, 0.0)))
    return [x, weight, bias], gradient


def results(inputs, gradient, groups):
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    y = normalise(*inputs, groups, EPS, True)[0]
    y.backward(gradient)
    return [y.detach(), *(tensor.grad for tensor in inputs)]


def by_float64(inputs, gradient, groups):
    """One picture at a time, which is all that float64 has room for."""
    _, weight, bias = inputs
    weight, bias = (tensor.double().requires_grad_() for tensor in (weight, bias))
    for picture, dy in zip(inputs[0], gradient, strict=True):
        x = picture[None].double().requires_grad_()
        y = F.silu(F.group_norm(x, groups, weight, bias, EPS))
        y.backward(dy[None].double())
        yield y.detach()[0], x.grad[0]
    yield weight.grad, bias.grad


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(("shape", "groups"), SHAPES.values(), ids=SHAPES)
def test_kernels_are_right_and_repeat_bit_for_bit(shape, groups, dtype):
    if shape[0] == 65 and dtype == torch.float32:
        pytest.skip("needs more memory than most cards have")
    inputs, gradient = given(shape, dtype)
    found = results(inputs, gradient, groups)
    for value, again in zip(found, results(inputs, gradient, groups), strict=True):
        assert torch.equal(value, again)
    *pictures, (dweight, dbias) = by_float64(inputs, gradient, groups)
    pairs = [(found[0][i], y) for i, (y, _) in enumerate(pictures)] + [
        (found[1][i], dx) for i, (_, dx) in enumerate(pictures)
    ]
    for value, expected in pairs:
        assert ((value.double() - expected).abs().max() / expected.abs().max()).item() < ROUNDING[dtype]
    for value, expected in ((found[2], dweight), (found[3], dbias)):
        assert ((value.double() - expected).abs().max() / expected.abs().max()).item() < 1e-4


def test_a_mean_far_from_zero_costs_no_more_than_its_rounding():
    inputs, gradient = given((2, 128, 64, 64), torch.float32, offset=1e3)
    found = results(inputs, gradient, 32)
    *pictures, _ = by_float64(inputs, gradient, 32)
    for i, (y, dx) in enumerate(pictures):
        torch.testing.assert_close(found[0][i].double(), y, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found[1][i].double(), dx, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # the backward thread's first call makes the context
@pytest.mark.parametrize("positions", [64, 1024, 6000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_attention_by_products_is_that_of_float64(positions, dtype, monkeypatch):
    tensors = [torch.randn(2, positions, 512, device=CUDA).to(dtype) for _ in range(4)]
    inputs = [tensor.detach().requires_grad_() for tensor in tensors[:3]]
    query, key, value = wide = [tensor.double().requires_grad_() for tensor in tensors[:3]]
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", 2 * 6000 * 2500)
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        attend(*inputs).backward(tensors[3])
    F.scaled_dot_product_attention(query, key, value).backward(tensors[3].double())
    tolerance = 0.02 if dtype.itemsize == 2 else 1e-4
    for found, expected in zip(inputs, wide, strict=True):
        error = (found.grad.double() - expected.grad).abs().max() / expected.grad.abs().max()
        assert error.item() < tolerance


CONFIG = ModelConfig(channels=(32, 64), num_res_blocks=1, norm_groups=8)


def gradients(model, forward=None):
    forward = model if forward is None else forward  # a compiled model has no truth value
    images = torch.rand(4, 3, 64, 64, device=CUDA, generator=torch.Generator(CUDA).manual_seed(1))
    images = images.contiguous(memory_format=LAST)
    model.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        reconstructions, posterior = forward(images, torch.ones(4, 4, 32, 32, device=CUDA))
    ((reconstructions.float() - images).square().mean() + 1e-3 * posterior.kl().mean()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoencoderKL(CONFIG).to(CUDA).to(memory_format=LAST).train()


def assert_alike(found, expected, tolerance=0.05):
    """Alike as a whole: one by one, gradients of bf16 differ where sums cancel."""
    for name, reference in expected.items():
        if "to_k.bias" not in name:  # zero but for rounding
            assert (found[name] - reference).norm() < tolerance * reference.norm(), name


def test_gradients_of_a_model_are_those_without_the_kernels(model, monkeypatch):
    found, again = gradients(model), gradients(model)
    assert norm.uses_operator(torch.zeros(1, 4, 2, 2, device=CUDA))
    monkeypatch.setattr(norm, "uses_operator", lambda x: False)
    assert_alike(found, gradients(model))
    assert_alike(again, found, 1e-2)


@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # the compiler does, in torch 2.11
def test_a_compiled_model_keeps_the_operator_and_its_gradients(model):
    expected = gradients(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)  # refuses a break in the graph
    assert_alike(gradients(model, compiled), expected)


def test_the_layout_is_the_same_whatever_enters(model):
    model = model.to(memory_format=torch.contiguous_format).eval()

    def run():
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            model.decode(model.encode(torch.rand(2, 3, 64, 64, device=CUDA)).mode().contiguous())

    assert {name for name, _ in layers_that_change_it(model, run)} <= {"", "encoder", "decoder", "post_quant_conv"}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # the pictures need no gradient
@pytest.mark.parametrize("folded", [True, False], ids=["one step", "two steps"])
def test_no_layer_changes_the_layout(model, folded, monkeypatch):
    monkeypatch.setattr(upsampling, "FOLDED_ON", frozenset({"cuda"} if folded else ()))

    def run():
        images = torch.rand(2, 3, 64, 64, device=CUDA).contiguous(memory_format=LAST)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            reconstructions, _ = model(images)
        reconstructions.backward(torch.rand_like(reconstructions, memory_format=LAST))

    assert layers_that_change_it(model, run) == []
