"""The interval of a mean, and of a difference of worst tenths, by drawing again what they are made of."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

CONFIDENCE = 0.95
MAX_DRAWN = 2**22
"""Numbers drawn at once by the bootstrap, which bounds its memory."""
GRID_BITS = 30
"""Differences are drawn as multiples of the largest deviation's power of two, divided by 2^30."""


def bootstrap_interval(differences: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % BCa bootstrap interval of the mean of (N,) float64, N at least 2 (Efron & Tibshirani 1993, chapter 14).

    Where all are equal it is that number twice. Memory is bounded whatever N is.
    """
    from scipy.stats import bootstrap

    if differences.min() == differences.max():
        return float(differences[0]), float(differences[0])
    # In whole numbers every sum is exact, so that equal draws tie in whatever order they are added: BCa counts ties.
    # It follows every shift and scaling, so that these cost nothing but the digits after the ninth.
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
    """The mean over the lowest tenth, rounded up: (..., N) float64 -> (...)."""
    count = math.ceil(scores.shape[-1] / 10)
    return np.asarray(np.partition(scores, count - 1, axis=-1)[..., :count].mean(axis=-1))


def worst_tenth_interval(a: Scores, b: Scores, *, resamples: int, seed: int) -> tuple[float, float]:
    """The 95 % interval of `worst_tenth(a) - worst_tenth(b)`, the pictures drawn again in pairs: (N,) float64 each.

    The percentiles of the draws (Efron & Tibshirani 1993, chapter 13): a mean over order statistics is too rough for
    the acceleration of BCa. N is at least 2. Memory is bounded whatever N is.
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
