"""What a candidate must pass before it can become champion: pure functions of reports and facts.

Each gate says `pass`, `hold` (it cannot be decided by what is known; a person may) or `fail`, in words and numbers. A
gain is how much better the candidate is than the champion on the same pictures; its 95 % interval decides against the
least gain asked for: `pass` where all of it reaches that, `fail` where all of it lies below, else `hold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pikavae.config import PromotionConfig
from pikavae.errors import UserError
from pikavae.evaluation.bootstrap import worst_tenth, worst_tenth_interval
from pikavae.evaluation.comparison import BETTER, Comparison, Difference, compare, refuse_unlike
from pikavae.evaluation.report import ImageScore, Report

Outcome = Literal["pass", "hold", "fail"]
ORDER: tuple[Outcome, ...] = ("pass", "hold", "fail")
"""From the best to the worst."""

NEVER_FORCED = frozenset({"integrity", "reports"})
"""Gates that nobody can override: what they refuse is not what was asked for."""
MIN_PICTURES = 20
"""With fewer, a bootstrap interval is too short to pass by."""
GUARDS: dict[str, tuple[str, ...]] = {
    "ssim_tolerance": ("ssim",),
    "ms_ssim_tolerance": ("ms_ssim",),
    "colour_shift_tolerance": ("colour_shift_red", "colour_shift_green", "colour_shift_blue"),
    "flat_noise_tolerance": ("flat_noise",),
    "sharpness_tolerance": ("high_frequency_ratio",),
}
"""The numbers of a picture that each tolerance of the policy is for."""
FLOORS = {"psnr_floor": "psnr", "ssim_floor": "ssim", "worst_tenth_floor": "psnr_worst_tenth"}
"""The metric that each floor of the policy is for."""


@dataclass(frozen=True)
class Finding:
    """One thing that a gate looked at, in words and numbers."""

    outcome: Outcome
    reason: str


@dataclass(frozen=True)
class Gate:
    """What one gate said.

    Attributes:
        name: of the gate.
        outcome: the worst of its findings.
        findings: at least one, the worst first.
        thresholds: what of the policy it went by.
    """

    name: str
    outcome: Outcome
    findings: tuple[Finding, ...]
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, findings: Sequence[Finding], thresholds: Mapping[str, Any] | None = None) -> Gate:
        """A gate by its findings."""
        ordered = sorted(findings, key=lambda finding: -ORDER.index(finding.outcome))
        return cls(name, ordered[0].outcome, tuple(ordered), thresholds or {})


@dataclass(frozen=True)
class Integrity:
    """What was found in a candidate's files.

    Attributes:
        differing: files that are missing or not as they were registered.
        non_finite: names of weights that hold NaN or infinite numbers.
    """

    differing: Sequence[str] = ()
    non_finite: Sequence[str] = ()


@dataclass(frozen=True)
class Seen:
    """What is known of the pictures that a model was trained on.

    Attributes:
        who: the model, for a person.
        leaked: names of evaluation pictures among them.
        unknown: why not all of them are known, a line each.
    """

    who: str
    leaked: Sequence[str] = ()
    unknown: Sequence[str] = ()


@dataclass(frozen=True)
class Measured:
    """A model's report, and what it must be a report of.

    Attributes:
        report: its numbers.
        model: digest of the snapshot.
        evaluation_set: digest of the pictures.
    """

    report: Report
    model: str
    evaluation_set: str


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """The worst of some outcomes; `pass` of none."""
    return max(outcomes, key=ORDER.index, default="pass")


def integrity(facts: Integrity) -> Gate:
    """Whether the files are those that were registered, and every weight is a finite number."""
    findings = []
    if facts.differing:
        findings.append(Finding("fail", f"{_some(facts.differing, 'file')} missing or not as registered"))
    if facts.non_finite:
        findings.append(Finding("fail", f"{_some(facts.non_finite, 'weight')} not finite"))
    return Gate.of("integrity", findings or [Finding("pass", "files as registered, all weights finite")])


def judge(
    candidate: Measured, champion: Measured | None, seen: Sequence[Seen], policy: PromotionConfig
) -> tuple[Gate, ...]:
    """All gates but that of integrity.

    Args:
        candidate: measured.
        champion: measured on the same pictures; None when there is none yet.
        seen: the pictures that either was trained on.
        policy: what is asked for.
    """
    found = [_reports(candidate, champion), floors(candidate.report, policy)]
    if champion is None:
        first = Finding("pass", "there is no champion yet")
        found += [Gate.of("regression", [first]), Gate.of("worst tenth", [first])]
    elif found[0].outcome == "pass":
        comparison = compare(candidate.report, champion.report)
        found += [regression(comparison, policy), worst_tenths(candidate.report, champion.report, policy)]
    return (*found, leakage(seen), half_precision(candidate.report, policy))


def _reports(candidate: Measured, champion: Measured | None) -> Gate:
    """Whether the reports are of these models on these pictures, and can be compared."""
    findings = []
    for who, measured in (("candidate", candidate), ("champion", champion)):
        if measured is None:
            continue
        of_set, of_model = measured.report.evaluation_set, measured.report.provenance.get("model")
        if of_set != measured.evaluation_set:
            said = f"the {who}'s report is of evaluation set {of_set}, not {measured.evaluation_set}"
            findings.append(Finding("fail", said))
        if of_model != measured.model:
            findings.append(Finding("fail", f"the {who}'s report is of model {of_model}, not {measured.model}"))
        if forged := _not_finite(measured.report.per_image):
            findings.append(Finding("fail", f"the {who}'s report holds what no evaluation writes: {forged}"))
    if champion is not None:
        try:
            refuse_unlike(candidate.report, champion.report)
        except UserError as error:
            findings.append(Finding("fail", str(error)))
    said = f"measured on {candidate.report.num_images} pictures, set {candidate.evaluation_set}"
    return Gate.of("reports", findings or [Finding("pass", said)])


def floors(report: Report, policy: PromotionConfig) -> Gate:
    """Whether every reconstruction is finite and the metrics reach what they must; one that is missing does not."""
    broken = number_of(report.metrics.get("non_finite_fraction"))
    if broken is None:
        findings = [Finding("fail", "non_finite_fraction is missing from the report")]
    else:
        said = f"{broken:.3g} of the reconstructions' values are not finite"
        findings = [Finding("pass" if broken == 0.0 else "fail", said)]
    thresholds = {}
    for threshold, metric in FLOORS.items():
        least = getattr(policy, threshold)
        if least is None:
            continue
        thresholds[threshold] = least
        value = number_of(report.metrics.get(metric))
        if value is None:
            why = report.reasons.get(metric, "missing, NaN or infinite")
            findings.append(Finding("fail", f"{metric} has no number ({why}), at least {least:g} is asked for"))
        else:
            said = f"{metric} {value:.4g}, at least {least:g} is asked for"
            findings.append(Finding("pass" if value >= least else "fail", said))
    return Gate.of("floors", findings, thresholds)


def regression(comparison: Comparison, policy: PromotionConfig) -> Gate:
    """Whether the primary metric gained what it must, and no guarded number lost more than its tolerance."""
    primary = comparison.primary_metric
    findings = [_standing(primary, comparison.metrics[primary], policy.min_gain, required=True)]
    thresholds: dict[str, Any] = {"min_gain": policy.min_gain}
    for threshold, names in GUARDS.items():
        tolerance = getattr(policy, threshold)
        if tolerance is None:
            continue
        thresholds[threshold] = tolerance
        findings += [_standing(name, comparison.metrics[name], -tolerance) for name in names if name != primary]
    return Gate.of("regression", [*findings, *_too_few(comparison.num_images)], thresholds)


def _standing(name: str, found: Difference, least: float, *, required: bool = False) -> Finding:
    """Where the interval of a gain lies against the least that is asked for."""
    if (missing := found.left_out_a - found.left_out_b) > 0:
        return Finding("fail", f"{name}: no number for {missing} pictures for which the champion has one")
    if found.count == 0 and not required:
        return Finding("pass", f"{name}: not defined on these pictures")
    if found.interval is None or found.difference is None:
        return Finding("hold", f"{name}: {found.reason}")
    sign = 1.0 if BETTER[name] == "higher" else -1.0
    low, high = sorted(sign * end for end in found.interval)
    return _decide(f"{name} gain {sign * found.difference:+.4g}", low, high, least)


def _decide(what: str, low: float, high: float, least: float) -> Finding:
    outcome: Outcome = "fail" if high < least else "hold" if low < least else "pass"
    return Finding(outcome, f"{what} (95 %: {low:+.4g} to {high:+.4g}), at least {least:+.4g} is asked for")


def _too_few(count: int) -> list[Finding]:
    said = f"of {count} pictures only: under {MIN_PICTURES}, an interval is too short to pass by"
    return [Finding("hold", said)] if count < MIN_PICTURES else []


def worst_tenths(report: Report, champion: Report, policy: PromotionConfig) -> Gate:
    """Whether the worst tenth of the candidate's reconstructions is not worse than the champion's worst tenth."""
    tolerance = policy.worst_tenth_tolerance
    if tolerance is None:
        return Gate.of("worst tenth", [Finding("pass", "no tolerance is set")])
    sides = (sorted(one.per_image, key=lambda score: score.name) for one in (report, champion))
    pairs = [(ours.psnr, theirs.psnr) for ours, theirs in zip(*sides, strict=True)]
    both = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
    if any(psnr is None for psnr, _ in pairs):
        findings = [Finding("fail", "some reconstructions have no PSNR")]
    elif len(both) < 2:
        findings = [Finding("hold", "fewer than two pictures for which both have a PSNR")]
    else:
        a, b = both[:, 0], both[:, 1]
        low, high = worst_tenth_interval(a, b, resamples=9999, seed=0)
        what = f"PSNR of the worst tenth, gain {worst_tenth(a) - worst_tenth(b):+.4g} dB"
        findings = [_decide(what, low, high, -tolerance), *_too_few(len(both))]
    return Gate.of("worst tenth", findings, {"worst_tenth_tolerance": tolerance})


def leakage(seen: Sequence[Seen]) -> Gate:
    """Whether no evaluation picture was among those that either model was trained on."""
    findings = []
    for model in seen:
        if model.leaked:
            said = f"{_some(model.leaked, 'evaluation picture')} among the training pictures of the {model.who}"
            findings.append(Finding("fail", f"{said}; measure on others, --data.source"))
        findings += [Finding("hold", f"training pictures of the {model.who}: {reason}") for reason in model.unknown]
    return Gate.of("leakage", findings or [Finding("pass", "no evaluation picture was trained on")])


def half_precision(report: Report, policy: PromotionConfig) -> Gate:
    """Whether the model gives in half precision what it gives in float32, as the report measured it."""
    said: dict[str, Outcome] = {"pass": "pass", "fail": "fail"}
    findings = []
    for name in policy.half_precision:
        found = report.precision.get(name, {})
        verdict = str(found.get("verdict", "not measured"))
        reason = f", {found['reason']}" if "reason" in found else ""
        findings.append(Finding(said.get(verdict, "hold"), f"{name}: {verdict}{reason}"))
    thresholds = {"half_precision": list(policy.half_precision)}
    return Gate.of("half precision", findings or [Finding("pass", "no format is asked for")], thresholds)


def number_of(value: object) -> float | None:
    """A finite number; None for what is missing, NaN, infinite or no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _not_finite(scores: Sequence[ImageScore]) -> str | None:
    """The first number of a picture that is NaN or infinite: `evaluate` writes none in its place."""
    for score in scores:
        for name in BETTER:
            value = getattr(score, name)
            if value is not None and number_of(value) is None:
                return f"{name} {value} of {score.name!r}"
    return None


def _some(names: Sequence[str], what: str) -> str:
    if len(names) == 1:
        return f"{what} {names[0]!r} is"
    return f"{len(names)} {what}s (first {names[0]!r}) are"
