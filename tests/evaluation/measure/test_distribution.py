"""rFID and KID against their closed forms."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from pikavae.evaluation.measure.distribution import (
    distances,
    frechet_distance,
    kernel_distance,
    kernel_distances,
    subset_size,
)


def features(seed: int, count: int, size: int = 6) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, size)) @ generator.normal(size=(size, size)) + generator.normal(size=size)


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return (float(x @ y) / len(x) + 1.0) ** 3


def test_frechet_distance_is_that_of_the_gaussians():
    x, y = features(0, 50), features(1, 50)
    means, (c, d) = x.mean(axis=0) - y.mean(axis=0), (np.cov(one, rowvar=False) for one in (x, y))
    expected = means @ means + np.trace(c + d - 2 * sqrtm(c @ d).real)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(y, x) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_a_shift_is_its_square():
    x, shift = features(0, 50), np.arange(6.0)
    assert frechet_distance(x, x + shift) == pytest.approx(shift @ shift, rel=1e-9)


def test_kernel_distance_is_the_mean_over_different_pictures():
    x, y = features(0, 7), features(1, 7)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    each = [kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i]) for i, j in pairs]
    assert kernel_distance(x, y) == pytest.approx(np.mean(each), rel=1e-9)


def test_equal_sets_are_at_no_distance_be_all_pictures_alike_or_not():
    for x in (features(0, 7), np.full((7, 6), 0.3)):
        assert kernel_distance(x, x) == pytest.approx(0.0, abs=1e-9)
        assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)


def test_kernel_distance_is_unbiased_for_small_sets_of_pictures_and_their_reconstructions():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(40_000, 2))
    y = 0.8 * x + 0.1 * generator.normal(size=x.shape)
    # For X ~ N(0, a I), Y ~ N(0, b I) in D dimensions E(X.Y / D + 1)^3 = 1 + 3 E(X.Y)^2 / D^2 = 1 + 3 a b / D
    a, b = 1.0, 0.8**2 + 0.1**2
    expected = 3 * (a * a + b * b - 2 * a * b) / 2
    small = [kernel_distance(x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4)]
    error = np.std(small) / np.sqrt(len(small))
    assert abs(np.mean(small) - expected) < 3 * error
    assert error < 0.2 * expected


def test_kid_of_subsets_is_repeated_to_the_last_digit_and_says_how_it_varies():
    x, y = features(0, 40), features(1, 40)
    each = kernel_distances(x, y)
    assert each.shape == (100,)
    assert np.array_equal(each, kernel_distances(x, y))
    found = distances(x, y).metrics
    assert (found["kid"], found["kid_deviation"]) == (each.mean(), each.std())
    assert found["kid"] == pytest.approx(kernel_distance(x, y), abs=0.5 * each.std())
    assert each.std() > 0


def test_subsets_are_the_customary_thousand_or_half_of_a_small_set():
    assert [subset_size(count) for count in (4, 5, 1999, 2000, 50_000)] == [2, 2, 999, 1000, 1000]


def test_what_too_few_pictures_cannot_tell_is_not_told():
    few = distances(features(0, 3), features(1, 3))
    assert np.isnan(list(few.metrics.values())).all()
    assert few.reasons["kid"] == few.reasons["kid_deviation"] == "needs at least 4 pictures; the set has 3"
    as_many_as_features = distances(features(0, 6), features(1, 6))
    assert np.isnan(as_many_as_features.metrics["rfid"])
    assert "needs more pictures than the 6 features" in as_many_as_features.reasons["rfid"]
    assert as_many_as_features.reasons.keys() == {"rfid"}
    enough = distances(features(0, 7), features(1, 7))
    assert enough.metrics["rfid"] == frechet_distance(features(0, 7), features(1, 7))
    assert enough.reasons == {}
