"""Two reports on the same pictures compared picture by picture: what got better, what got worse, and where.

A difference is A - B, where A is the model in question and B the one it is held against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pikavae.errors import UserError
from pikavae.evaluation.bootstrap import CONFIDENCE, Scores, bootstrap_interval
from pikavae.evaluation.report import ImageScore, Report
from pikavae.files import write_atomically

BETTER: dict[str, Literal["higher", "lower"] | float] = {
    "psnr": "higher",
    "psnr_foreground": "higher",
    "ssim": "higher",
    "ms_ssim": "higher",
    "lpips": "lower",
    "mse": "lower",
    "border_mse": "lower",
    "inside_mse": "lower",
    "edge_error": "lower",
    "flat_noise": "lower",
    "colour_shift_red": 0.0,
    "colour_shift_green": 0.0,
    "colour_shift_blue": 0.0,
    "high_frequency_ratio": 1.0,
    "kl_nats": "lower",
}
"""The numbers of a picture that are compared where a report has them, and what is better: higher, lower, or nearer to a
number; of the last, the distances from it are compared. Fewer nats of KL are better as they are a cost in the evidence
lower bound (Kingma & Welling 2014): weigh them against the reconstruction."""

MOST_CHANGED = 5


@dataclass(frozen=True)
class Difference:
    """One metric of A and B over the pictures for which both have it; or its distance from the best number.

    Attributes:
        mean_a: A's mean; None where there is no such picture, as are `mean_b` and `difference`.
        mean_b: B's mean.
        difference: mean of A - B.
        interval: of `difference`, at 95 % confidence; None where `reason` says why.
        reason: why there is no interval.
        count: the pictures.
        left_out_a: pictures for which A has no such number: it is not finite, or not defined for the picture.
        left_out_b: pictures for which B has none.
        wins: pictures at which A is better; `losses`: at which B is; `ties`: at which they are equal.
        verdict: `better` or `worse`, of A, where the interval lies on one side of zero, else `no difference shown`.
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
    """A picture, and the primary metric of both models on it."""

    name: str
    caption: str
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class WorstTenth:
    """The primary metric's mean over each model's own worst tenth of the pictures, rounded up."""

    count: int
    a: float | None
    b: float | None
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. JSON values throughout."""

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
    """The pictures at which A is worse by the primary metric, the largest loss first."""
    most_won: Sequence[PictureChange]
    """The pictures at which A is better by the primary metric, the largest gain first."""
    slices: Mapping[str, Difference]
    """The primary metric within parts of the set. At 95 % each, one in twenty errs by chance."""

    def save(self, path: Path, **about: Any) -> None:
        """Write it as JSON to `path`, whose folder exists; `about` are JSON values that are told first."""
        tree = {**about, **asdict(self)}
        write_atomically(path, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def compare(
    a: Report, b: Report, *, slices: Mapping[str, Sequence[bool]] | None = None, resamples: int = 9999, seed: int = 0
) -> Comparison:
    """Compare A with B picture by picture.

    The interval of a mean difference is a paired bootstrap: the pictures' differences are drawn again with replacement,
    and the interval is bias-corrected and accelerated (BCa; Efron & Tibshirani 1993, chapter 14). It speaks of pictures
    like these; with fewer than about twenty it is too short. Every metric draws from a generator of its own with the
    same seed, and pictures are taken in the order of their names, so that a repetition gives the same to the last digit
    in whatever order the pictures came.

    Args:
        a: the report of the model in question.
        b: the report of the model that it is held against.
        slices: parts of the set by name: for each of A's pictures, in the report's order, whether it belongs.
        resamples: how many times the pictures are drawn again.
        seed: of the draws.

    Raises:
        UserError: the reports are not of the same pictures, measured by the same protocol.
    """
    refuse_unlike(a, b)
    order_a, order_b = _by_name(a.per_image), _by_name(b.per_image)
    of_a, of_b = [a.per_image[i] for i in order_a], [b.per_image[i] for i in order_b]

    def difference(name: str, mask: NDArray[np.bool_]) -> Difference:
        return _difference(
            _column(of_a, name)[mask],
            _column(of_b, name)[mask],
            BETTER[name] == "higher",
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
        metrics={name: difference(name, everything) for name in compared_metrics()},
        worst_tenth=_worst_tenth(changes, primary),
        most_lost=[change for change in sorted(changes, key=gain) if gain(change) < 0][:MOST_CHANGED],
        most_won=[change for change in sorted(changes, key=lambda c: -gain(c)) if gain(change) > 0][:MOST_CHANGED],
        slices={
            name: difference(primary, np.asarray(mask, dtype=bool)[order_a]) for name, mask in (slices or {}).items()
        },
    )


def compared_metrics() -> list[str]:
    """The numbers of a picture that `compare` compares, in the report's order."""
    return [field.name for field in fields(ImageScore) if field.name in BETTER]


def refuse_unlike(a: Report, b: Report) -> None:
    """Check that two reports are of the same pictures, measured by the same protocol.

    Raises:
        UserError: they are not; the message names the first thing that differs.
    """
    for name in ("evaluation_set", "image_size"):
        ours, theirs = getattr(a, name), getattr(b, name)
        if ours != theirs:
            raise UserError(
                f"{name} {ours!r} of one report and {theirs!r} of the other: evaluate both models on the same pictures"
            )
    for name in sorted({*a.protocol, *b.protocol}):
        ours, theirs = a.protocol.get(name), b.protocol.get(name)
        if ours != theirs:
            raise UserError(
                f"protocol.{name} {ours!r} of one report and {theirs!r} of the other: evaluate both models again, "
                f"with the same settings on the same kind of device"
            )
    ours, theirs = sorted(score.name for score in a.per_image), sorted(score.name for score in b.per_image)
    if ours != theirs:
        odd = sorted({*ours} ^ {*theirs}) or [name for name in ours if ours.count(name) != theirs.count(name)]
        raise UserError(
            f"per_image: picture {odd[0]!r} is not equally in both reports: evaluate both models on the same pictures"
        )


def _by_name(scores: Sequence[ImageScore]) -> list[int]:
    """Indices in the order of the names; those of one name keep theirs."""
    return sorted(range(len(scores)), key=lambda i: scores[i].name)


def _column(scores: Sequence[ImageScore], name: str) -> Scores:
    """(N,) float64, distances where the best is a number; NaN where the picture has no such number."""
    values = [getattr(score, name) for score in scores]
    column = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    best = BETTER[name]
    return np.abs(column - best) if isinstance(best, float) else column


def _difference(a: Scores, b: Scores, higher_is_better: bool, *, resamples: int, seed: int) -> Difference:
    """Of scores (N,) that are NaN where there are none."""
    left_out_a, left_out_b = int(np.isnan(a).sum()), int(np.isnan(b).sum())
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    differences, count = a - b, len(a)
    gains = differences if higher_is_better else -differences
    interval, reason = None, None
    if count == 0:
        reason = "no picture for which both models have the number"
    elif count == 1:
        reason = "one picture tells nothing of how others differ"
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
    """By how much A is better at a picture."""
    sign = 1.0 if BETTER[metric] == "higher" else -1.0
    return lambda change: sign * change.difference


def picture_changes(a: Report, b: Report) -> list[PictureChange]:
    """The primary metric of both on each picture for which both have it, in the order of the pictures' names."""
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
    high = BETTER[metric] == "higher"
    a = float(np.mean(sorted((change.a for change in changes), reverse=not high)[:count]))
    b = float(np.mean(sorted((change.b for change in changes), reverse=not high)[:count]))
    return WorstTenth(count, a, b, a - b)
