"""What is computed again in the backward pass: the same numbers, and no convolution more than was asked for."""

from collections import Counter

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from pikavae.config import ModelConfig
from pikavae.model import autoencoder
from pikavae.model.autoencoder import AutoencoderKL

CONFIGS = {
    "three levels": ModelConfig(channels=(8, 16, 24), num_res_blocks=2, norm_groups=4),
    "shortcuts": ModelConfig(channels=(8, 8), num_res_blocks=1, norm_groups=4, resample_shortcuts=True),
    "no attention": ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, mid_attention=False),
}
WAYS = {"norms": ("recompute", 0), "layers": ("checkpoint", 2**20), "both": ("checkpoint", 0)}  # and elements above


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def make_model(config: ModelConfig) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(config).train()


def loss_of(model, images, *, bf16: bool = False):
    factor = 2 ** (len(model.config.channels) - 1) if hasattr(model, "config") else 2
    noise = torch.ones(2, 4, 16 // factor, 24 // factor)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        reconstructions, posterior = model(images, noise)
    return (reconstructions.float() - images).square().mean() + 1e-3 * posterior.kl().mean()


def gradients(model, images, *, bf16: bool = False) -> dict[str, torch.Tensor]:
    loss = loss_of(model, images, bf16=bf16)
    loss.backward()
    return {"loss": loss.detach()} | {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_bitwise_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_bitwise_those_of_a_plain_backward_pass(config, way, bf16, images, monkeypatch):
    expected = gradients(make_model(config), images, bf16=bf16)
    model = make_model(config)
    activations, above = way
    model.choose_activations(activations)
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", above)
    assert_bitwise_equal(gradients(model, images, bf16=bf16), expected)


class Convolutions(TorchDispatchMode):
    """Counts the forward convolutions that are run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.convolution.default
        return func(*args, **(kwargs or {}))


def convolutions_of_a_step(model, images, *, bf16: bool = False) -> int:
    with Convolutions() as counted:
        loss_of(model, images, bf16=bf16).backward()
    return counted.count


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_recomputed_norms_repeat_no_convolution(bf16, images, monkeypatch):
    model = make_model(CONFIGS["three levels"])
    plain = convolutions_of_a_step(model, images, bf16=bf16)
    model.choose_activations("recompute")
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    assert convolutions_of_a_step(model, images, bf16=bf16) == plain


def test_checkpointing_repeats_fewer_convolutions_than_there_are(images):
    model = make_model(CONFIGS["three levels"])
    plain = convolutions_of_a_step(model, images)
    model.choose_activations("checkpoint")
    assert plain < convolutions_of_a_step(model, images) < 2 * plain


@pytest.mark.parametrize("quiet", ["eval", "no grad"])
def test_nothing_is_kept_for_recomputation_outside_of_training(quiet, images, monkeypatch):
    model = make_model(CONFIGS["three levels"])
    model.choose_activations("checkpoint")
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    calls = Counter()
    monkeypatch.setattr(autoencoder, "checkpoint", lambda *args, **kwargs: calls.update(checkpoint=1))
    if quiet == "eval":
        loss_of(model.eval(), images).backward()
    else:
        with torch.no_grad():
            loss_of(model, images)
    assert not calls


def ways_of(model) -> set[str]:
    """What its modules keep."""
    return {way for module in model.modules() if (way := getattr(module, "activations", None))}


def test_everything_is_kept_at_first_and_the_choice_is_no_part_of_the_state():
    model = make_model(CONFIGS["no attention"])
    names = set(model.state_dict())
    assert ways_of(model) == {"keep"}
    model.choose_activations("checkpoint")
    assert ways_of(model) == {"checkpoint"}
    assert set(model.state_dict()) == names


def test_one_graph_gives_the_gradient_of_the_last_layer_twice(images, monkeypatch):
    """The adaptive weight of an adversarial loss asks for it before the step's own backward pass."""
    expected_model, model = make_model(CONFIGS["three levels"]), make_model(CONFIGS["three levels"])
    model.choose_activations("checkpoint")
    expected = gradients(expected_model, images)
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    loss, last = loss_of(model, images), model.decoder.conv_out.weight
    (first,) = torch.autograd.grad(loss, last, retain_graph=True)
    loss.backward()
    assert torch.equal(first, expected["decoder.conv_out.weight"])
    assert_bitwise_equal(
        {n: p.grad for n, p in model.named_parameters()}, {n: expected[n] for n in expected if n != "loss"}
    )


def test_a_frozen_encoder_gets_no_gradients_and_changes_no_others(images, monkeypatch):
    expected = gradients(make_model(CONFIGS["three levels"]), images)
    model = make_model(CONFIGS["three levels"])
    model.encoder.requires_grad_(False)
    model.choose_activations("checkpoint")
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    found = {name: grad for name, grad in gradients(model, images).items() if grad is not None}
    assert not any(name.startswith("encoder.") for name in found)
    assert_bitwise_equal(found, {name: expected[name] for name in found})


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_gradients_are_the_same_under_ddp(bf16, images, monkeypatch):
    config = CONFIGS["no attention"]
    expected = gradients(make_model(config), images, bf16=bf16)
    model = make_model(config)
    model.choose_activations("checkpoint")
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    found = gradients(DistributedDataParallel(model), images, bf16=bf16)
    assert_bitwise_equal({name.removeprefix("module."): value for name, value in found.items()}, expected)


@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("activations", ["keep", "recompute", "checkpoint"])
def test_a_compiler_takes_the_model_whole(activations, bf16, images, monkeypatch):
    """Traced without a break in the graph; the gradients are those of the plain model to rounding."""
    config = CONFIGS["no attention"]
    expected = gradients(make_model(config), images, bf16=bf16)
    model = make_model(config)
    model.choose_activations(activations)
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    found = gradients(torch.compile(model, backend="aot_eager", fullgraph=True), images, bf16=bf16)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name.removeprefix("_orig_mod.")])
