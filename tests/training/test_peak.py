"""The bytes that are alive at most, on fake tensors, against those of a real step."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pikavae.config import ModelConfig
from pikavae.model import autoencoder
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.peak import BLOCK, LiveBytes, SavedTensors, backpropagate

CONFIG = ModelConfig(channels=(16, 32), num_res_blocks=1, norm_groups=4, resample_shortcuts=True)
WAYS = ("keep", "recompute", "checkpoint")


def make_model(activations):
    torch.manual_seed(0)
    model = AutoencoderKL(CONFIG).train()
    model.choose_activations(activations)
    return model


def loss_of(model, *, bf16=False):
    images = torch.rand(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        reconstructions, posterior = model(images)
    return F.mse_loss(reconstructions.float(), images) + posterior.kl().mean()


def run_step(by, model, **options):
    """Run a step whose backward pass is run `by` the engine or by ours."""
    if by == "engine":
        loss_of(model, **options).backward()
        return
    saved = SavedTensors()
    with saved.kept():
        loss = loss_of(model, **options)
    node, one = loss.grad_fn, torch.ones_like(loss)
    del loss
    backpropagate(node, one, saved)


def peak_of_a_step(by, activations, *, bf16=False, gradients=False) -> tuple[int, int]:
    """Peak and rest of a step, whose backward pass is run `by` the engine or by ours."""
    with LiveBytes() as live:
        model = make_model(activations)
        if gradients:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        run_step(by, model, bf16=bf16)
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    return live.peak, live.now


@pytest.mark.parametrize("activations", WAYS)
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_peak_on_fake_tensors_is_that_of_autograds_engine_on_real_ones(activations, bf16, monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    expected = peak_of_a_step("engine", activations, bf16=bf16)
    with FakeTensorMode():
        found = peak_of_a_step("ours", activations, bf16=bf16)
    assert found == pytest.approx(expected, rel=0.01)


def test_a_peak_with_gradients_of_an_earlier_batch_is_that_of_the_engine():
    expected = peak_of_a_step("engine", "keep", gradients=True)
    with FakeTensorMode():
        found = peak_of_a_step("ours", "keep", gradients=True)
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("activations", WAYS)
def test_gradients_are_those_of_the_engine_and_are_added_to_earlier_ones(activations, monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    found = []
    for by in ("engine", "ours"):
        model = make_model(activations)
        for _ in range(2):
            run_step(by, model)
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(found[1], found[0])


def test_bytes_are_counted_in_blocks_of_the_allocator_while_they_are_alive():
    with LiveBytes(lambda name, *_: 5 if "zeros" in name else 7) as live:
        first = torch.zeros(BLOCK + 1, dtype=torch.uint8)
        part = first[:10]  # of the same storage
        second = torch.ones(3 * BLOCK, dtype=torch.uint8)
        assert live.now == 5 * BLOCK
        del first
        assert live.now == 5 * BLOCK
        del part
        assert live.now == 3 * BLOCK
        del second
    assert (live.now, live.peak) == (0, 5 * BLOCK + 7)
