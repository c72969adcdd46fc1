"""The bytes that are alive at most, on fake tensors, against those of a real step."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from pikavae.config import ModelConfig
from pikavae.model import autoencoder
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.peak import LiveBytes, backpropagate

CONFIG = ModelConfig(channels=(16, 32), num_res_blocks=1, norm_groups=4, resample_shortcuts=True)


def peak_of_a_step(by, activations, *, bf16=False, gradients=False) -> tuple[int, int]:
    """Peak and rest of a step, whose backward pass is run `by` the engine or by ours."""
    with LiveBytes() as live:
        torch.manual_seed(0)
        model = AutoencoderKL(CONFIG).train()
        model.choose_activations(activations)
        if gradients:
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
        images = torch.rand(2, 3, 32, 32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            reconstructions, posterior = model(images)
        loss = F.mse_loss(reconstructions.float(), images) + posterior.kl().mean()
        nodes, one = [loss.grad_fn], torch.ones_like(loss)
        del posterior, reconstructions
        if by == "engine":
            torch.autograd.backward(loss, one)
            del loss
        else:
            del loss
            backpropagate(nodes.pop(), one)
        nodes.clear()
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
    return live.peak, live.now


@pytest.mark.parametrize("activations", ["keep", "recompute", "checkpoint"])
@pytest.mark.parametrize("bf16", [False, True], ids=["float32", "bf16"])
def test_peak_on_fake_tensors_is_that_of_autograds_engine_on_real_ones(activations, bf16, monkeypatch):
    monkeypatch.setattr(autoencoder, "RECOMPUTE_ABOVE", 0)
    expected = peak_of_a_step("engine", activations, bf16=bf16)
    with FakeTensorMode():
        found = peak_of_a_step("ours", activations, bf16=bf16)
    assert found == pytest.approx(expected, rel=0.01)
