"""The population stability index against closed forms, and what chance explains of it."""

import math

import numpy as np
import pytest

from pikavae.data.drift.stability import ERROR, bin_edges, compare_quantity, stability_index


def test_the_index_is_the_sum_over_bins_with_half_a_picture_in_each():
    psi, _ = stability_index(np.array([30, 10]), np.array([10, 30]))
    e, a = 30.5 / 41, 10.5 / 41
    assert psi == pytest.approx(2 * (e - a) * math.log(e / a))
    assert stability_index(np.array([7, 0, 9]), np.array([7, 0, 9]))[0] == 0


def test_of_two_normal_distributions_it_is_their_squared_distance():
    """Jeffreys' divergence of N(0, 1) and N(d, 1) is d squared; ten bins see nearly all of it."""
    draws = np.random.default_rng(0)
    found = compare_quantity("detail", draws.normal(size=100_000), draws.normal(0.4, 1, size=100_000))
    assert found.psi == pytest.approx(0.16, rel=0.06)
    assert found.verdict == "some drift"
    assert found.p_value < 1e-9
    assert compare_quantity("detail", draws.normal(size=9_000), draws.normal(1, 1, size=9_000)).verdict == "much drift"


@pytest.mark.parametrize(("before", "fresh"), [(40, 20), (200, 40), (1500, 300)])
def test_without_drift_hardly_any_set_is_called_drifted_however_few_pictures(before, fresh):
    draws = np.random.default_rng(1)
    found = [
        compare_quantity("white", *(np.maximum(0, draws.normal(size=count)) for count in (before, fresh)))
        for _ in range(150)
    ]
    assert sum(one.verdict != "no drift shown" for one in found) <= 150 * ERROR
    assert max(one.psi for one in found) > 0.1 or before > 1000  # the rule of thumb alone would cry wolf


def test_a_constant_has_bins_below_and_above():
    assert bin_edges(np.full(50, 3.0)).tolist() == [math.nextafter(3.0, 0), 3.0]
    below, same, above = (
        compare_quantity("shorter_side", np.full(50, 3.0), np.full(50, one)) for one in (2.0, 3.0, 4.0)
    )
    assert [one.fresh_shares for one in (below, same, above)] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert [one.verdict for one in (below, same, above)] == ["much drift", "no drift shown", "much drift"]


def test_a_yes_or_no_is_compared_by_its_share():
    found = compare_quantity("alike", np.repeat([0.0, 1.0], [90, 10]), np.repeat([0.0, 1.0], [40, 60]))
    assert (found.reference_median, found.fresh_median, found.test) == (0.1, 0.6, "Fisher's exact")
    assert found.verdict == "much drift"
