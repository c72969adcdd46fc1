"""Muon in batched products: the updates and the saved state of timm's, steps that the device refuses, and resuming."""

import copy
import functools
import math
from typing import Any

import pytest
import timm.optim.muon as timm_muon
import torch

from pikavae.config import ModelConfig, OptimizerConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training import muon
from pikavae.training.muon import Muon, is_orthogonalised, move_towards, orthogonalise
from pikavae.training.optimizers import build_optimizer, load_moments, split_for_muon, take_step

CONFIG = OptimizerConfig(name="muon", learning_rate=5e-3, weight_decay=0.02)
SIZES = ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, latent_channels=1)  # conv_in of one channel
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


def new_model(layout=torch.contiguous_format):
    torch.manual_seed(0)
    return AutoencoderKL(SIZES).to(memory_format=layout)


def timms(model, config=CONFIG):
    """As earlier versions built it."""
    hidden, rest = split_for_muon(model)
    own = {"lr": config.fallback_learning_rate, "peak_lr": config.fallback_learning_rate, "use_fallback": True}
    groups = [{"params": hidden, "lr": config.learning_rate, "peak_lr": config.learning_rate}, {"params": rest, **own}]
    options = {"momentum": config.momentum, "betas": config.betas, "eps": config.eps}
    return timm_muon.Muon(groups, nesterov=True, adjust_lr_fn="original", weight_decay=config.weight_decay, **options)


def give_gradients(model, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape, generator=generator) * 10.0 ** (step % 3)
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


def steps(model, optimizer, numbers):
    for number in numbers:
        give_gradients(model, number)
        optimizer.step()


def differences(model, reference, before):
    """The largest differences of weights beyond the weights' own rounding in six steps, by name.

    In units of the largest change since `before`.
    """
    found = {}
    for name, value in model.state_dict().items():
        apart = (value - reference[name]).abs() - 6 * torch.finfo(torch.float32).eps * reference[name].abs()
        found[name] = (apart.max() / (reference[name] - before[name]).abs().max()).item()
    return found


@pytest.fixture
def float32(monkeypatch):
    """Both iterations in float32, where a difference in mathematics would show."""
    monkeypatch.setattr(muon, "PRECISION", torch.float32)
    exact = functools.partial(timm_muon.zeropower_via_newtonschulz, dtype=torch.float32)
    monkeypatch.setattr(timm_muon, "zeropower_via_newtonschulz", exact)


@LAYOUTS
def test_updates_are_timms_to_rounding(float32, layout):
    """In float32, over six steps: sums are in another order, and five iterations enlarge small singular vectors."""
    ours, theirs = new_model(layout), new_model()
    before = copy.deepcopy(ours.state_dict())
    steps(ours, build_optimizer(ours, CONFIG), range(6))
    steps(theirs, timms(theirs), range(6))
    found = differences(ours, theirs.state_dict(), before)
    assert max(found.values()) < 2e-6, max(found.items(), key=lambda item: item[1])


def test_a_tall_matrix_takes_longer_steps_with_the_same_decay(float32):
    """Such as the decoder's first convolution, from 4 channels to 512."""
    options: dict[str, Any] = {"momentum": 0.95, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.5}
    first, *slopes = torch.randn(4, 64, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(first.clone()) for _ in range(2))
    optimizer = Muon([{"params": [ours], "lr": 0.05}], **options)
    reference = timm_muon.Muon([theirs], lr=0.05, nesterov=True, adjust_lr_fn="original", **options)
    for slope in slopes:
        ours.grad, theirs.grad = slope.clone(), slope.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@LAYOUTS
def test_updates_in_bf16_are_timms_to_its_rounding(layout):
    """A number of bf16 is right to 2**-9, and the iterations multiply such an error of a small vector by up to 3.4."""
    ours, theirs = new_model(layout), new_model()
    before = copy.deepcopy(ours.state_dict())
    steps(ours, build_optimizer(ours, CONFIG), range(6))
    steps(theirs, timms(theirs), range(6))
    found = differences(ours, theirs.state_dict(), before)
    assert max(found.values()) < 0.01, max(found.items(), key=lambda item: item[1])


@LAYOUTS
def test_a_state_of_timms_loads_and_goes_on(float32, layout):
    ours, theirs = new_model(layout), new_model()
    optimizer, reference = build_optimizer(ours, CONFIG), timms(theirs)
    steps(theirs, reference, range(3))
    ours.load_state_dict(theirs.state_dict())
    before = copy.deepcopy(ours.state_dict())
    load_moments(optimizer, copy.deepcopy(reference.state_dict()))
    steps(ours, optimizer, range(3, 6))
    steps(theirs, reference, range(3, 6))
    found = differences(ours, theirs.state_dict(), before)
    assert max(found.values()) < 2e-6, max(found.items(), key=lambda item: item[1])


@LAYOUTS
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_saved_state_goes_on_bit_for_bit(tmp_path, layout, name):
    config = CONFIG.model_copy(update={"name": name})
    undisturbed, resumed = new_model(layout), new_model(layout)
    first = build_optimizer(undisturbed, config)
    steps(undisturbed, first, range(3))
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    resumed.load_state_dict(undisturbed.state_dict())
    second = build_optimizer(resumed, config)
    load_moments(second, torch.load(tmp_path / "optimizer.pt", weights_only=True))
    steps(undisturbed, first, range(3, 6))
    steps(resumed, second, range(3, 6))
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in undisturbed.state_dict().items())


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_state_saved_in_another_layout_goes_on(float32, name):
    """As of a run on a GPU that is resumed on a CPU: fused optimizers would mix up the numbers without a word."""
    config = CONFIG.model_copy(update={"name": name})
    there, here = new_model(torch.channels_last), new_model()
    first, second = build_optimizer(there, config), build_optimizer(here, config)
    steps(there, first, range(3))
    here.load_state_dict(there.state_dict())
    before = copy.deepcopy(here.state_dict())
    load_moments(second, copy.deepcopy(first.state_dict()))
    steps(there, first, range(3, 6))
    steps(here, second, range(3, 6))
    assert max(differences(here, there.state_dict(), before).values()) < 2e-6


def test_what_a_group_computes_with_is_not_loaded():
    """An Adam of an earlier version was not fused."""
    weight = torch.nn.Parameter(torch.ones(3))
    before, now = torch.optim.Adam([weight]), torch.optim.Adam([weight], fused=True)
    weight.grad = torch.ones(3)
    before.step()
    load_moments(now, before.state_dict())
    assert now.param_groups[0]["fused"]
    now.step()
    assert now.state[weight]["step"].item() == 2


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_step_that_is_refused_changes_nothing(name):
    config = CONFIG.model_copy(update={"name": name})
    model, untouched = new_model(), new_model()
    optimizer, reference = build_optimizer(model, config), build_optimizer(untouched, config)
    for number in range(4):
        give_gradients(model, number)
        if refused := number == 2:
            for parameter in model.parameters():
                parameter.grad.view(-1)[0] = math.nan
        take_step(optimizer, torch.tensor(float(refused)))
        if not refused:
            steps(untouched, reference, [number])
    assert all(torch.equal(value, untouched.state_dict()[key]) for key, value in model.state_dict().items())
    ours, theirs = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert all(
        torch.equal(value, theirs[number][key]) for number, state in ours.items() for key, value in state.items()
    )


@pytest.mark.parametrize(
    "shape",
    [
        (16, 3, 3, 3),
        (16, 1, 3, 3),
        (1, 16, 3, 3),
        (3, 4),
        (4, 4),
        (4, 512),
        (4, 513),
        (8, 64, 3, 3),
        (8, 512, 3, 3),
        (9,),
    ],
    ids=str,
)
def test_timm_orthogonalises_the_same_weights(shape):
    assert is_orthogonalised(torch.Size(shape)) is timm_muon._is_suitable_for_muon(torch.empty(shape))


def test_each_matrix_of_a_batch_is_orthogonalised_alone():
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(3, 20, 12, generator=generator)
    together = orthogonalise(batch, 1e-8).float()
    for found, matrix in zip(together, batch, strict=True):
        torch.testing.assert_close(found, orthogonalise(matrix[None], 1e-8)[0].float(), rtol=0, atol=2**-8)
        values = torch.linalg.svdvals(found)
        assert 0.6 < values.min() <= values.max() < 1.3
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 4), 1e-8), torch.zeros(1, 4, 4, dtype=torch.bfloat16))


def test_moving_towards_a_target_is_a_linear_interpolation():
    generator = torch.Generator().manual_seed(0)
    tensors, targets = ([torch.randn(size, generator=generator) for size in (7, (4, 5))] for _ in range(2))
    expected = [tensor.double().lerp(target.double(), 0.3) for tensor, target in zip(tensors, targets, strict=True)]
    move_towards(tensors, targets, 0.3, None)
    for tensor, value in zip(tensors, expected, strict=True):
        torch.testing.assert_close(tensor.double(), value, rtol=1e-6, atol=1e-6)


def test_a_weight_without_a_gradient_is_an_error():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([{"params": [weight], "lr": 0.1}], momentum=0.9, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0)
    with pytest.raises(AssertionError, match="needs a gradient"):
        optimizer.step()
