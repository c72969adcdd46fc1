"""More latent channels out of trained weights: the same pictures at the start, and gradients for what is new."""

import pytest
import torch

from pikavae.model.grow import NEW_LOGVAR, grow_latents
from tests.model.test_autoencoder import CONFIGS, with_random_weights

CHOSEN = {name: CONFIGS[name] for name in ("three levels", "no quant_conv", "one level")}
configs = pytest.mark.parametrize("config", CHOSEN.values(), ids=CHOSEN)


def pictures():
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@configs
@pytest.mark.parametrize("channels", [8, 16])
def test_pictures_and_old_channels_are_the_same_whatever_the_new_ones_hold(config, channels):
    model, images, before = with_random_weights(config), pictures(), config.latent_channels
    grown = grow_latents(model, channels)
    assert grown.config == config.model_copy(update={"latent_channels": channels})
    assert not grown.training
    with torch.inference_mode():
        old, new = model.encode(images), grown.encode(images)
        for name in ("mean", "logvar"):
            value = getattr(new, name)
            assert value.shape[1] == channels
            torch.testing.assert_close(value[:, :before], getattr(old, name), rtol=1e-6, atol=1e-6)
        expected = model.decode(old.mode())
        for latents in (new.mode(), torch.cat([old.mode(), 100 * torch.randn_like(new.mode())[:, before:]], dim=1)):
            torch.testing.assert_close(grown.decode(latents), expected, rtol=1e-6, atol=1e-6)


@configs
def test_new_channels_hold_something_and_have_a_sane_kl(config):
    model, images, before = with_random_weights(config), pictures(), config.latent_channels
    posterior = grow_latents(model, 16, seed=3).encode(images)
    means, logvars = posterior.mean[:, before:], posterior.logvar[:, before:]
    assert (means.std(dim=(0, 2, 3)) > 0.01).all()
    assert means.abs().max() < 10
    assert (logvars == NEW_LOGVAR).all()
    each = 0.5 * (means.square() + logvars.exp() - 1 - logvars)
    assert each.mean() < 5
    assert (grow_latents(model, 16, logvar=-2.0).encode(images).logvar[:, before:] == -2.0).all()


@configs
def test_the_first_step_reaches_what_is_new(config):
    model, images, before = with_random_weights(config), pictures(), config.latent_channels
    grown = grow_latents(model, 16).train()
    reconstruction, posterior = grown(images, torch.zeros(2, 16, *_latent(config, images)))
    ((reconstruction - images).square().mean() + posterior.kl().mean() * 1e-6).backward()
    columns = grown.decoder.conv_in.weight.grad
    assert columns is not None
    assert (columns[:, before:].abs().amax(dim=(0, 2, 3)) > 0).all()
    bias = grown.get_parameter("quant_conv.bias" if config.quant_conv else "encoder.conv_out.bias")
    assert bias.grad is not None
    assert (bias.grad[-(16 - before) :] != 0).all()


def _latent(config, images):
    return [side // config.downsampling_factor for side in images.shape[2:]]


def test_the_seed_decides_what_is_new():
    model = with_random_weights(CHOSEN["three levels"])
    states = [grow_latents(model, 8, seed=seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    differing = {name for name, value in states[0].items() if not torch.equal(value, states[2][name])}
    assert differing == {"encoder.conv_out.weight"}


def test_fewer_or_as_many_channels_are_refused():
    model = with_random_weights(CHOSEN["three levels"])
    for channels in (2, 3):
        with pytest.raises(ValueError, match="expected more than 3"):
            grow_latents(model, channels)
