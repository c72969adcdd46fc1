"""The loss's terms against closed forms and torchmetrics, and which weights each of them moves."""

import math

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from pikavae.config import LossConfig, ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.posterior import DiagonalGaussian
from pikavae.training.losses import (
    SMALLEST_SIDES,
    Term,
    autoencoder_terms,
    kl_weight_at,
    ms_ssim_loss,
    reconstruction_loss,
    smallest_side,
)

KINDS = ("mse", "l1", "charbonnier")


def smooth_pictures(seed: int, side: int = 176, batch: int = 2):
    cells = torch.rand(batch, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(cells, (side, side), mode="bilinear") * 2 - 1


def tiny_model() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, mid_attention=False))


def moved(model: AutoencoderKL) -> set[str]:
    """The parts of the model of which some weight has a gradient other than zero."""
    return {
        name.split(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }


@pytest.mark.parametrize(("kind", "expected"), [("mse", 0.25), ("l1", 0.5), ("charbonnier", math.sqrt(0.25 + 1e-6))])
def test_reconstruction_losses_have_their_closed_forms(kind, expected):
    images, reconstructions = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), -0.5)
    assert reconstruction_loss(kind, reconstructions, images).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("kind", "expected"), [("mse", 90000.0), ("l1", 300.0), ("charbonnier", 300.0)])
@pytest.mark.parametrize("autocast", [False, True])
def test_reconstruction_losses_are_float32_whatever_the_model_computes_in(kind, expected, autocast):
    reconstructions = torch.full((1, 3, 20, 20), 300.0, dtype=torch.float16)  # whose square fp16 cannot hold
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = reconstruction_loss(kind, reconstructions, torch.zeros_like(reconstructions))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_reconstructions_has_their_layout(kind, layout):
    """So that the last convolution's backward pass converts nothing; torch's own losses return the contiguous one."""
    reconstructions, images = (torch.rand(2, 3, 8, 12).contiguous(memory_format=layout) for _ in range(2))
    reconstructions.requires_grad_()
    loss = reconstruction_loss(kind, reconstructions, images)
    (gradient,) = torch.autograd.grad(loss, reconstructions)  # `backward` would lay it out like the leaf
    assert gradient.is_contiguous(memory_format=layout)


def test_charbonnier_has_a_gradient_without_a_jump_at_zero():
    difference = torch.zeros(1, 3, 2, 2, requires_grad=True)
    reconstruction_loss("charbonnier", difference, torch.zeros(1, 3, 2, 2)).backward()
    assert torch.equal(difference.grad, torch.zeros_like(difference))


@pytest.mark.parametrize("sides", [(176, 176), (177, 201)])
def test_ms_ssim_is_that_of_torchmetrics(sides):
    images = smooth_pictures(0, 201)[..., : sides[0], : sides[1]]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    ours = (0.8 * images + 0.1 * noise).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()

    loss = ms_ssim_loss(ours, images)
    expected = 1 - multiscale_structural_similarity_index_measure(theirs, images, data_range=2.0)
    loss.backward()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-9)


def test_ms_ssim_of_equal_pictures_is_no_loss():
    images = smooth_pictures(2)
    assert ms_ssim_loss(images, images).item() == pytest.approx(0.0, abs=1e-6)


def test_ms_ssim_teaches_where_a_scale_is_anticorrelated():
    images = smooth_pictures(3, batch=1)
    # fine detail as it should be, coarse structure upside down
    noise = 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    reconstructions = (noise - images).requires_grad_()
    loss = ms_ssim_loss(reconstructions, images + noise)
    assert multiscale_structural_similarity_index_measure(reconstructions, images + noise, data_range=2.0) == 0
    loss.backward()
    assert reconstructions.grad.isfinite().all()
    assert reconstructions.grad.any()


def test_ms_ssim_is_computed_in_float32_under_autocast():
    images, reconstructions = smooth_pictures(0), smooth_pictures(0) * 0.9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = ms_ssim_loss(reconstructions, images)
    assert within.dtype == torch.float32
    assert torch.equal(within, ms_ssim_loss(reconstructions, images))


@pytest.mark.parametrize("side", [160, 175])
def test_pictures_too_small_for_ms_ssim_are_refused(side):
    images = torch.zeros(1, 3, 256, side)
    with pytest.raises(UserError, match=rf"loss\.ms_ssim_weight.*256x{side}.*data\.image_size.*176") as caught:
        ms_ssim_loss(images, images)
    assert "\n" not in str(caught.value)


def test_the_smallest_side_is_that_of_the_most_demanding_term():
    assert smallest_side(LossConfig()) == 1
    assert smallest_side(LossConfig(perceptual_weight=1.0)) == 16
    assert smallest_side(LossConfig(perceptual_weight=1.0, adversarial_weight=1.0)) == 24
    assert smallest_side(LossConfig(ms_ssim_weight=0.1, perceptual_weight=1.0)) == 176


def test_kl_weight_rises_linearly_and_stays():
    config = LossConfig(kl_weight=0.5, kl_warmup=0.2)
    weights = [kl_weight_at(config, progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.7, 1.0)]
    assert weights == pytest.approx([0.0, 0.125, 0.25, 0.5, 0.5, 0.5])


def test_kl_weight_without_a_warmup_is_the_weight_from_the_start():
    assert kl_weight_at(LossConfig(kl_weight=0.5), 0.0) == 0.5


@pytest.mark.parametrize("kl_weight", [1e-8, 0.3, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_plain_loss_is_reconstruction_plus_weighted_kl_to_the_bit(kind, kl_weight):
    config = LossConfig(reconstruction=kind, kl_weight=kl_weight)
    images = smooth_pictures(0, 16)

    def gradients(total):
        model = tiny_model()
        reconstructions, posterior = model(images, noise=torch.ones(2, 4, 8, 8))
        loss = total(reconstructions, posterior)
        loss.backward()
        return [loss.detach(), *(parameter.grad for parameter in model.parameters())]

    def by_terms(reconstructions, posterior):
        terms = autoencoder_terms(config, images, reconstructions, posterior, 0.0, None)
        assert list(terms) == [kind, "kl_nats_per_image"]
        return sum(term.weighted for term in terms.values())

    def by_hand(reconstructions, posterior):
        return reconstruction_loss(kind, reconstructions, images) + kl_weight * posterior.kl().mean()

    for ours, expected in zip(gradients(by_terms), gradients(by_hand), strict=True):
        assert torch.equal(ours, expected)


def test_terms_come_raw_and_weighted_and_only_those_with_a_weight():
    class Distance(torch.nn.Module):
        def forward(self, reconstructions, images):
            return (reconstructions - images).abs().max()

    config = LossConfig(reconstruction="l1", ms_ssim_weight=0.5, perceptual_weight=3.0, kl_weight=0.25, kl_warmup=0.5)
    images, reconstructions = torch.zeros(1, 3, 176, 176), torch.ones(1, 3, 176, 176)
    posterior = DiagonalGaussian(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    terms = autoencoder_terms(config, images, reconstructions, posterior, 0.1, Distance())
    assert list(terms) == ["l1", "ms_ssim", "lpips", "kl_nats_per_image"]
    assert {name: term.weight for name, term in terms.items()} == pytest.approx(
        {"l1": 1.0, "ms_ssim": 0.5, "lpips": 3.0, "kl_nats_per_image": 0.05}
    )
    assert terms["kl_nats_per_image"].raw.item() == 8.0
    assert terms["kl_nats_per_image"].weighted.item() == pytest.approx(0.4)
    assert terms["lpips"].weighted.item() == 3.0


def test_a_weight_may_be_a_tensor():
    assert Term(torch.tensor(3.0), torch.tensor(0.5)).weighted.item() == 1.5


def test_pictures_too_small_for_lpips_are_refused():
    images, side = torch.zeros(1, 3, 8, 8), SMALLEST_SIDES["perceptual_weight"]
    posterior = DiagonalGaussian(torch.ones(1, 4, 2, 2), torch.zeros(1, 4, 2, 2))
    with pytest.raises(UserError, match=rf"loss\.perceptual_weight.*at least {side}"):
        autoencoder_terms(LossConfig(perceptual_weight=1.0), images, images, posterior, 0.0, torch.nn.Identity())


WHOLE = {"encoder", "quant_conv", "post_quant_conv", "decoder"}


@pytest.mark.parametrize(
    ("name", "config", "parts"),
    [
        ("mse", LossConfig(reconstruction="mse"), WHOLE),
        ("l1", LossConfig(reconstruction="l1"), WHOLE),
        ("charbonnier", LossConfig(reconstruction="charbonnier"), WHOLE),
        ("ms_ssim", LossConfig(ms_ssim_weight=1.0), WHOLE),
        ("kl_nats_per_image", LossConfig(), {"encoder", "quant_conv"}),
    ],
)
def test_each_term_moves_what_it_should_and_nothing_else(name, config, parts):
    side = max(16, smallest_side(config))
    model, images = tiny_model(), smooth_pictures(0, side, batch=1)
    reconstructions, posterior = model(images, noise=torch.zeros(1, 4, side // 2, side // 2))
    autoencoder_terms(config, images, reconstructions, posterior, 0.0, None)[name].raw.backward()
    assert moved(model) == parts
