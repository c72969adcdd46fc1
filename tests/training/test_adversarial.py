"""The discriminator, its losses, the adaptive weight and the phases."""

import pytest
import torch
from torch import nn

from pikavae.config import LossConfig, ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.adversarial import (
    adaptive_weight,
    adversarial_phase,
    hinge_discriminator,
    hinge_generator,
    new_discriminator,
    overflow_if,
)


@pytest.fixture(scope="module")
def discriminator():
    return new_discriminator(0)


def pictures(batch: int = 2, side: int = 32, seed: int = 0):
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def tiny_model() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4))


def test_the_discriminator_has_the_shapes_of_pix2pix(discriminator):
    convolutions = [module for module in discriminator.layers if isinstance(module, nn.Conv2d)]
    assert [tuple(module.weight.shape) for module in convolutions] == [
        (64, 3, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4), (512, 256, 4, 4), (1, 512, 4, 4),
    ]  # fmt: skip
    assert [module.stride[0] for module in convolutions] == [2, 2, 2, 1, 1]
    assert discriminator(pictures(1, 64)).shape == (1, 1, 6, 6)
    assert discriminator(pictures(1, 24)).shape == (1, 1, 1, 1)


def test_each_logit_sees_a_patch_of_70_pixels(discriminator):
    picture = pictures(1, 128).requires_grad_()
    # GroupNorm's statistics are of the whole picture; without them the field is the convolutions' alone
    bare = nn.Sequential(*(module for module in discriminator.layers if not isinstance(module, nn.GroupNorm)))
    bare(picture)[0, 0, 7, 7].backward()
    rows = picture.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 70


def test_the_initial_weights_are_a_function_of_the_seed_and_draw_from_no_global_generator():
    before = torch.random.get_rng_state()
    first, again, other = new_discriminator(3), new_discriminator(3), new_discriminator(4)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
    assert not torch.equal(first.get_parameter("layers.0.weight"), other.get_parameter("layers.0.weight"))


def test_the_initial_weights_are_distributed_as_in_pix2pix(discriminator):
    for module in discriminator.layers:
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert module.weight.mean().item() == pytest.approx(0.0, abs=2e-3)
        if isinstance(module, nn.GroupNorm):
            assert module.weight.mean().item() == pytest.approx(1.0, abs=0.01)
        if getattr(module, "bias", None) is not None:
            assert not module.bias.any()


def test_a_picture_has_the_logits_it_has_alone_whatever_its_batch(discriminator):
    batch = pictures(4)
    alone = torch.cat([discriminator(picture[None]) for picture in batch])
    torch.testing.assert_close(discriminator(batch), alone, rtol=1e-5, atol=1e-6)


def test_two_processes_with_half_a_batch_each_have_the_gradient_of_the_whole():
    def gradients(*batches):
        module = new_discriminator(0)
        for real, fake in batches:
            (hinge_discriminator(module(real), module(fake)) / len(batches)).backward()
        return [parameter.grad for parameter in module.parameters()]

    real, fake = pictures(4, seed=1), pictures(4, seed=2)
    halves = gradients((real[:2], fake[:2]), (real[2:], fake[2:]))
    for half, whole in zip(halves, gradients((real, fake)), strict=True):
        torch.testing.assert_close(half, whole, rtol=1e-4, atol=1e-6)


def test_hinge_losses_have_their_closed_forms():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.5, 1.0])
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1.5 + 2) / 3))
    assert hinge_generator(fake).item() == pytest.approx(0.5 / 3)


def test_hinge_losses_are_float32():
    logits = torch.full((4,), 300.0, dtype=torch.float16)
    assert hinge_discriminator(logits, logits).dtype == torch.float32
    assert hinge_generator(logits).dtype == torch.float32


def test_the_discriminators_loss_moves_the_discriminator_alone():
    model, discriminator, images = tiny_model(), new_discriminator(0), pictures()
    reconstructions, _ = model(images)
    hinge_discriminator(discriminator(images), discriminator(reconstructions.detach())).backward()
    moved = {name for name, parameter in discriminator.named_parameters() if parameter.grad.any()}
    # at the start all logits lie within the margin, where the last bias's two gradients, -1/2 and 1/2, cancel
    assert {name for name, _ in discriminator.named_parameters()} - moved <= {"layers.11.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_generators_loss_moves_the_model_alone():
    model, discriminator, images = tiny_model(), new_discriminator(0).requires_grad_(False), pictures()
    reconstructions, _ = model(images)
    hinge_generator(discriminator(reconstructions)).backward()
    parts = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad.any()}
    assert parts == {"encoder", "quant_conv", "post_quant_conv", "decoder"}
    assert all(parameter.grad is None for parameter in discriminator.parameters())


@pytest.fixture
def layer():
    return nn.Parameter(torch.tensor([3.0, 4.0]))


def test_the_adaptive_weight_is_the_ratio_of_the_gradients_lengths(layer):
    reconstruction, adversarial = 0.5 * layer.square().sum(), -2.0 * layer[0]  # gradients (3, 4) and (-2, 0)
    weight = adaptive_weight(reconstruction, adversarial, layer, bound=10.0)
    assert weight.item() == pytest.approx(5.0 / 2.0, rel=1e-6)
    assert weight.dtype == torch.float32
    assert not weight.requires_grad
    assert layer.grad is None
    (reconstruction + weight * adversarial).backward()  # both graphs are still there


def test_the_adaptive_weight_is_that_of_vqgans_formula_on_a_decoder(discriminator):
    model, images = tiny_model(), pictures()
    reconstructions, _ = model(images)
    last = model.decoder.conv_out.weight
    reconstruction = (reconstructions - images).abs().mean()
    adversarial = hinge_generator(discriminator(reconstructions))
    of_reconstruction = torch.autograd.grad(reconstruction, last, retain_graph=True)[0]
    of_adversarial = torch.autograd.grad(adversarial, last, retain_graph=True)[0]
    expected = torch.norm(of_reconstruction) / (torch.norm(of_adversarial) + 1e-6)
    weight = adaptive_weight(reconstruction, adversarial, last, bound=1e6)
    assert weight.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_adaptive_weight_is_bounded(layer):
    assert adaptive_weight(layer.sum(), 1e-3 * layer.sum(), layer, bound=7.0).item() == 7.0
    assert adaptive_weight(layer.sum(), 0.0 * layer.sum(), layer, bound=7.0).item() == 7.0
    assert adaptive_weight(0.0 * layer.sum(), 0.0 * layer.sum(), layer, bound=7.0).item() == 0.0


@pytest.mark.parametrize("factors", [("inf", "1"), ("1", "inf"), ("nan", "1"), ("1", "nan"), ("inf", "inf")])
def test_a_gradient_that_is_not_finite_gives_no_weight(layer, factors):
    reconstruction, adversarial = (float(factor) * layer.sum() for factor in factors)
    assert adaptive_weight(reconstruction, adversarial, layer, bound=7.0).isnan()


@pytest.mark.parametrize("overflowed", [True, False])
def test_an_overflow_found_before_the_backward_pass_is_found_by_the_loss_scaler(layer, overflowed):
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([layer], lr=0.1)
    zero = overflow_if(torch.tensor(overflowed), layer)
    assert zero.item() == 0.0
    scaler.scale(layer.square().sum() + zero).backward()
    before, scale = layer.detach().clone(), scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer, before) == overflowed
    assert (scaler.get_scale() < scale) == overflowed


def test_lengths_beyond_float32_give_no_weight(layer):
    assert adaptive_weight(1e30 * layer.sum(), 1e30 * layer.sum(), layer, bound=7.0).isnan()


def test_the_loss_scale_cancels_and_keeps_small_gradients_from_vanishing_in_fp16():
    layer = nn.Parameter(torch.tensor([1.0, 1.0]))

    def weight(scale):
        half = layer.half()  # gradients pass through fp16, whose least number is 6e-8
        return adaptive_weight(half.float().sum() * 3e-9, half.float().sum() * 1e-9, layer, bound=10.0, scale=scale)

    assert weight(1.0).item() == 0.0
    exact = 3e-9 / (1e-9 + 1e-6 / 2**0.5)
    assert weight(2.0**16).item() == pytest.approx(exact, rel=1e-2)


def test_both_gradients_are_averaged_over_the_processes_before_their_lengths_are_taken(layer):
    other = torch.tensor([[-1.0, 0.0], [0.0, 2.0]])  # the other process's gradients

    def mean(gradients):
        assert gradients.shape == (2, 2)
        return (gradients + other) / 2

    weight = adaptive_weight(layer[0], 2.0 * layer[1], layer, bound=10.0, reduce=mean)
    assert weight.item() == 0.0  # (1, 0) and (-1, 0) cancel
    weight = adaptive_weight(5.0 * layer[0], 2.0 * layer[1], layer, bound=10.0, reduce=mean)
    assert weight.item() == pytest.approx(2.0 / 2.0, rel=1e-6)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, (False, False)), (0.39, (False, False)), (0.4, (True, False)), (0.49, (True, False)), (0.5, (True, True)),
     (1.0, (True, True))],
)  # fmt: skip
def test_the_discriminator_learns_alone_before_the_autoencoder_sees_it(progress, expected):
    config = LossConfig(adversarial_weight=1.0, adversarial_start=0.4, adversarial_warmup=0.1)
    assert adversarial_phase(config, progress) == expected


def test_without_an_adversarial_weight_nothing_begins():
    assert adversarial_phase(LossConfig(adversarial_start=0.0, adversarial_warmup=0.0), 1.0) == (False, False)
