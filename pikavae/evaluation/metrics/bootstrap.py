"""Computes bootstrap intervals of a mean, of a difference of means, and of worst tenths, by resampling."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

CONFIDENCE = 0.95
MAX_DRAWN = 2**22
"""The most numbers that the bootstrap draws at once, which bounds its memory."""
GRID_BITS = 30
"""Differences are rounded to multiples of the largest deviation's power of two, divided by 2^30."""


def bootstrap_interval(differences: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """Compute the 95 % BCa bootstrap interval of the mean of (N,) float64, N at least 2.

    The method is that of Efron & Tibshirani 1993, chapter 14. If all numbers are equal, the interval is that number
    twice. Memory is bounded for any N.
    """
    from scipy.stats import bootstrap

    if differences.min() == differences.max():
        return float(differences[0]), float(differences[0])
    quantum = _quantum(differences)
    centre = np.round(differences.mean() / quantum) * quantum
    found = bootstrap(
        (np.round((differences - centre) / quantum),),
        np.mean,
        n_resamples=resamples,
        batch=max(1, MAX_DRAWN // len(differences)),
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(centre + quantum * found.low), float(centre + quantum * found.high)


def two_sample_interval(a: Scores, b: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """Compute the 95 % BCa bootstrap interval of `mean(a) - mean(b)` of two samples: (N,) and (M,) float64.

    The pictures of a and of b are others, so each sample is drawn again alone (Efron & Tibshirani 1993, chapters 8
    and 14). N and M are at least 2. If all numbers of each sample are equal, the interval is the difference twice.
    Memory is bounded for any N and M.
    """
    from scipy.stats import bootstrap

    difference = float(a.mean() - b.mean())
    if np.ptp(a) == 0.0 and np.ptp(b) == 0.0:
        return difference, difference
    quantum = max(_quantum(one) for one in (a, b) if np.ptp(one))
    centres = [np.round(one.mean() / quantum) * quantum for one in (a, b)]
    found = bootstrap(
        [np.round((one - centre) / quantum) for one, centre in zip((a, b), centres, strict=True)],
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=resamples,
        batch=max(1, MAX_DRAWN // (len(a) + len(b))),
        vectorized=True,
        paired=False,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="BCa",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    shift = centres[0] - centres[1]
    return float(shift + quantum * found.low), float(shift + quantum * found.high)


def _quantum(values: Scores) -> float:
    """Return the grid to which numbers are rounded before BCa counts ties.

    Sums of whole numbers are exact, so equal draws tie in any order of addition. BCa follows every shift and scaling,
    so these cost only the digits after the ninth.
    """
    return math.ldexp(1.0, math.frexp(np.abs(values - values.mean()).max())[1] - GRID_BITS)


def worst_tenth(scores: Scores) -> Scores:
    """Return the mean over the lowest tenth, rounded up: (..., N) float64 -> (...)."""
    count = math.ceil(scores.shape[-1] / 10)
    return np.asarray(np.partition(scores, count - 1, axis=-1)[..., :count].mean(axis=-1))


def worst_tenth_interval(
    a: Scores, b: Scores, *, resamples: int, seed: int, paired: bool = True
) -> tuple[float, float]:
    """Compute the 95 % interval of `worst_tenth(a) - worst_tenth(b)` from resampled pairs: (N,) float64 each.

    If they are not paired, each sample is drawn again alone, and b may have another length.

    The ends are percentiles of the draws (Efron & Tibshirani 1993, chapter 13), because a mean over order statistics is
    too rough for the acceleration of BCa. N is at least 2. Memory is bounded for any N.
    """
    draws = np.random.default_rng(seed)
    size = max(1, MAX_DRAWN // max(len(a), len(b)))
    found = []
    for first in range(0, resamples, size):
        count = min(size, resamples - first)
        drawn = draws.integers(0, len(a), (count, len(a)))
        others = drawn if paired else draws.integers(0, len(b), (count, len(b)))
        found.append(worst_tenth(a[drawn]) - worst_tenth(b[others]))
    outside = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(np.concatenate(found), [outside, 1.0 - outside])
    return float(low), float(high)
