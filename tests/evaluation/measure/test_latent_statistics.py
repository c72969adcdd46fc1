import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.model.posterior import DiagonalGaussian


def posterior(mean: torch.Tensor, logvar: float = 0.0) -> DiagonalGaussian:
    return DiagonalGaussian(mean, torch.full_like(mean, logvar))


def test_a_standard_normal_has_no_kl():
    statistics = LatentStatistics(4)
    statistics.update(posterior(torch.zeros(3, 4, 2, 2)))
    assert statistics.kl_nats_per_image == 0.0
    assert statistics.kl_nats_per_dimension == 0.0


def test_kl_agrees_with_torch_distributions():
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn((2, 5, 4, 3, 2), generator=generator)
    statistics = LatentStatistics(4)
    per_image = [statistics.update(DiagonalGaussian(mean[i : i + 2], logvar[i : i + 2])) for i in (0, 2, 4)]
    expected = kl_divergence(Normal(mean.double(), (0.5 * logvar.double()).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
    torch.testing.assert_close(torch.cat(per_image), expected, rtol=1e-5, atol=0)
    assert statistics.kl_nats_per_image == pytest.approx(expected.mean().item(), rel=1e-5)
    assert statistics.kl_nats_per_dimension == pytest.approx(expected.mean().item() / (4 * 3 * 2), rel=1e-5)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("offset", [0.0, 3000.0])
def test_statistics_of_batches_are_those_of_the_whole(size, offset):
    # The offset is large against the deviation: sums of squares alone would lose half of the digits.
    modes = (torch.randn((8, 4, 5, 3), generator=torch.Generator().manual_seed(0)) + offset) * torch.tensor(
        [1.0, 2.0, 0.5, 1.0]
    ).view(4, 1, 1)
    statistics = LatentStatistics(4)
    for batch in modes.split(size):
        statistics.update(posterior(batch))
    whole = modes.double()
    by_channel = whole.transpose(0, 1).flatten(1)
    torch.testing.assert_close(statistics.channel_means, by_channel.mean(dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(statistics.channel_stds, by_channel.std(dim=1, correction=0), rtol=1e-12, atol=1e-12)
    assert statistics.mean == pytest.approx(whole.mean().item(), rel=1e-12)
    assert statistics.std == pytest.approx(whole.std(correction=0).item(), rel=1e-12)
    assert statistics.scaling_factor == pytest.approx(1 / whole.std(correction=0).item(), rel=1e-12)
    assert statistics.num_images == 8


@pytest.mark.parametrize("size", [1, 3, 8])
def test_active_units_agree_with_numpy_and_leave_a_fixed_pattern_out(size):
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.0, 0.05, 0.11, 1.0]).view(4, 1, 1)  # variances 0, 0.0025, 0.0121, 1
    pattern = 1e3 * torch.randn((4, 5, 3), generator=generator, dtype=torch.float64)
    modes = pattern + spread * torch.randn((40, 4, 5, 3), generator=generator, dtype=torch.float64)
    statistics = LatentStatistics(4)
    for batch in modes.split(size):
        statistics.update(posterior(batch))
    expected = modes.numpy().var(axis=0, ddof=1).mean(axis=(1, 2))
    assert expected[1] < 0.01 < expected[2]
    assert statistics.unit_variances.tolist() == pytest.approx(expected.tolist(), rel=1e-9, abs=1e-12)
    assert statistics.active_units == 2.0
    assert statistics.shift_factor == statistics.mean == pytest.approx(modes.mean().item(), rel=1e-12)


def test_active_units_are_counted_within_each_shape():
    generator = torch.Generator().manual_seed(0)
    shapes = {(6, 2): 5, (2, 6): 3, (4, 4): 1}
    modes = {shape: torch.randn((n, 4, *shape), generator=generator).double() for shape, n in shapes.items()}
    statistics = LatentStatistics(4)
    for batch in modes.values():
        statistics.update(posterior(batch + 7 * batch.shape[2]))  # what sets the shapes apart is no activity
    squares, freedom = np.zeros(4), 0
    for (height, width), n in shapes.items():
        values = modes[height, width].numpy()
        squares += ((values - values.mean(axis=0)) ** 2).sum(axis=(0, 2, 3))
        freedom += (n - 1) * height * width
    assert statistics.unit_variances.tolist() == pytest.approx((squares / freedom).tolist(), rel=1e-9)
    assert statistics.active_units == 4.0


def test_one_picture_of_a_shape_tells_nothing_of_active_units():
    statistics = LatentStatistics(4)
    for shape in ((4, 4), (2, 8)):
        statistics.update(posterior(torch.randn(1, 4, *shape)))
    assert statistics.unit_variances.isnan().all()
    assert math.isnan(statistics.active_units)


def test_latents_without_spread_have_an_infinite_scaling_factor():
    statistics = LatentStatistics(1)
    statistics.update(posterior(torch.full((2, 1, 2, 2), 0.7)))
    assert statistics.std == 0.0
    assert statistics.scaling_factor == math.inf


def test_numbers_that_are_not_finite_are_counted_and_make_the_statistics_nan():
    mean = torch.zeros(2, 4, 2, 2)
    mean[1, 2, 0, 0] = math.nan
    statistics = LatentStatistics(4)
    kl = statistics.update(posterior(mean))
    statistics.update(posterior(torch.zeros(2, 4, 2, 2)))
    assert kl.isnan().tolist() == [False, True]
    assert statistics.channel_means.isnan().tolist() == [False, False, True, False]
    assert math.isnan(statistics.mean)
    assert math.isnan(statistics.scaling_factor)
    assert math.isnan(statistics.shift_factor)
    assert math.isnan(statistics.active_units)
    assert statistics.non_finite_fraction == 1 / (2 * 4 * 16)
