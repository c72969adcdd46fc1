"""One layout all the way: with the channels innermost, no layer changes that of its input, output or gradients."""

import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.model import autoencoder, norm, upsampling
from pikavae.model.autoencoder import AutoencoderKL

LAST = torch.channels_last


def is_last(tensor):
    """Maps with the channels innermost, positions (B, N, C) too."""
    return tensor.is_contiguous(memory_format=LAST) if tensor.ndim == 4 else tensor.is_contiguous()


def layers_that_change_it(model, run):
    """The names of layers, with what about them has another layout."""
    changing = []

    def look(what, name, tensors):
        tensors = tensors if isinstance(tensors, tuple) else (tensors,)
        changing.extend((name, what) for tensor in tensors if torch.is_tensor(tensor) and not is_last(tensor))

    def watch(name, module):
        def forward(_, given, out):
            look("input", name, given)
            look("output", name, out)

        def backward(_, grad_input, grad_output):
            look("gradient of input", name, grad_input)
            look("gradient of output", name, grad_output)

        module.register_forward_hook(forward)
        module.register_full_backward_hook(backward)

    for name, module in model.named_modules():
        watch(name, module)
    run()
    return changing


def step(model, dtype=None):
    """A pass in both directions; the gradient of the reconstructions has the layout of the pictures."""
    images = torch.rand(2, 3, 16, 24).contiguous(memory_format=LAST).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
        reconstructions, posterior = model(images)
    gradient = torch.rand_like(reconstructions, memory_format=LAST)
    torch.autograd.backward([reconstructions, posterior.kl().mean()], [gradient, None])
    assert is_last(images.grad)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16"])
@pytest.mark.parametrize("folded", [True, False], ids=["one step", "two steps"])
@pytest.mark.parametrize("shortcuts", [True, False], ids=["shortcuts", "plain"])
def test_no_layer_changes_the_layout(dtype, folded, shortcuts, monkeypatch):
    monkeypatch.setattr(upsampling, "FOLDED_ON", frozenset({"cpu"} if folded else ()))
    config = ModelConfig(channels=(8, 16, 16), num_res_blocks=1, norm_groups=4, resample_shortcuts=shortcuts)
    model = AutoencoderKL(config).to(memory_format=LAST).train()
    assert layers_that_change_it(model, lambda: step(model, dtype)) == []


def test_what_enters_in_another_layout_is_converted_once(monkeypatch):
    """As on CUDA, where nobody has to convert pictures, latents or weights."""
    monkeypatch.setattr(autoencoder, "to_fastest_layout", lambda x: x.contiguous(memory_format=LAST))
    model = AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4)).eval()

    def run():
        with torch.no_grad():
            model.decode(model.encode(torch.rand(2, 3, 16, 24)).mode().contiguous())

    assert {name for name, _ in layers_that_change_it(model, run)} <= {"", "encoder", "decoder", "post_quant_conv"}


@pytest.mark.parametrize(
    ("amx", "autocast", "gradients", "last"),
    [(True, True, False, True), (True, False, False, False), (True, True, True, False), (False, True, False, False)],
)
def test_a_cpu_with_amx_computes_bf16_with_the_channels_innermost(amx, autocast, gradients, last, monkeypatch):
    monkeypatch.setattr(norm, "has_amx", lambda: amx)
    model = AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4)).eval()
    latents = torch.rand(2, 4, 8, 12)
    plain = model.decode(latents).detach()
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        decoded = model.decode(latents)
    assert is_last(decoded) == last
    assert (decoded.float() - plain).abs().max() < 0.05 * plain.abs().max()


@pytest.mark.parametrize("fact", [norm.has_amx, norm.triton_can_compile])
def test_facts_of_the_machine_are_constants_to_the_compiler(fact):
    """Traced, they would break the graph, or warn that their cache is ignored."""

    def forward(x):
        return x + 1 if fact() else x - 1

    compiled = torch.compile(forward, backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1)).item() == (1.0 if fact() else -1.0)


def test_weights_of_bf16_decide_too(monkeypatch):
    monkeypatch.setattr(norm, "has_amx", lambda: True)
    model = AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4)).eval().bfloat16()
    with torch.no_grad():
        assert is_last(model.decode(torch.rand(2, 4, 8, 12, dtype=torch.bfloat16)))


def test_a_layer_that_changes_it_is_found():
    model = AutoencoderKL(ModelConfig(channels=(8,), num_res_blocks=1, norm_groups=4, mid_attention=False))
    model = model.to(memory_format=LAST).train()
    norm = model.get_submodule("decoder.mid_block.resnets.0.norm2")
    forward = norm.forward
    norm.forward = lambda x: forward(x).contiguous()
    assert ("decoder.mid_block.resnets.0.norm2", "output") in layers_that_change_it(model, lambda: step(model))


def test_no_layer_changes_the_layout_with_the_kernels(monkeypatch):
    """A residual block and attention, whose norms the interpreter computes."""
    pytest.importorskip("triton")
    monkeypatch.setattr(norm, "uses_operator", lambda x: x.device.type == "cpu")
    config = ModelConfig(channels=(8,), num_res_blocks=1, norm_groups=4)
    model = AutoencoderKL(config).to(memory_format=LAST).decoder.mid_block.attentions[0]

    def run():
        x = torch.rand(1, 8, 3, 4).contiguous(memory_format=LAST).requires_grad_()
        out = model(x)
        out.backward(torch.rand_like(out))
        assert is_last(x.grad)

    assert layers_that_change_it(model, run) == []
