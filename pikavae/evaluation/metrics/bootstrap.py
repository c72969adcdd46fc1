"""Computes bootstrap intervals of a mean and of a difference of worst tenths, by resampling."""

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
    # BCa counts ties. Sums of whole numbers are exact, so equal draws tie in any order of addition. BCa follows every
    # shift and scaling, so these cost only the digits after the ninth.
    quantum = math.ldexp(1.0, math.frexp(np.abs(differences - differences.mean()).max())[1] - GRID_BITS)
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


def worst_tenth(scores: Scores) -> Scores:
    """Return the mean over the lowest tenth, rounded up: (..., N) float64 -> (...)."""
    count = math.ceil(scores.shape[-1] / 10)
    return np.asarray(np.partition(scores, count - 1, axis=-1)[..., :count].mean(axis=-1))


def worst_tenth_interval(a: Scores, b: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """Compute the 95 % interval of `worst_tenth(a) - worst_tenth(b)` from resampled pairs: (N,) float64 each.

    The ends are percentiles of the draws (Efron & Tibshirani 1993, chapter 13), because a mean over order statistics is
    too rough for the acceleration of BCa. N is at least 2. Memory is bounded for any N.
    """
    draws = np.random.default_rng(seed)
    size = max(1, MAX_DRAWN // len(a))
    found = []
    for first in range(0, resamples, size):
        drawn = draws.integers(0, len(a), (min(size, resamples - first), len(a)))
        found.append(worst_tenth(a[drawn]) - worst_tenth(b[drawn]))
    outside = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(np.concatenate(found), [outside, 1.0 - outside])
    return float(low), float(high)
