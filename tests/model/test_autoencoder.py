"""The autoencoder against diffusers' own, closed forms, and its bounds."""

import itertools

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from torch.distributions import Normal, kl_divergence

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.fold import fold, unfold
from pikavae.model.posterior import DiagonalGaussian
from pikavae.model.snapshot import diffusers_config

SMALL = ModelConfig(channels=(8, 16, 24), num_res_blocks=2, latent_channels=3, norm_groups=4)


def with_random_weights(config: ModelConfig, seed: int = 0) -> AutoencoderKL:
    """Every weight random, norms and zero-initialised layers too, so that each path changes the output."""
    model = AutoencoderKL(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return model.eval()


def in_diffusers(model: AutoencoderKL) -> DiffusersAutoencoderKL:
    config = {key: value for key, value in diffusers_config(model.config, 64).items() if not key.startswith("_")}
    other = DiffusersAutoencoderKL(**config)
    other.load_state_dict(model.state_dict())  # strict: the names are the same
    return other.eval()


def test_stable_diffusion_configuration_has_its_number_of_parameters():
    with torch.device("meta"):
        model = AutoencoderKL(ModelConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 83_653_863


CONFIGS = {
    "three levels": SMALL,
    "one level": ModelConfig(channels=(8,), num_res_blocks=1, norm_groups=4),
    "equal widths": ModelConfig(channels=(8, 8), num_res_blocks=1, norm_groups=2),
    "shrinking widths": ModelConfig(channels=(16, 8), num_res_blocks=3, norm_groups=4),
    "no attention": ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, mid_attention=False),
    "no quant_conv": ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, quant_conv=False),
    "four levels": ModelConfig(channels=(4, 8, 12, 12), num_res_blocks=2, latent_channels=4, norm_groups=4),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (3, 24, 40)])
def test_encode_and_decode_agree_with_diffusers(config, batch, height, width):
    model = with_random_weights(config)
    other = in_diffusers(model)
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        posterior, expected = model.encode(images), other.encode(images).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean)
        torch.testing.assert_close(posterior.logvar, expected.logvar)
        torch.testing.assert_close(posterior.kl(), expected.kl())
        latents = posterior.mode().double()  # what float32 rounds off depends on the processor
        torch.testing.assert_close(model.double().decode(latents), other.double().decode(latents).sample)


def test_every_parameter_changes_the_output():
    """So that agreement with diffusers cannot hide a path that is never taken."""
    model = with_random_weights(SMALL)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    reconstruction, posterior = model(images, torch.ones(2, 3, 4, 6))
    (reconstruction.square().mean() + posterior.kl().mean()).backward()
    # A bias that reaches every key alike moves all attention scores of a query alike, and softmax does not see that.
    silent = {name for name, parameter in model.named_parameters() if parameter.grad.abs().max() < 1e-6}
    assert silent <= {f"{side}.mid_block.attentions.0.to_k.bias" for side in ("encoder", "decoder")}


def test_forward_samples_with_the_noise_it_is_given():
    model = with_random_weights(SMALL)
    images, noise = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 4, 4)
    reconstruction, posterior = model(images, noise)
    by_hand = model.decode(posterior.mean + posterior.logvar.mul(0.5).exp() * noise)
    torch.testing.assert_close(reconstruction, by_hand)
    assert not torch.allclose(reconstruction, model.decode(posterior.mode()))


def test_posterior_kl_is_that_of_torch_distributions():
    mean, logvar = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 6)
    posterior = DiagonalGaussian.from_moments(torch.cat([mean, logvar], dim=1))
    expected = kl_divergence(Normal(mean, logvar.mul(0.5).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(posterior.kl(), expected)
    assert DiagonalGaussian(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).kl().item() == 0.0


def test_posterior_is_float32_and_bounded_whatever_the_moments():
    posterior = DiagonalGaussian.from_moments(torch.full((1, 2, 1, 1), 1e4, dtype=torch.float16))
    assert posterior.mean.dtype == posterior.logvar.dtype == torch.float32
    assert posterior.logvar.item() == 20.0


def test_samples_have_the_posteriors_moments_and_repeat_with_the_generator():
    posterior = DiagonalGaussian(torch.full((1, 1, 200, 200), 0.5), torch.full((1, 1, 200, 200), -2.0))
    sample = posterior.sample(torch.Generator().manual_seed(0))
    assert sample.mean().item() == pytest.approx(0.5, abs=0.01)
    assert sample.std().item() == pytest.approx(torch.tensor(-1.0).exp().item(), rel=0.02)
    assert torch.equal(sample, posterior.sample(torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("shape", [(1, 3, 18, 16), (1, 3, 16, 18), (1, 4, 16, 16), (3, 16, 16)])
def test_pictures_of_a_wrong_shape_are_refused_with_the_remedy(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        AutoencoderKL(SMALL).encode(torch.zeros(shape))


@pytest.mark.parametrize("num_levels", [2, 4])
def test_folding_shortcuts_into_convolutions_changes_no_output(num_levels):
    config = ModelConfig(channels=(8, 12, 16, 16)[:num_levels], norm_groups=4, resample_shortcuts=True)
    model = with_random_weights(config)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    noise = torch.randn(2, 4, 16 >> (num_levels - 1), 24 >> (num_levels - 1))
    with torch.inference_mode():
        expected, _ = model(images, noise)
        folded = fold(model)
        torch.testing.assert_close(folded(images, noise)[0], expected)
        torch.testing.assert_close(in_diffusers(folded).decode(noise).sample, model.decode(noise))
        assert not folded.config.resample_shortcuts
        back = unfold(folded)
        torch.testing.assert_close(back(images, noise)[0], expected)
    for (name, before), after in zip(model.named_parameters(), back.parameters(), strict=True):
        torch.testing.assert_close(after, before, msg=name)


def test_fold_leaves_the_model_it_was_given_alone():
    model = with_random_weights(ModelConfig(channels=(8, 16), norm_groups=4, resample_shortcuts=True))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in itertools.chain(fold(model).parameters(), fold(fold(model)).parameters()):
        parameter.data.zero_()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_zero_initialised_residuals_start_as_the_identity():
    model = AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4, zero_init_residuals=True))
    features = torch.randn(2, 8, 8, 8)
    torch.testing.assert_close(model.encoder.mid_block(features), features)
    assert not torch.allclose(
        AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4)).encoder.mid_block(features), features
    )


@pytest.mark.parametrize("quant_conv", [True, False])
def test_log_variance_starts_near_the_configured_value(quant_conv):
    model = AutoencoderKL(ModelConfig(channels=(8, 16), norm_groups=4, initial_logvar=-6.0, quant_conv=quant_conv))
    logvar = model.encode(torch.rand(2, 3, 32, 32) * 2 - 1).logvar
    assert logvar.mean().item() == pytest.approx(-6.0, abs=0.3)


@pytest.mark.slow
def test_full_configuration_agrees_with_diffusers():
    model = with_random_weights(ModelConfig())
    other = in_diffusers(model)
    images = torch.rand(1, 3, 64, 96) * 2 - 1
    with torch.inference_mode():
        latents = model.encode(images).mode()
        torch.testing.assert_close(latents, other.encode(images).latent_dist.mode())
        torch.testing.assert_close(model.decode(latents), other.decode(latents).sample)
