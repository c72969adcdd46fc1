"""Scores of one model on two samples: intervals against Welch's, directions, and when a champion fell."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from pikavae.evaluation.compare.two_samples import compare_paired, compare_samples
from pikavae.evaluation.metrics.bootstrap import two_sample_interval
from pikavae.evaluation.report.report import ImageScore


def scores(psnr, **others):
    columns = {name: list(values) for name, values in others.items()}
    return [
        ImageScore(f"{i}.png", "", psnr=float(value), **{name: float(column[i]) for name, column in columns.items()})
        for i, value in enumerate(psnr)
    ]


def test_the_interval_is_about_welchs_for_normal_samples_of_unlike_sizes():
    draws = np.random.default_rng(0)
    a, b = draws.normal(21, 3, 300), draws.normal(20, 1, 120)
    expected = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert two_sample_interval(a, b, resamples=9999, seed=0) == pytest.approx((expected.low, expected.high), abs=0.05)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draws = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        low, high = two_sample_interval(draws.gamma(4, 1, 40), draws.gamma(4, 1, 25), resamples=499, seed=0)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_samples_without_spread_and_repetitions_give_the_same_digits():
    assert two_sample_interval(np.full(3, 2.0), np.full(4, 0.5), resamples=99, seed=0) == (1.5, 1.5)
    a, b = np.random.default_rng(2).normal(size=(2, 30))
    found = compare_samples(scores(a), scores(b), "psnr")
    assert found == compare_samples(scores(a[::-1]), scores(b[::-1]), "psnr")
    assert found.metrics["ssim"].interval is None


def test_a_champion_fell_if_the_whole_interval_is_worse_than_the_tolerance():
    draws = np.random.default_rng(3)
    before, lower = draws.normal(25, 1, 80), draws.normal(23, 1, 60)
    found = compare_samples(scores(lower), scores(before), "psnr")
    assert found.primary.verdict == "lower score"
    assert found.worst_tenth.verdict == "lower score"
    assert (found.fell(0.0), found.fell(1.0), found.fell(3.0)) == (True, True, False)
    better = compare_samples(scores(before), scores(lower), "psnr")
    assert (better.primary.verdict, better.fell(0.0)) == ("higher score", False)
    assert not compare_samples(scores(lower[:1]), scores(before), "psnr").fell(0.0)


def test_of_a_metric_whose_less_is_better_more_is_a_fall():
    draws = np.random.default_rng(4)
    more, less = (draws.normal(mean, 0.01, 40) for mean in (0.3, 0.2))
    fresh, report = (scores(np.full(40, 20.0), lpips=values) for values in (more, less))
    found = compare_samples(fresh, report, "lpips")
    assert (found.primary.verdict, found.fell(0.0), found.fell(0.2)) == ("lower score", True, False)


def test_harder_pictures_show_in_plain_scaling_and_the_gain_over_it():
    draws = np.random.default_rng(5)
    plain = draws.normal(25, 1, 60)
    report, fresh = scores(plain + 3, bicubic_psnr=plain), scores(plain - 1, bicubic_psnr=plain - 4)
    found = compare_samples(fresh, report, "psnr")
    assert found.bicubic.verdict == "lower score"
    assert found.over_bicubic.verdict == "no difference shown"
    assert found.over_bicubic.fresh == pytest.approx(3)


def test_pictures_of_both_are_paired_with_themselves():
    one = scores([20.0, 30.0, 25.0])
    other = scores([20.5, 30.5, 25.5])
    found = compare_paired(list(zip(other, one, strict=True)), "psnr")
    assert (found.count, found.difference, found.largest) == (3, pytest.approx(0.5), pytest.approx(0.5))
