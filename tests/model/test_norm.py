"""The operator of GroupNorm and SiLU against float64: on a GPU if there is one, else in Triton's interpreter."""

import sys

import pytest
import torch
import torch.nn.functional as F
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from pikavae.model import norm
from pikavae.model.norm import GroupNorm, differentiate, group_norm, normalise

pytest.importorskip("triton")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = 1e-6
LAST = torch.channels_last
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}
"""The largest error over the largest number. The interpreter cuts where a GPU rounds: a whole step of half formats."""


def tensors(shape, dtype=torch.float32, *, offset=0.0, scale=1.0):
    """A map, weight, bias, and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, gradient = (
        torch.randn(size, generator=generator) for size in (shape, shape[1:2], shape[1:2], shape)
    )
    x = (scale * x + offset).to(DEVICE, dtype, memory_format=LAST)
    return x, weight.to(DEVICE), bias.to(DEVICE), gradient.to(DEVICE, dtype, memory_format=LAST)


def results(function, x, weight, bias, gradient):
    """What `function` gives and the gradients of what it was given, by name."""
    inputs = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    y = function(*inputs)
    y.backward(gradient)
    return dict(zip(("y", "dx", "dweight", "dbias"), (y.detach(), *(i.grad for i in inputs)), strict=True))


def by_operator(groups, activate=True):
    return lambda x, weight, bias: normalise(x, weight, bias, groups, EPS, activate)[0]


def by_torch(groups, activate=True):
    def function(x, weight, bias):
        y = F.group_norm(x, groups, weight, bias, EPS)
        return F.silu(y) if activate else y

    return function


def assert_near_float64(given, groups, activate=True, *, rounding=None, function=None):
    """Compare the result and every gradient; sums of many numbers in half precision are float32."""
    found = results(function or by_operator(groups, activate), *given)
    expected = results(by_torch(groups, activate), *(tensor.double() for tensor in given))
    for name, value in found.items():
        dtype = given[1 if name in ("dweight", "dbias") else 0].dtype
        assert value.dtype == dtype, name
        error = (value.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-30)
        assert error.item() < (rounding or ROUNDING[dtype]), name
    return found


CASES = {
    "odd sizes": ((2, 12, 7, 9), 3),
    "one group": ((1, 10, 6, 5), 1),
    "two groups": ((2, 6, 1, 13), 2),
    "32 groups": ((1, 64, 5, 3), 32),
    "a group for each channel": ((2, 5, 8, 8), 5),
    "one pixel": ((3, 32, 1, 1), 8),
    "several parts, the last one short": ((1, 32, 19, 17), 4),
    "several runs of channels, groups across them": ((1, 130, 5, 13), 2),
    "both": ((2, 144, 10, 9), 12),
}


@pytest.mark.parametrize(("shape", "groups"), CASES.values(), ids=CASES)
def test_result_and_gradients_are_those_of_float64(shape, groups):
    found = assert_near_float64(tensors(shape), groups)
    assert found["y"].is_contiguous(memory_format=LAST)
    assert found["dx"].is_contiguous(memory_format=LAST)


def test_the_norm_alone_is_that_of_float64():
    assert_near_float64(tensors((2, 12, 7, 11)), 3, activate=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("activate", [True, False], ids=["with SiLU", "alone"])
def test_half_precision_rounds_only_what_is_written(dtype, activate):
    assert_near_float64(tensors((2, 12, 9, 9), dtype), 3, activate)


def test_weights_may_be_half_precision_too():
    x, weight, bias, gradient = tensors((2, 12, 5, 5), torch.bfloat16)
    assert_near_float64((x, weight.bfloat16(), bias.bfloat16(), gradient), 3)


@pytest.mark.parametrize("offset", [1e3, -3e4])
def test_a_mean_far_from_zero_costs_no_more_than_its_rounding(offset):
    """The sum of squares would lose 1e6 to 1e9 times a number's rounding, which torch's own does on a CPU."""
    rounding = 8 * torch.finfo(torch.float32).eps * abs(offset)  # a mean is a float32
    assert_near_float64(tensors((1, 8, 20, 17), offset=offset), 2, rounding=rounding)
    if offset == 1e3 and DEVICE.type == "cpu":
        with pytest.raises(AssertionError):
            assert_near_float64(tensors((1, 8, 20, 17), offset=offset), 2, rounding=rounding, function=by_torch(2))


def test_a_map_of_one_value_gives_the_bias_and_no_gradient():
    x, weight, bias, gradient = tensors((1, 4, 6, 6), scale=0.0, offset=7.0)
    found = results(by_operator(2, activate=False), x, weight, bias, gradient)
    assert torch.equal(found["y"], bias[:, None, None].expand_as(x))
    assert found["dweight"].abs().max() == 0


def test_large_activations_overflow_nowhere():
    x, weight, bias, gradient = tensors((1, 4, 6, 6))
    found = results(by_operator(2), x, 1e4 * weight, bias, gradient)
    assert all(value.isfinite().all() for value in found.values())
    assert found["y"].min() > -0.3  # the least value of SiLU


def test_numbers_that_are_not_finite_stay_visible():
    x, weight, bias, _ = tensors((1, 4, 3, 3))
    x[0, 0, 1, 1] = float("nan")
    y = by_operator(2)(x, weight, bias)
    assert y[:, :2].isnan().all()
    assert y[:, 2:].isfinite().all()


def test_two_runs_and_other_batches_give_the_same_bits():
    given = tensors((3, 8, 18, 17))
    first, second = (results(by_operator(2), *given) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    x, weight, bias, gradient = given
    alone = results(by_operator(2), x[1:2], weight, bias, gradient[1:2])
    assert torch.equal(alone["y"], first["y"][1:2])
    assert torch.equal(alone["dx"], first["dx"][1:2])


def test_only_the_input_and_two_numbers_a_group_are_kept():
    x, weight, bias, _ = (tensor.requires_grad_() for tensor in tensors((2, 8, 6, 6), torch.bfloat16))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.nbytes) or tensor, lambda x: x):
        by_operator(2)(x, weight, bias)
    assert sum(kept) == x.nbytes + weight.nbytes + bias.nbytes + 2 * 2 * 2 * 4


@pytest.fixture
def by_kernels(monkeypatch):
    """Kernels wherever they can run, the interpreter too."""
    monkeypatch.setattr(norm, "uses_operator", lambda x: True)


def by_group_norm(x, weight, bias):
    return group_norm(x, weight, bias, 2, EPS, activate=True)


@pytest.mark.usefixtures("by_kernels")
def test_other_layouts_are_converted():
    x, weight, bias, gradient = (tensor.contiguous() for tensor in tensors((2, 8, 5, 7)))
    assert not x.is_contiguous(memory_format=LAST)
    found = assert_near_float64((x, weight, bias, gradient), 2, function=by_group_norm)
    assert found["y"].is_contiguous(memory_format=LAST)
    x, gradient = x.transpose(2, 3), gradient[:, :, :1, :1].expand(2, 8, 7, 5)
    assert_near_float64((x, weight, bias, gradient), 2, function=by_group_norm)


@pytest.mark.usefixtures("by_kernels")
def test_under_autocast_a_map_keeps_its_type_and_gradients_reach_every_weight():
    """The next convolution gets the numbers that it gets from torch, which returns float32 and rounds then."""
    active_norm = GroupNorm(2, 8, EPS, activate=True)
    layers = torch.nn.ModuleList([torch.nn.Conv2d(3, 8, 1), active_norm, torch.nn.Conv2d(8, 2, 1)])
    layers = layers.to(DEVICE).to(memory_format=LAST)
    images = tensors((2, 3, 4, 6))[0]
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        features = layers[0](images)
        active = layers[1](features)
        out = layers[2](active)
        expected = F.silu(F.group_norm(features.float(), 2, active_norm.weight, active_norm.bias, EPS))
    assert active.dtype == out.dtype == torch.bfloat16
    torch.testing.assert_close(active.float(), expected, rtol=2**-7, atol=1e-6)
    out.float().square().mean().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layers.parameters())
    assert all(parameter.grad.abs().max() > 0 for parameter in layers.parameters())


@pytest.mark.parametrize(
    ("shape", "groups"), [((0, 4, 3, 3), 2), ((1, 4, 0, 3), 2), ((1, 5, 3, 3), 2), ((4, 3, 3), 3)], ids=str
)
def test_shapes_that_have_no_norm_are_refused(shape, groups):
    channels = shape[1]
    with pytest.raises((ValueError, RuntimeError), match=r"expected \(B, C, h, w\)"):
        normalise(torch.zeros(shape, device=DEVICE), torch.ones(channels), torch.zeros(channels), groups, EPS, True)


def test_other_types_and_layouts_are_refused():
    x, weight, bias, _ = tensors((1, 4, 3, 5))
    with pytest.raises(ValueError, match=r"torch\.float64"):
        normalise(x.double(), weight, bias, 2, EPS, True)
    with pytest.raises(ValueError, match="channels innermost"):
        normalise(x.contiguous(), weight, bias, 2, EPS, True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own access
def test_the_operator_keeps_the_rules_of_operators():
    """Schema, fake results, gradients and tracing, by torch's own checks."""
    x, weight, bias, gradient = tensors((1, 4, 3, 5))
    torch.library.opcheck(normalise, (x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), 2, EPS, True))
    with torch.no_grad():
        _, means, scales = normalise(x, weight, bias, 2, EPS, True)
        given = [tensor.detach() for tensor in (gradient, x, means, scales, weight, bias)]
    torch.library.opcheck(differentiate, (*given, 2, True))


@pytest.mark.usefixtures("by_kernels")
def test_a_compiler_keeps_the_operator_whole():
    """In one graph, forward and backward."""
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    layer = GroupNorm(2, 4, EPS, activate=True).to(DEVICE)
    x = tensors((1, 4, 3, 5))[0]
    expected = layer(x)
    compiled = torch.compile(layer, backend=aot_autograd(fw_compiler=backend, bw_compiler=backend), fullgraph=True)
    found = compiled(x.requires_grad_())
    found.sum().backward()
    assert torch.equal(found, expected)
    assert [name for name in seen if name.startswith("pikavae")] == [
        "pikavae.group_norm.default",
        "pikavae.group_norm_backward.default",
    ]


def test_without_triton_a_gpu_gets_the_plain_functions(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    norm._triton_can_compile.cache_clear()
    try:
        assert not norm.triton_can_compile()
    finally:
        norm._triton_can_compile.cache_clear()


def test_the_compiler_takes_the_machine_s_facts_as_constants():
    def fact():
        return True

    marked = vars(torch.compiler.assume_constant_result(fact))
    assert marked
    assert vars(norm.has_amx).items() >= marked.items() <= vars(norm.triton_can_compile).items()


def test_a_cpu_gets_the_plain_functions():
    layer, x = GroupNorm(2, 4, EPS, activate=True), torch.randn(1, 4, 3, 5)
    assert not norm.uses_operator(x)
    assert torch.equal(layer(x), F.silu(F.group_norm(x, 2, layer.weight, layer.bias, EPS)))
