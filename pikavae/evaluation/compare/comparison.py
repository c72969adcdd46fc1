"""Compares two reports on the same pictures, picture by picture: what got better, what got worse, and where.

A difference is A - B. A is the model in question, B the model that it is compared with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pikavae.errors import UserError
from pikavae.evaluation.metrics.bootstrap import CONFIDENCE, Scores, bootstrap_interval
from pikavae.evaluation.metrics.definitions import COMPARED, METRICS
from pikavae.evaluation.report.report import ImageScore, Report
from pikavae.workspace.files import write_atomically

MOST_CHANGED = 5


@dataclass(frozen=True)
class Difference:
    """Compares one metric of A and B, or its distance from the best number, over the pictures for which both have it.

    Attributes:
        mean_a: A's mean; None if there is no such picture, like `mean_b` and `difference`.
        mean_b: B's mean.
        difference: mean of A - B.
        interval: of `difference`, at 95 % confidence; if None, `reason` says why.
        reason: why there is no interval.
        count: how many pictures both have the metric for.
        left_out_a: pictures for which A has no such number: it is not finite, or not defined for the picture.
        left_out_b: pictures for which B has none.
        wins: pictures on which A is better; `losses`: on which B is better; `ties`: on which they are equal.
        verdict: `better` or `worse`, of A, if the interval lies on one side of zero; else `no difference shown`.
    """

    mean_a: float | None
    mean_b: float | None
    difference: float | None
    interval: tuple[float, float] | None
    reason: str | None
    count: int
    left_out_a: int
    left_out_b: int
    wins: int
    losses: int
    ties: int
    verdict: str


@dataclass(frozen=True)
class PictureChange:
    """Holds a picture's name and the primary metric of both models on it."""

    name: str
    caption: str
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class WorstTenth:
    """Compares the primary metric's means over each model's own worst tenth of the pictures, rounded up."""

    count: int
    a: float | None
    b: float | None
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """Holds what `compare` found, as JSON values."""

    evaluation_set: str
    num_images: int
    image_size: int
    primary_metric: str
    confidence: float
    method: str
    resamples: int
    seed: int
    metrics: Mapping[str, Difference]
    worst_tenth: WorstTenth
    most_lost: Sequence[PictureChange]
    """The pictures on which A is worse by the primary metric, the largest loss first."""
    most_won: Sequence[PictureChange]
    """The pictures on which A is better by the primary metric, the largest gain first."""
    slices: Mapping[str, Difference]
    """The primary metric within parts of the set. At 95 % confidence, one interval in twenty errs by chance."""

    def save(self, path: Path, **about: Any) -> None:
        """Write the comparison as JSON to `path`, whose folder exists; the JSON values `about` come first."""
        tree = {**about, **asdict(self)}
        write_atomically(path, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def compare(
    a: Report, b: Report, *, slices: Mapping[str, Sequence[bool]] | None = None, resamples: int = 9999, seed: int = 0
) -> Comparison:
    """Compare A with B picture by picture.

    The interval of a mean difference is a paired bootstrap: the pictures' differences are drawn again with replacement,
    and the interval is bias-corrected and accelerated (BCa; Efron & Tibshirani 1993, chapter 14). It is valid for
    pictures like these, and too short with fewer than about twenty. Every metric draws from its own generator with the
    same seed, and pictures are sorted by name. A repetition therefore gives the same numbers to the last digit,
    whatever the order of the pictures.

    Args:
        a: the report of the model in question.
        b: the report of the model that it is compared with.
        slices: parts of the set by name: True for each of A's pictures that belongs, in the report's order.
        resamples: how many times the pictures are drawn again.
        seed: of the draws.

    Raises:
        UserError: the reports differ in pictures or protocol.
    """
    refuse_unlike(a, b)
    order_a, order_b = _by_name(a.per_image), _by_name(b.per_image)
    of_a, of_b = [a.per_image[i] for i in order_a], [b.per_image[i] for i in order_b]

    def difference(name: str, mask: NDArray[np.bool_]) -> Difference:
        return _difference(
            score_column(of_a, name)[mask],
            score_column(of_b, name)[mask],
            METRICS[name].sign() > 0,
            resamples=resamples,
            seed=seed,
        )

    primary, everything = a.primary_metric, np.ones(len(of_a), dtype=bool)
    changes = picture_changes(a, b)
    gain = _gain(primary)
    return Comparison(
        evaluation_set=a.evaluation_set,
        num_images=a.num_images,
        image_size=a.image_size,
        primary_metric=primary,
        confidence=CONFIDENCE,
        method="paired bootstrap over pictures, BCa (Efron & Tibshirani 1993)",
        resamples=resamples,
        seed=seed,
        metrics={metric.name: difference(metric.name, everything) for metric in COMPARED},
        worst_tenth=_worst_tenth(changes, primary),
        most_lost=[change for change in sorted(changes, key=gain) if gain(change) < 0][:MOST_CHANGED],
        most_won=[change for change in sorted(changes, key=lambda c: -gain(c)) if gain(change) > 0][:MOST_CHANGED],
        slices={
            name: difference(primary, np.asarray(mask, dtype=bool)[order_a]) for name, mask in (slices or {}).items()
        },
    )


def refuse_unlike(a: Report, b: Report) -> None:
    """Check that two reports are of the same pictures, measured by the same protocol.

    Raises:
        UserError: they differ; the message names the first difference.
    """
    for name in ("evaluation_set", "image_size"):
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs:
            raise UserError(
                f"{name} {ours!r} of one report and {theirs!r} of the other: evaluate both models on the same pictures"
            )
    if (said := protocol_difference(a, b)) is not None:
        raise UserError(f"{said}: evaluate both models again, with the same settings on the same kind of device")
    ours, theirs = sorted(score.name for score in a.per_image), sorted(score.name for score in b.per_image)
    if ours != theirs:
        odd = sorted({*ours} ^ {*theirs}) or [name for name in ours if ours.count(name) != theirs.count(name)]
        raise UserError(
            f"per_image: picture {odd[0]!r} is not equally in both reports: evaluate both models on the same pictures"
        )


def protocol_difference(a: Report, b: Report) -> str | None:
    """Name the first entry by which the protocols of two reports differ; None if they are the same.

    A metric that one of the reports lacks, because it was measured before the metric was added, does not count.
    """
    added = {metric.entry for metric in METRICS.values() if (metric.name in a.metrics) != (metric.name in b.metrics)}
    for name in sorted({*a.protocol, *b.protocol} - added):
        ours, theirs = a.protocol.get(name), b.protocol.get(name)
        if ours != theirs:
            return f"protocol.{name} {ours!r} of one report and {theirs!r} of the other"
    return None


def _by_name(scores: Sequence[ImageScore]) -> list[int]:
    """Return the indices sorted by name; equal names keep their order."""
    return sorted(range(len(scores)), key=lambda i: scores[i].name)


def score_column(scores: Sequence[ImageScore], name: str) -> Scores:
    """Return one metric as (N,) float64: distances if the best is a number, NaN for a picture without the metric."""
    values = [getattr(score, name) for score in scores]
    column = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    best = METRICS[name].better
    return np.abs(column - best) if isinstance(best, float) else column


def _difference(a: Scores, b: Scores, higher_is_better: bool, *, resamples: int, seed: int) -> Difference:
    """Compare scores (N,), which are NaN if a picture has none."""
    left_out_a, left_out_b = int(np.isnan(a).sum()), int(np.isnan(b).sum())
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    differences, count = a - b, len(a)
    gains = differences if higher_is_better else -differences
    interval, reason = None, None
    if count == 0:
        reason = "no picture for which both models have the number"
    elif count == 1:
        reason = "one picture cannot show how much pictures differ"
    else:
        interval = bootstrap_interval(differences, resamples=resamples, seed=seed)
    return Difference(
        mean_a=float(a.mean()) if count else None,
        mean_b=float(b.mean()) if count else None,
        difference=float(differences.mean()) if count else None,
        interval=interval,
        reason=reason,
        count=count,
        left_out_a=left_out_a,
        left_out_b=left_out_b,
        wins=int((gains > 0).sum()),
        losses=int((gains < 0).sum()),
        ties=int((gains == 0).sum()),
        verdict=_verdict(interval, higher_is_better),
    )


def _verdict(interval: tuple[float, float] | None, higher_is_better: bool) -> str:
    if interval is None or interval[0] <= 0.0 <= interval[1]:
        return "no difference shown"
    return "better" if (interval[0] > 0.0) == higher_is_better else "worse"


def _gain(metric: str) -> Callable[[PictureChange], float]:
    """Return a function that computes by how much A is better on a picture."""
    sign = METRICS[metric].sign()
    return lambda change: sign * change.difference


def picture_changes(a: Report, b: Report) -> list[PictureChange]:
    """Pair the primary metric of both models for each picture for which both have it, sorted by the pictures' names."""
    metric = a.primary_metric
    of_a, of_b = ([one.per_image[i] for i in _by_name(one.per_image)] for one in (a, b))
    pairs = [(score, getattr(score, metric), getattr(other, metric)) for score, other in zip(of_a, of_b, strict=True)]
    return [
        PictureChange(score.name, score.caption, a, b, a - b)
        for score, a, b in pairs
        if a is not None and b is not None
    ]


def _worst_tenth(changes: Sequence[PictureChange], metric: str) -> WorstTenth:
    count = math.ceil(len(changes) / 10)
    if not count:
        return WorstTenth(0, None, None, None)
    high = METRICS[metric].sign() > 0
    a = float(np.mean(sorted((change.a for change in changes), reverse=not high)[:count]))
    b = float(np.mean(sorted((change.b for change in changes), reverse=not high)[:count]))
    return WorstTenth(count, a, b, a - b)
