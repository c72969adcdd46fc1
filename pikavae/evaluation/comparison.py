"""Two models on one frozen set, picture by picture: what got better, what got worse, and what may be chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pikavae.errors import UserError
from pikavae.evaluation.report import ImageScore, Report

HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "mse": False}
"""The metrics of a picture that say how near its reconstruction is."""
CONFIDENCE = 0.95
RESAMPLES = 9999
BATCH_NUMBERS = 4_000_000
"""Resampled differences that are held at once."""
MOST_CHANGED = 5

Verdict = Literal["better", "worse", "no difference shown"]


class Interval(NamedTuple):
    """The mean of paired differences, and the bounds of its confidence interval where there is one."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class MetricComparison:
    """One metric over the pictures for which both models have it."""

    candidate: float
    reference: float
    difference: Interval
    """Candidate less reference."""
    verdict: Verdict
    wins: int
    losses: int
    ties: int
    left_out: int
    """Pictures of which a model has no finite number."""


@dataclass(frozen=True)
class SliceComparison:
    """The primary metric over a part of the pictures."""

    name: str
    num_images: int
    difference: Interval
    verdict: Verdict


@dataclass(frozen=True)
class Changed:
    """A picture that gained or lost, by the primary metric."""

    name: str
    caption: str
    candidate: float
    reference: float


@dataclass(frozen=True)
class Comparison:
    """A candidate against a reference."""

    primary_metric: str
    num_images: int
    evaluation_set: str
    confidence: float
    resamples: int
    metrics: Mapping[str, MetricComparison]
    worst_tenth: Mapping[str, float]
    """The primary metric's mean over each model's own worst tenth: `candidate`, `reference`."""
    slices: Sequence[SliceComparison]
    most_gained: Sequence[Changed]
    most_lost: Sequence[Changed]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        tree = asdict(self)
        for part in (*tree["metrics"].values(), *tree["slices"]):
            part["difference"] = part["difference"]._asdict()
        return tree

    def table(self) -> str:
        """Aligned columns for a terminal."""
        rows = [("", "candidate", "reference", "difference", f"{CONFIDENCE:.0%} interval", "wins", "losses", "")]
        rows += [
            (
                name,
                f"{found.candidate:.4f}",
                f"{found.reference:.4f}",
                f"{found.difference.mean:+.4f}",
                _interval_text(found.difference),
                f"{found.wins:,}",
                f"{found.losses:,}",
                found.verdict,
            )
            for name, found in self.metrics.items()
        ]
        rows += [
            (
                f"{part.name} ({part.num_images:,})",
                "",
                "",
                f"{part.difference.mean:+.4f}",
                _interval_text(part.difference),
                "",
                "",
                part.verdict,
            )
            for part in self.slices
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) if place in {0, len(row) - 1} else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        worst = self.worst_tenth
        lines += [
            "",
            f"{self.primary_metric} of the worst tenth: {worst['candidate']:.4f} against {worst['reference']:.4f}",
        ]
        for title, changed in (("gained most", self.most_gained), ("lost most", self.most_lost)):
            lines += [
                f"{title}: {one.reference:.2f} -> {one.candidate:.2f}  {one.caption or one.name}" for one in changed
            ]
        return "\n".join(lines)


def compare(candidate: Report, reference: Report, slices: Mapping[str, Sequence[int]] | None = None) -> Comparison:
    """Compare two reports on the same pictures.

    The interval of a mean difference is the percentile bootstrap's (Efron and Tibshirani 1993, chapter 13) over 9,999
    resamples of the pictures, each with both models' numbers, from a fixed seed: the same reports give the same digits.
    A metric is better or worse where its interval leaves out zero. One picture has no interval, and shows nothing.

    Args:
        candidate: the report of the model in question.
        reference: the report of the model that it is held against.
        slices: parts of the set by name, as indices of its pictures.

    Raises:
        UserError: the reports are of different pictures or protocols, or no picture has the primary metric.
    """
    _require_alike(candidate, reference)
    pairs = {
        name: [
            _finite_pair(ours, theirs, name)
            for ours, theirs in zip(candidate.per_image, reference.per_image, strict=True)
        ]
        for name in HIGHER_IS_BETTER
    }
    metrics = {name: _metric(name, found) for name, found in pairs.items() if any(found)}
    primary = candidate.primary_metric
    if primary not in metrics:
        raise UserError(f"{primary}: no picture has it from both models, so that there is nothing to compare")
    rising = HIGHER_IS_BETTER[primary]
    parts = []
    for name, indices in (slices or {}).items():
        found = [pair for i in indices if (pair := pairs[primary][i])]
        if found:
            difference = mean_difference([ours - theirs for ours, theirs in found])
            parts.append(SliceComparison(name, len(found), difference, _verdict(difference, rising=rising)))
    whole = [pair for pair in pairs[primary] if pair]
    changed = [
        Changed(image.name, image.caption, *pair)
        for image, pair in zip(candidate.per_image, pairs[primary], strict=True)
        if pair
    ]
    gain = 1.0 if rising else -1.0
    ranked = sorted(changed, key=lambda one: (-gain * (one.candidate - one.reference), one.name))
    return Comparison(
        primary_metric=primary,
        num_images=candidate.num_images,
        evaluation_set=candidate.evaluation_set,
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        metrics=metrics,
        worst_tenth={
            name: _worst_tenth([pair[place] for pair in whole], rising=rising)
            for place, name in enumerate(("candidate", "reference"))
        },
        slices=parts,
        most_gained=[one for one in ranked[:MOST_CHANGED] if gain * (one.candidate - one.reference) > 0],
        most_lost=[one for one in ranked[::-1][:MOST_CHANGED] if gain * (one.candidate - one.reference) < 0],
    )


def mean_difference(differences: Sequence[float]) -> Interval:
    """The mean of paired differences and its bootstrap interval, as `compare` describes it; at least one is needed."""
    values = np.asarray(differences, dtype=np.float64)
    if len(values) == 1:
        return Interval(values.item(), None, None)
    from scipy.stats import bootstrap

    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_NUMBERS // len(values)),
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    return Interval(values.mean().item(), float(found.low), float(found.high))


def _require_alike(candidate: Report, reference: Report) -> None:
    for what, ours, theirs in (
        ("the evaluation set", candidate.evaluation_set, reference.evaluation_set),
        ("the names of the pictures", _names(candidate), _names(reference)),
        ("the primary metric", candidate.primary_metric, reference.primary_metric),
        *(
            (f"protocol: {name}", candidate.protocol.get(name), reference.protocol.get(name))
            for name in sorted({*candidate.protocol, *reference.protocol})
        ),
    ):
        if ours != theirs:
            shown = "" if isinstance(ours, list) else f" ({ours} and {theirs})"
            raise UserError(f"two reports that differ in {what}{shown} cannot be compared; evaluate both models anew")


def _names(report: Report) -> list[str]:
    return [image.name for image in report.per_image]


def _finite_pair(ours: ImageScore, theirs: ImageScore, metric: str) -> tuple[float, float] | None:
    pair = getattr(ours, metric), getattr(theirs, metric)
    return None if None in pair else pair


def _metric(name: str, pairs: Sequence[tuple[float, float] | None]) -> MetricComparison:
    found = [pair for pair in pairs if pair]
    candidate, reference = np.asarray(found, dtype=np.float64).T
    differences = candidate - reference
    interval = mean_difference(differences.tolist())
    gains = differences if HIGHER_IS_BETTER[name] else -differences
    return MetricComparison(
        candidate=candidate.mean().item(),
        reference=reference.mean().item(),
        difference=interval,
        verdict=_verdict(interval, rising=HIGHER_IS_BETTER[name]),
        wins=int((gains > 0).sum()),
        losses=int((gains < 0).sum()),
        ties=int((gains == 0).sum()),
        left_out=len(pairs) - len(found),
    )


def _verdict(difference: Interval, *, rising: bool) -> Verdict:
    if difference.low is None or difference.high is None or difference.low <= 0.0 <= difference.high:
        return "no difference shown"
    return "better" if (difference.low > 0) == rising else "worse"


def _worst_tenth(values: Sequence[float], *, rising: bool) -> float:
    ranked = sorted(values, reverse=not rising)
    return float(np.mean(ranked[: math.ceil(len(ranked) / 10)]))


def _interval_text(difference: Interval) -> str:
    if difference.low is None or difference.high is None:
        return "one picture"
    return f"[{difference.low:+.4f}, {difference.high:+.4f}]"
