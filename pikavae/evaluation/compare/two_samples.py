"""Compares the scores of one model on two samples of pictures: fresh ones, and those of its report.

The pictures are others, so no picture is paired. A difference is fresh - report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pikavae.evaluation.compare.comparison import score_column
from pikavae.evaluation.metrics.bootstrap import (
    Scores,
    bootstrap_interval,
    two_sample_interval,
    worst_tenth,
    worst_tenth_interval,
)
from pikavae.evaluation.metrics.definitions import COMPARED, METRICS
from pikavae.evaluation.report.report import ImageScore
from pikavae.workspace.records import Record

METHOD = "bootstrap of two samples, BCa (Efron & Tibshirani 1993)"
RESAMPLES = 9999
SEED = 0


class SampleDifference(Record):
    """Compares the means of one number over two samples, or of its distance from the best number."""

    fresh: float | None
    """The mean over the fresh pictures that have the number; None if there are none."""
    report: float | None
    """The mean over the report's pictures."""
    difference: float | None
    interval: Sequence[float] | None
    """Of `difference`, at 95 % confidence; None with fewer than two pictures on a side."""
    count_fresh: int
    count_report: int
    verdict: str
    """`higher score` or `lower score` of the fresh pictures if the interval lies on one side of zero; else `no
    difference shown`. A score is higher if it is better."""


class SampleComparison(Record):
    """Holds what `compare_samples` found."""

    primary_metric: str
    metrics: Mapping[str, SampleDifference]
    worst_tenth: SampleDifference
    """Of the PSNR over each sample's own worst tenth."""
    bicubic: SampleDifference
    """Of the PSNR of plain scaling to the latent's size and back: how hard pictures are for what learned nothing."""
    over_bicubic: SampleDifference
    """Of the model's PSNR above that of plain scaling, picture by picture."""
    method: str = METHOD
    resamples: int = RESAMPLES
    seed: int = SEED

    @property
    def primary(self) -> SampleDifference:
        """Return the comparison of the metric that ranks models."""
        return self.metrics[self.primary_metric]

    def fell(self, tolerance: float) -> bool:
        """Return True if the whole interval of the primary metric is worse than the report by more than `tolerance`."""
        interval = self.primary.interval
        if interval is None:
            return False
        return max(METRICS[self.primary_metric].sign() * end for end in interval) < -tolerance


class PairedPictures(Record):
    """Compares the primary metric of pictures that are both fresh and in the report: the same model, the same pictures.

    A difference shows that the model, its code or the device computes otherwise than when the report was made.
    """

    count: int
    difference: float | None
    """Mean of fresh - report."""
    interval: Sequence[float] | None
    largest: float | None
    """The largest absolute difference of a picture."""


def compare_samples(fresh: Sequence[ImageScore], report: Sequence[ImageScore], primary_metric: str) -> SampleComparison:
    """Compare the scores of fresh pictures with those of the report's pictures, by intervals.

    Each metric draws from its own generator of one seed, and pictures are sorted by score, so a repetition gives the
    same numbers to the last digit.
    """
    samples = {metric.name: [_known(one, metric.name) for one in (fresh, report)] for metric in COMPARED}
    return SampleComparison(
        primary_metric=primary_metric,
        metrics={name: _difference(a, b, METRICS[name].sign()) for name, (a, b) in samples.items()},
        worst_tenth=_worst_tenths(samples["psnr"][0], samples["psnr"][1]),
        bicubic=_difference(_known(fresh, "bicubic_psnr"), _known(report, "bicubic_psnr"), 1.0),
        over_bicubic=_difference(_known_gains(fresh), _known_gains(report), 1.0),
        method=METHOD,
        resamples=RESAMPLES,
        seed=SEED,
    )


def compare_paired(pairs: Sequence[tuple[ImageScore, ImageScore]], primary_metric: str) -> PairedPictures:
    """Compare the primary metric of pictures of which there are two measurements: fresh, and of the report."""
    columns = [score_column([pair[i] for pair in pairs], primary_metric) for i in (0, 1)]
    differences = columns[0] - columns[1]
    differences = differences[~np.isnan(differences)]
    several = len(differences) > 1
    return PairedPictures(
        count=len(pairs),
        difference=float(differences.mean()) if len(differences) else None,
        interval=bootstrap_interval(differences, resamples=RESAMPLES, seed=SEED) if several else None,
        largest=float(np.abs(differences).max()) if len(differences) else None,
    )


def _known(scores: Sequence[ImageScore], name: str) -> Scores:
    column = score_column(scores, name)
    return np.sort(column[~np.isnan(column)])


def _known_gains(scores: Sequence[ImageScore]) -> Scores:
    """Return by how much the PSNR of each picture is above bicubic's, sorted."""
    gains = score_column(scores, "psnr") - score_column(scores, "bicubic_psnr")
    return np.sort(gains[~np.isnan(gains)])


def _difference(fresh: Scores, report: Scores, sign: float) -> SampleDifference:
    interval = None
    if min(len(fresh), len(report)) > 1:
        interval = two_sample_interval(fresh, report, resamples=RESAMPLES, seed=SEED)
    means = [float(one.mean()) if len(one) else None for one in (fresh, report)]
    return _of(means, (len(fresh), len(report)), interval, sign)


def _worst_tenths(fresh: Scores, report: Scores) -> SampleDifference:
    interval = None
    if min(len(fresh), len(report)) > 1:
        interval = worst_tenth_interval(fresh, report, resamples=RESAMPLES, seed=SEED, paired=False)
    means = [float(worst_tenth(one)) if len(one) else None for one in (fresh, report)]
    return _of(means, (len(fresh), len(report)), interval, 1.0)


def _of(
    means: Sequence[float | None], counts: tuple[int, int], interval: tuple[float, float] | None, sign: float
) -> SampleDifference:
    fresh, report = means
    ends = [sign * end for end in interval or (0.0, 0.0)]
    verdict = "higher score" if min(ends) > 0 else "lower score" if max(ends) < 0 else "no difference shown"
    return SampleDifference(
        fresh=fresh,
        report=report,
        difference=None if fresh is None or report is None else fresh - report,
        interval=interval,
        count_fresh=counts[0],
        count_report=counts[1],
        verdict=verdict,
    )
