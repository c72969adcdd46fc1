import math

import pytest
import torch
import torch.nn.functional as F

from pikavae.evaluation.studies.decoding import normal
from pikavae.evaluation.studies.smoothness import NOISES, POSTERIOR, smoothness
from pikavae.model.posterior import DiagonalGaussian

STDS = torch.tensor([0.5, 1.0, 2.0])
STD = 1.5
SLOPE = 0.01


def linear(latents):
    """Each channel a colour, twice as large: its gain is the same for every noise."""
    return SLOPE * F.interpolate(latents, scale_factor=2)


def posteriors(count=2, logvar=-4.0, side=32):
    means = torch.randn(count, 1, 3, side, side, generator=torch.Generator().manual_seed(1))
    return [DiagonalGaussian(mean, torch.full_like(mean, logvar)) for mean in means]


def test_a_linear_decoder_has_its_slope_as_gain_and_the_psnr_of_the_noise():
    given = posteriors()
    found = smoothness(linear, given, channel_stds=STDS, std=STD, seed=5)
    noise = [normal(one.mean.shape, 1, seed=5 + number)[0].double() for number, one in enumerate(given)]
    of_channels = STDS.double().view(3, 1, 1)
    for level in found.levels:
        scale = torch.tensor(math.exp(-2.0)) if isinstance(level.noise, str) else level.noise * of_channels
        rms = [(scale * one).square().mean().sqrt() for one in noise]
        assert level.latent_change == pytest.approx(torch.stack(rms).mean().item() / STD, rel=1e-4)
        assert level.gain == pytest.approx(SLOPE * STD, rel=1e-4)
        expected = [10 * math.log10(4 / (SLOPE * one).item() ** 2) for one in rms]
        assert level.psnr == pytest.approx(sum(expected) / len(expected), rel=1e-4)
    assert [level.noise for level in found.levels] == [*NOISES, POSTERIOR]


def test_a_decoder_that_jumps_has_the_higher_gain_for_little_noise():
    found = smoothness(lambda z: 0.1 * z.sign(), posteriors(), channel_stds=STDS, std=STD, seed=0)
    gains = [level.gain for level in found.levels[: len(NOISES)]]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 3 * gains[-1]


def test_psnr_is_of_what_is_shown_and_the_gain_of_what_is_decoded():
    found = smoothness(lambda z: 5.0 + linear(z), posteriors(), channel_stds=STDS, std=STD, seed=0)
    assert {level.psnr for level in found.levels} == {100.0}
    assert found.levels[0].gain == pytest.approx(SLOPE * STD, rel=1e-2)


def test_the_examples_are_the_first_picture_with_growing_noise():
    given = posteriors(3)
    found = smoothness(linear, given, channel_stds=STDS, std=STD, seed=0)
    assert torch.equal(found.examples[0], linear(given[0].mean)[0])
    changes = [(example - found.examples[0]).abs().mean() for example in found.examples]
    assert changes[: 1 + len(NOISES)] == sorted(changes[: 1 + len(NOISES)])
    assert len(found.examples) == len(NOISES) + 2


def test_a_seed_decides_the_noise_and_pictures_do_not_share_it():
    same = [posteriors(1)[0]] * 2
    decoded = []

    def decode(latents):
        decoded.append(latents)
        return linear(latents)

    first = smoothness(decode, same, channel_stds=STDS, std=STD, seed=0)
    half = len(decoded) // 2
    assert torch.equal(decoded[0], decoded[half])
    assert not torch.equal(decoded[1], decoded[half + 1])
    again = smoothness(linear, same, channel_stds=STDS, std=STD, seed=0)
    other = smoothness(linear, same, channel_stds=STDS, std=STD, seed=9)
    assert first.levels == again.levels
    assert first.levels != other.levels


def test_a_channel_without_deviation_gets_no_noise():
    def only_first(latents):
        return latents[:, :1].expand(-1, 3, -1, -1)

    found = smoothness(only_first, posteriors(), channel_stds=torch.tensor([0.0, 1.0, 1.0]), std=1.0, seed=0)
    assert [level.psnr for level in found.levels[:-1]] == [100.0] * len(NOISES)
    assert [level.gain for level in found.levels[:-1]] == [0.0] * len(NOISES)


def test_noise_too_small_to_change_the_latent_has_no_gain():
    found = smoothness(linear, posteriors(logvar=-200.0), channel_stds=STDS, std=STD, seed=0)
    assert found.levels[-1].latent_change == 0.0
    assert found.levels[-1].gain is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_decoder_that_breaks_down_has_no_number(value):
    found = smoothness(lambda z: linear(z) + value, posteriors(), channel_stds=STDS, std=STD, seed=0)
    assert {(level.psnr, level.gain) for level in found.levels} == {(None, None)}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_decoder_that_breaks_down_without_noise_has_no_number(value):
    (one,) = posteriors(1)

    def decode(latents):
        return linear(latents) + (value if torch.equal(latents, one.mean) else 0.0)

    found = smoothness(decode, [one], channel_stds=STDS, std=STD, seed=0)
    assert {(level.psnr, level.gain) for level in found.levels} == {(None, None)}
