"""Compares how a number is spread over the pictures of two sets: population stability index, and a two-sample test.

The population stability index is the sum over bins of (a - e) ln(a / e), where e and a are the shares of the reference
and of the fresh pictures in a bin (Siddiqi, Credit Risk Scorecards, 2006, chapter 8). It is the symmetric divergence of
Jeffreys 1946. Bins are the reference's tenths. Half a picture is added to every bin, so that an empty one has a
logarithm.

That 0.1 is some drift and 0.25 is much are rules of thumb of credit scoring, which no theory gives. Of few pictures the
index is large by chance: without any drift, index / (1/n + 1/m) is about chi-squared with one degree of freedom less
than there are bins (Yurdakul & Naranjo 2020, Journal of Risk Model Validation 14(4)). So drift is called drift only if
it is also beyond what chance explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from pikavae.data.drift.quantities import QUANTITIES
from pikavae.workspace.records import Record

MOST_BINS = 10
LEAST_IN_BIN = 5
"""The least number of reference pictures in a bin, on average."""
SOME_DRIFT, MUCH_DRIFT = 0.1, 0.25
"""The rules of thumb."""
ERROR = 0.05
"""How often any quantity at all is called drift by chance, at most, over all of them together (Bonferroni)."""

Verdict = Literal["no drift shown", "some drift", "much drift"]


class Drift(Record):
    """Compares one quantity of the reference and of the fresh pictures."""

    psi: float
    """The population stability index."""
    chance: float
    """The index that chance alone explains, given how many pictures there are."""
    test: str
    """The name of the two-sample test."""
    p_value: float
    edges: Sequence[float]
    """The ends of the bins between the first and the last: a bin has its upper end, and not its lower."""
    reference_shares: Sequence[float]
    """The share of the reference in each bin."""
    fresh_shares: Sequence[float]
    reference_median: float
    fresh_median: float
    """The median; of a quantity that is yes or no, the share."""
    num_reference: int
    num_fresh: int
    verdict: Verdict


def compare_quantity(name: str, reference: np.ndarray, fresh: np.ndarray) -> Drift:
    """Compare a quantity of two sets.

    Args:
        name: a name of QUANTITIES.
        reference: the numbers of the reference pictures, (N,) float64; at least one.
        fresh: the numbers of the fresh pictures, (M,) float64; at least one.
    """
    is_yes_or_no = QUANTITIES[name].is_yes_or_no
    edges = np.array([0.5]) if is_yes_or_no else bin_edges(reference)
    counts = [np.bincount(np.searchsorted(edges, one), minlength=len(edges) + 1) for one in (reference, fresh)]
    psi, chance = stability_index(*counts)
    test, p_value = _fisher(*counts) if is_yes_or_no else _kolmogorov_smirnov(reference, fresh)
    middle = np.mean if is_yes_or_no else np.median
    return Drift(
        psi=psi,
        chance=chance,
        test=test,
        p_value=p_value,
        edges=edges.tolist(),
        reference_shares=(counts[0] / len(reference)).tolist(),
        fresh_shares=(counts[1] / len(fresh)).tolist(),
        reference_median=float(middle(reference)),
        fresh_median=float(middle(fresh)),
        num_reference=len(reference),
        num_fresh=len(fresh),
        verdict=_verdict(psi, chance),
    )


def bin_edges(reference: np.ndarray) -> np.ndarray:
    """Return the edges between bins: quantiles of the reference, each once; a bin of x has lower < x <= upper.

    There are at most ten bins, fewer for few pictures. Numbers below the least of the reference have a bin of their own
    if so many of the reference are that least number that a quantile falls on it.
    """
    bins = max(2, min(MOST_BINS, len(reference) // LEAST_IN_BIN))
    edges = np.unique(np.quantile(reference, np.arange(1, bins) / bins, method="inverted_cdf"))
    least = reference.min()
    return np.concatenate([[np.nextafter(least, -np.inf)], edges]) if edges[0] == least else edges


def stability_index(reference: np.ndarray, fresh: np.ndarray) -> tuple[float, float]:
    """Return the population stability index, and what chance alone explains of it.

    Args:
        reference: the number of pictures in each bin, (B,) integers.
        fresh: the same of the other set.
    """
    from scipy.stats import chi2

    expected, actual = ((one + 0.5) / (one.sum() + 0.5 * len(one)) for one in (reference, fresh))
    psi = float(((actual - expected) * np.log(actual / expected)).sum())
    level = 1.0 - ERROR / len(QUANTITIES)
    chance = chi2.ppf(level, max(1, len(reference) - 1)) * (1.0 / reference.sum() + 1.0 / fresh.sum())
    return psi, float(chance)


def _kolmogorov_smirnov(reference: np.ndarray, fresh: np.ndarray) -> tuple[str, float]:
    from scipy.stats import ks_2samp

    return "Kolmogorov-Smirnov", float(ks_2samp(reference, fresh, method="asymp").pvalue)


def _fisher(reference: np.ndarray, fresh: np.ndarray) -> tuple[str, float]:
    from scipy.stats import fisher_exact

    return "Fisher's exact", float(fisher_exact(np.stack([reference, fresh])).pvalue)


def _verdict(psi: float, chance: float) -> Verdict:
    if psi <= chance or psi < SOME_DRIFT:
        return "no drift shown"
    return "much drift" if psi >= MUCH_DRIFT else "some drift"
