"""Judges whether a candidate can become champion, with pure functions of reports and facts.

Each gate says `pass`, `hold` (what is known cannot decide; a person may) or `fail`, in words and numbers. A gain is how
much better the candidate is than the champion on the same pictures. Its 95 % interval is compared with the least gain
that the policy asks for: `pass` if the whole interval reaches it, `fail` if the whole interval is below it, else
`hold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pikavae.config import PromotionConfig
from pikavae.errors import UserError
from pikavae.evaluation.compare.comparison import Comparison, Difference, compare, refuse_unlike
from pikavae.evaluation.metrics.bootstrap import worst_tenth, worst_tenth_interval
from pikavae.evaluation.metrics.definitions import COMPARED, METRICS
from pikavae.evaluation.report.report import ImageScore, Report
from pikavae.production.record.verdicts import Outcome

ORDER: tuple[Outcome, ...] = ("pass", "hold", "fail")
"""The outcomes, from the best to the worst."""

NEVER_FORCED = frozenset({"integrity", "reports"})
"""Gates that nobody can override, because what they refuse is not what was asked for."""
MIN_PICTURES = 20
"""The least number of pictures for a `pass`. With fewer, a bootstrap interval is too short to rely on."""
GUARDS = {
    tolerance: tuple(metric.name for metric in COMPARED if metric.tolerance == tolerance)
    for tolerance in dict.fromkeys(metric.tolerance for metric in COMPARED if metric.tolerance)
}
"""The numbers of a picture that each tolerance of the policy applies to."""
FLOORS = {metric.floor: metric.name for metric in METRICS.values() if metric.floor}
"""The metric that each floor of the policy applies to."""


@dataclass(frozen=True)
class GateFinding:
    """States one thing that a gate observed, in words and numbers."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Gate:
    """Holds the outcome of one gate.

    Attributes:
        name: the gate's name.
        outcome: the worst outcome of its findings.
        findings: at least one, the worst first.
        thresholds: the settings of the policy that it used.
    """

    name: str
    outcome: Outcome
    findings: tuple[GateFinding, ...]
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, findings: Sequence[GateFinding], thresholds: Mapping[str, Any] | None = None) -> Gate:
        """Return the gate with these findings."""
        ordered = sorted(findings, key=lambda finding: -ORDER.index(finding.outcome))
        return cls(name, ordered[0].outcome, tuple(ordered), thresholds or {})


@dataclass(frozen=True)
class Integrity:
    """Lists what is wrong with a candidate's files.

    Attributes:
        differing: files that are missing or differ from what was registered.
        non_finite: names of weights that hold NaN or infinite numbers.
    """

    differing: Sequence[str] = ()
    non_finite: Sequence[str] = ()


@dataclass(frozen=True)
class TrainingPictures:
    """Holds what is known of the pictures that a model was trained on.

    Attributes:
        who: the model, as messages call it.
        leaked: names of evaluation pictures among them.
        unknown: the reasons why some of them are not known, a line each.
    """

    who: str
    leaked: Sequence[str] = ()
    unknown: Sequence[str] = ()


@dataclass(frozen=True)
class MeasuredModel:
    """Holds a model's report, and the model and pictures that it must be about.

    Attributes:
        report: the model's numbers.
        model: digest of the snapshot.
        evaluation_set: digest of the pictures.
    """

    report: Report
    model: str
    evaluation_set: str


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the worst of some outcomes; `pass` if there are none."""
    return max(outcomes, key=ORDER.index, default="pass")


def integrity(facts: Integrity) -> Gate:
    """Check that the files are those that were registered and that every weight is a finite number."""
    findings = []
    if facts.differing:
        findings.append(GateFinding("fail", f"{_some(facts.differing, 'file')} missing or not as registered"))
    if facts.non_finite:
        findings.append(GateFinding("fail", f"{_some(facts.non_finite, 'weight')} not finite"))
    return Gate.of("integrity", findings or [GateFinding("pass", "files as registered, all weights finite")])


def judge(
    candidate: MeasuredModel, champion: MeasuredModel | None, seen: Sequence[TrainingPictures], policy: PromotionConfig
) -> tuple[Gate, ...]:
    """Return the outcomes of all gates except that of integrity.

    Args:
        candidate: the candidate's report.
        champion: the champion's report on the same pictures; None if there is no champion yet.
        seen: the training pictures of both models.
        policy: the floors and tolerances.
    """
    found = [_reports(candidate, champion), floors(candidate.report, policy)]
    if champion is None:
        first = GateFinding("pass", "there is no champion yet")
        found += [Gate.of("regression", [first]), Gate.of("worst tenth", [first])]
    elif found[0].outcome == "pass":
        comparison = compare(candidate.report, champion.report)
        found += [regression(comparison, policy), worst_tenths(candidate.report, champion.report, policy)]
    return (*found, leakage(seen), half_precision(candidate.report, policy))


def _reports(candidate: MeasuredModel, champion: MeasuredModel | None) -> Gate:
    """Check that the reports are about these models on these pictures and can be compared."""
    findings = []
    for who, measured in (("candidate", candidate), ("champion", champion)):
        if measured is None:
            continue
        of_set, of_model = measured.report.evaluation_set, measured.report.provenance.get("model")
        if of_set != measured.evaluation_set:
            said = f"the {who}'s report is of evaluation set {of_set}, not {measured.evaluation_set}"
            findings.append(GateFinding("fail", said))
        if of_model != measured.model:
            findings.append(GateFinding("fail", f"the {who}'s report is of model {of_model}, not {measured.model}"))
        if forged := _not_finite(measured.report.per_image):
            findings.append(GateFinding("fail", f"the {who}'s report holds what no evaluation writes: {forged}"))
    if champion is not None:
        try:
            refuse_unlike(candidate.report, champion.report)
        except UserError as error:
            findings.append(GateFinding("fail", str(error)))
    said = f"measured on {candidate.report.num_images} pictures, set {candidate.evaluation_set}"
    return Gate.of("reports", findings or [GateFinding("pass", said)])


def floors(report: Report, policy: PromotionConfig) -> Gate:
    """Check that every reconstruction is finite and every metric reaches its floor. A missing metric fails."""
    broken = finite_number(report.metrics.get("non_finite_fraction"))
    if broken is None:
        findings = [GateFinding("fail", "non_finite_fraction is missing from the report")]
    else:
        said = f"{broken:.3g} of the reconstructions' values are not finite"
        findings = [GateFinding("pass" if broken == 0.0 else "fail", said)]
    thresholds = {}
    for threshold, metric in FLOORS.items():
        least = getattr(policy, threshold)
        if least is None:
            continue
        thresholds[threshold] = least
        value = finite_number(report.metrics.get(metric))
        if value is None:
            why = report.reasons.get(metric, "missing, NaN or infinite")
            findings.append(GateFinding("fail", f"{metric} has no number ({why}), at least {least:g} is asked for"))
        else:
            said = f"{metric} {value:.4g}, at least {least:g} is asked for"
            findings.append(GateFinding("pass" if value >= least else "fail", said))
    return Gate.of("floors", findings, thresholds)


def regression(comparison: Comparison, policy: PromotionConfig) -> Gate:
    """Check that the primary metric gains enough and that no guard loses more than its tolerance."""
    primary = comparison.primary_metric
    findings = [_judge_gain(primary, comparison.metrics[primary], policy.min_gain, required=True)]
    thresholds: dict[str, Any] = {"min_gain": policy.min_gain}
    for threshold, names in GUARDS.items():
        tolerance = getattr(policy, threshold)
        if tolerance is None:
            continue
        thresholds[threshold] = tolerance
        findings += [_judge_gain(name, comparison.metrics[name], -tolerance) for name in names if name != primary]
    return Gate.of("regression", [*findings, *_too_few(comparison.num_images)], thresholds)


def _judge_gain(name: str, found: Difference, least: float, *, required: bool = False) -> GateFinding:
    """Compare the interval of a gain with the least gain that the policy asks for."""
    if (missing := found.left_out_a - found.left_out_b) > 0:
        return GateFinding("fail", f"{name}: no number for {missing} pictures for which the champion has one")
    if found.count == 0 and not required:
        return GateFinding("pass", f"{name}: not defined on these pictures")
    if found.interval is None or found.difference is None:
        return GateFinding("hold", f"{name}: {found.reason}")
    sign = METRICS[name].sign()
    low, high = sorted(sign * end for end in found.interval)
    return _decide(f"{name} gain {sign * found.difference:+.4g}", low, high, least)


def _decide(what: str, low: float, high: float, least: float) -> GateFinding:
    outcome: Outcome = "fail" if high < least else "hold" if low < least else "pass"
    return GateFinding(outcome, f"{what} (95 %: {low:+.4g} to {high:+.4g}), at least {least:+.4g} is asked for")


def _too_few(count: int) -> list[GateFinding]:
    said = f"of {count} pictures only: under {MIN_PICTURES}, an interval is too short to pass by"
    return [GateFinding("hold", said)] if count < MIN_PICTURES else []


def worst_tenths(report: Report, champion: Report, policy: PromotionConfig) -> Gate:
    """Check that the candidate's worst tenth is not worse than the champion's by more than the tolerance."""
    tolerance = policy.worst_tenth_tolerance
    if tolerance is None:
        return Gate.of("worst tenth", [GateFinding("pass", "no tolerance is set")])
    sides = (sorted(one.per_image, key=lambda score: score.name) for one in (report, champion))
    pairs = [(ours.psnr, theirs.psnr) for ours, theirs in zip(*sides, strict=True)]
    both = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
    if any(psnr is None for psnr, _ in pairs):
        findings = [GateFinding("fail", "some reconstructions have no PSNR")]
    elif len(both) < 2:
        findings = [GateFinding("hold", "fewer than two pictures for which both have a PSNR")]
    else:
        a, b = both[:, 0], both[:, 1]
        low, high = worst_tenth_interval(a, b, resamples=9999, seed=0)
        what = f"PSNR of the worst tenth, gain {worst_tenth(a) - worst_tenth(b):+.4g} dB"
        findings = [_decide(what, low, high, -tolerance), *_too_few(len(both))]
    return Gate.of("worst tenth", findings, {"worst_tenth_tolerance": tolerance})


def leakage(seen: Sequence[TrainingPictures]) -> Gate:
    """Check that neither model was trained on an evaluation picture."""
    findings = []
    for model in seen:
        if model.leaked:
            said = f"{_some(model.leaked, 'evaluation picture')} among the training pictures of the {model.who}"
            findings.append(GateFinding("fail", f"{said}; measure on others, --data.source"))
        findings += [GateFinding("hold", f"training pictures of the {model.who}: {reason}") for reason in model.unknown]
    return Gate.of("leakage", findings or [GateFinding("pass", "no evaluation picture was trained on")])


def half_precision(report: Report, policy: PromotionConfig) -> Gate:
    """Check that the model gives in half precision what it gives in float32, as the report measured it."""
    findings = []
    for name in policy.half_precision:
        found = report.precision.get(name)
        if found is None:
            findings.append(GateFinding("hold", f"{name}: not measured"))
        else:
            remedy = "; pikavae half-safe makes a copy whose layers stay below" if found.beyond else ""
            findings.append(GateFinding(found.verdict, f"{name}: {found.verdict}, {found.reason}{remedy}"))
    thresholds = {"half_precision": list(policy.half_precision)}
    return Gate.of("half precision", findings or [GateFinding("pass", "no format is asked for")], thresholds)


def finite_number(value: object) -> float | None:
    """Return the value as a finite number; None if it is missing, NaN, infinite or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _not_finite(scores: Sequence[ImageScore]) -> str | None:
    """Name the first number of a picture that is NaN or infinite; None if there is none. `evaluate` writes none."""
    for score in scores:
        for name in (metric.name for metric in COMPARED):
            value = getattr(score, name)
            if value is not None and finite_number(value) is None:
                return f"{name} {value} of {score.name!r}"
    return None


def _some(names: Sequence[str], what: str) -> str:
    if len(names) == 1:
        return f"{what} {names[0]!r} is"
    return f"{len(names)} {what}s (first {names[0]!r}) are"
