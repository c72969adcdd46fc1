"""The interval of a mean, by drawing again what it is the mean of."""

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
