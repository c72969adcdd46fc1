"""Losses, optimizers, schedule and order, each against a closed form or another implementation."""

import math

import pytest
import torch

from pikavae.config import ModelConfig, OptimizerConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.optimizers import build_optimizer, learning_rate_factor, split_for_muon
from pikavae.training.order import indices_at, noise_at


def test_muon_takes_the_hidden_weights_and_leaves_the_rest():
    model = AutoencoderKL(ModelConfig(channels=(8, 16), norm_groups=4))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    hidden, rest = ({names[id(p)] for p in group} for group in split_for_muon(model))
    assert hidden | rest == set(names.values())
    assert not hidden & rest
    assert {"encoder.conv_in.weight", "decoder.conv_out.weight", "quant_conv.weight"} <= rest
    assert "decoder.up_blocks.1.resnets.0.conv_shortcut.weight" in rest
    assert {"encoder.conv_out.weight", "decoder.conv_in.weight", "encoder.mid_block.attentions.0.to_q.weight"} <= hidden
    assert all(name.endswith("weight") for name in hidden)


def test_muon_steps_are_orthogonal_and_of_the_configured_size():
    """The update of a hidden matrix has singular values near the rate times sqrt(max(1, out/in))."""
    model = AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4))
    optimizer = build_optimizer(model, OptimizerConfig(name="muon", learning_rate=0.01, weight_decay=0.0))
    weight = model.get_parameter("decoder.mid_block.resnets.0.conv1.weight")
    before = weight.detach().clone()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    singular_values = torch.linalg.svdvals((before - weight.detach()).flatten(1)) / 0.01
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3


def test_learning_rate_rises_linearly_then_falls_as_a_cosine():
    config = OptimizerConfig(warmup_steps=4, schedule="cosine", final_fraction=0.1)
    assert [learning_rate_factor(config, step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert learning_rate_factor(config, 50, 0.5) == pytest.approx(0.55)
    assert learning_rate_factor(config, 100, 1.0) == pytest.approx(0.1)
    assert learning_rate_factor(config, 25, 0.25) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate_factor(OptimizerConfig(), 10, 0.7) == 1.0


def test_every_epoch_shows_every_picture_once_in_another_order():
    stream = indices_at(0, 30, num_images=10, seed=0)
    epochs = [stream[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("size", [1, 3, 4, 7, 25])
def test_the_order_does_not_depend_on_the_batch_size(size):
    pieces = [indices_at(position, size, num_images=10, seed=3) for position in range(0, 100, size)]
    assert [i for piece in pieces for i in piece][:100] == indices_at(0, 100, num_images=10, seed=3)
    assert indices_at(0, 10, num_images=10, seed=4) != indices_at(0, 10, num_images=10, seed=3)


def test_noise_belongs_to_the_picture_not_to_the_batch():
    together = noise_at(5, 3, shape=(4, 2, 2), seed=0)
    alone = torch.cat([noise_at(position, 1, shape=(4, 2, 2), seed=0) for position in (5, 6, 7)])
    assert torch.equal(together, alone)
    assert not torch.equal(together[0], together[1])
    many = noise_at(0, 500, shape=(4, 8, 8), seed=0)
    assert many.mean().item() == pytest.approx(0.0, abs=0.01)
    assert many.std().item() == pytest.approx(1.0, abs=0.01)
