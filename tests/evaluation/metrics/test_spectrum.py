"""The divergence of the pictures' spectra from the latents', against double loops in float64 and known cases."""

import math

import pytest
import torch
from scipy.fft import dctn

from pikavae.evaluation.metrics.spectrum import LEAST_SHARE, NUM_BINS, cosines, spectrum_divergence


def reference_shares(x, height, width):
    """The definition, frequency by frequency: (C, H, W) float64 of NumPy."""
    coefficients = dctn(x, axes=(1, 2), norm="ortho")
    bins = [[] for _ in range(NUM_BINS)]
    for u in range(height):
        for v in range(width):
            if (u, v) != (0, 0):
                radius = math.sqrt((u / height) ** 2 + (v / width) ** 2) / math.sqrt(2.0)
                bins[math.floor(NUM_BINS * radius)].append((coefficients[:, u, v] ** 2).mean())
    means = [sum(one) / len(one) for one in bins if one]
    return [mean / sum(means) for mean in means]


def reference(latent, image):
    p, q = (reference_shares(x.double().numpy(), *latent.shape[1:]) for x in (image, latent))
    return sum(a * math.log(max(a, LEAST_SHARE) / max(b, LEAST_SHARE)) for a, b in zip(p, q, strict=True))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth(*shape, seed=0):
    """Pictures whose power falls with the frequency, as that of photographs."""
    return normal(*shape, seed=seed).cumsum(dim=2).cumsum(dim=3) / 100.0


@pytest.mark.parametrize("sides", [(2, 2), (3, 5), (8, 8), (16, 24)])
@pytest.mark.parametrize("factor", [1, 2, 8])
def test_it_is_the_definition_frequency_by_frequency(sides, factor):
    latents, images = normal(2, 4, *sides), smooth(2, 3, *(factor * side for side in sides), seed=1)
    expected = [reference(latent, image) for latent, image in zip(latents, images, strict=True)]
    found = spectrum_divergence(latents, images)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_the_cosines_are_the_lowest_of_an_orthonormal_transform():
    assert torch.allclose(cosines(12, 12) @ cosines(12, 12).T, torch.eye(12, dtype=torch.float64), atol=1e-14)
    assert torch.equal(cosines(12, 5), cosines(12, 12)[:5])


def test_equal_spectra_have_no_divergence_whatever_the_scale_and_the_mean():
    images = smooth(2, 3, 16, 16)
    for latents in (images, -7.0 * images + 3.0, torch.cat([images, images], dim=1)):
        assert spectrum_divergence(latents, images).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert spectrum_divergence(images, images).tolist() == [0.0, 0.0]


def test_a_picture_of_the_latents_low_frequencies_has_no_divergence():
    """Latent and picture have the same half waves, at other sizes."""
    coefficients = normal(1, 3, 8, 8).double()
    latents, images = (cosines(n, 8).T @ coefficients @ cosines(n, 8) for n in (8, 64))
    assert spectrum_divergence(latents, images).item() == pytest.approx(0.0, abs=1e-12)
    beyond = cosines(64, 64).T @ torch.nn.functional.pad(normal(1, 3, 56, 56).double(), (8, 0, 8, 0)) @ cosines(64, 64)
    assert spectrum_divergence(latents, images + beyond).item() == pytest.approx(0.0, abs=1e-12)


def test_noisy_and_over_smooth_latents_diverge_from_pictures():
    images = smooth(4, 3, 64, 64)
    alike = torch.nn.functional.avg_pool2d(images, 8)
    too_smooth = alike.cumsum(dim=2).cumsum(dim=3)
    noisy = alike + alike.std() * normal(4, 3, 8, 8, seed=1)
    near, smoother, noise, white = (
        spectrum_divergence(latents, images).mean().item()
        for latents in (alike, too_smooth, noisy, normal(4, 4, 8, 8, seed=2))
    )
    assert 0.0 < near < min(smoother, noise)
    assert noise < white


def test_white_noise_has_a_flat_spectrum():
    """Mean power of a bin, not its sum: there are more high frequencies than low ones."""
    white = normal(1, 64, 32, 32)
    assert reference_shares(white[0].double().numpy(), 32, 32) == pytest.approx([1 / 16] * 16, rel=0.15)
    assert spectrum_divergence(white, white[:, :3]).item() < 0.05


def test_a_latent_without_power_in_a_bin_gives_a_finite_number():
    row = torch.cos(math.pi / 8 * (torch.arange(8) + 0.5)).expand(1, 4, 8, 8)
    found = spectrum_divergence(row, normal(1, 3, 8, 8)).item()
    assert 1.0 < found < math.log(1 / LEAST_SHARE)


@pytest.mark.parametrize("spoilt", ["latent of one value", "picture of one value", "nan", "infinite", "one position"])
def test_what_has_no_spectrum_has_no_number(spoilt):
    latents, images = normal(2, 4, 4, 4), smooth(2, 3, 16, 16)
    if spoilt == "latent of one value":
        latents[1] = torch.tensor([0.3, -0.1, 0.7, 0.0])[:, None, None]
    elif spoilt == "picture of one value":
        images[1] = 0.3
    elif spoilt == "one position":
        assert spectrum_divergence(latents[:, :, :1, :1], images).isnan().all()
        return
    else:
        latents[1, 0, 2, 2] = float(spoilt.replace("infinite", "inf"))
    found = spectrum_divergence(latents, images)
    assert found.isnan().tolist() == [False, True]


def test_the_batch_does_not_matter():
    latents, images = normal(5, 4, 4, 4), smooth(5, 3, 32, 32)
    whole = spectrum_divergence(latents, images)
    alone = torch.cat([spectrum_divergence(latents[i : i + 1], images[i : i + 1]) for i in range(5)])
    assert torch.equal(whole, alone)
