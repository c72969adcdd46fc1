"""Gates are pure: what they say follows from reports and facts, and no missing, forged or unlike number passes."""

import dataclasses
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from pikavae.config import PromotionConfig
from pikavae.evaluation.compare.comparison import compare
from pikavae.evaluation.measure import baselines
from pikavae.evaluation.metrics.bootstrap import worst_tenth, worst_tenth_interval
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.report.sections import HalfPrecision
from pikavae.production.judgements import gates
from pikavae.production.judgements.gates import Integrity, MeasuredModel, TrainingPictures
from tests.evaluation.compare.test_comparison import report


def half(verdict="pass", reason="as float32", **others):
    """A half format with this verdict."""
    psnr = dict.fromkeys(("psnr", "psnr_min", "psnr_in_float32", "psnr_to_float32", "psnr_to_float32_min"), 40.0)
    shares = dict.fromkeys(("max_difference", "latents_non_finite", "pictures_non_finite"), 0.0)
    return HalfPrecision.model_validate(
        {"num_images": 8, "native": False, **psnr, **shares, **others, "verdict": verdict, "reason": reason}
    )


COUNT = 60
HALVES = {name: half() for name in ("bf16", "fp16")}
GENERATOR = np.random.default_rng(0)
PSNR = GENERATOR.normal(25, 3, COUNT)
NOISE = GENERATOR.normal(0, 0.3, COUNT)
NOISE -= NOISE.mean()
OTHERS = {"ssim": 0.9, "ms_ssim": 0.95, "flat_noise": 0.01, "high_frequency_ratio": 0.9}
OTHERS |= {f"colour_shift_{colour}": -0.01 for colour in ("red", "green", "blue")}


def measured(psnr=PSNR, *, model="m", evaluation_set="d1", metrics=(), precision=HALVES, **columns):
    """A model measured on the pictures; `columns` are numbers of every picture, or one for all."""
    numbers = {"psnr": list(psnr), **{name: spread(value, len(psnr)) for name, value in {**OTHERS, **columns}.items()}}
    found = report(**numbers)
    of_set = {
        "psnr": float(np.mean([*(value for value in psnr if value is not None)] or [0.0])),
        "ssim": 0.9,
        "psnr_worst_tenth": 20.0,
        "non_finite_fraction": 0.0,
        **dict(metrics),
    }
    found = found.model_copy(update={"metrics": of_set, "precision": precision, "provenance": {"model": model}})
    return MeasuredModel(found, "m", evaluation_set)


def spread(value, count):
    return list(value) if isinstance(value, list | np.ndarray) else [value] * count


def judge(candidate, champion=None, seen=(), **policy):
    """Outcomes by gate."""
    return {gate.name: gate for gate in gates.judge(candidate, champion, seen, PromotionConfig(**policy))}


def outcomes(found):
    return {name: gate.outcome for name, gate in found.items()}


def words(gate):
    return "\n".join(finding.reason for finding in gate.findings)


def test_a_better_model_passes_every_gate_in_numbers():
    found = judge(measured(PSNR + 1 + NOISE), measured())
    assert set(outcomes(found).values()) == {"pass"}
    low, high = compare(measured(PSNR + 1 + NOISE).report, measured().report).metrics["psnr"].interval
    assert f"psnr gain +1 (95 %: {low:+.4g} to {high:+.4g}), at least +0 is asked for" in words(found["regression"])
    assert found["regression"].thresholds["min_gain"] == 0.0
    assert found["floors"].thresholds == {"psnr_floor": 19.49}


def test_the_first_version_has_floors_and_no_regression():
    assert set(outcomes(judge(measured())).values()) == {"pass"}
    low = judge(measured(PSNR - 10))
    assert outcomes(low) == {**outcomes(judge(measured())), "floors": "fail"}
    assert words(low["regression"]) == "there is no champion yet"


def test_the_default_floor_is_the_original_tutorials_bar():
    assert PromotionConfig().psnr_floor == round(baselines.original_bar(), 2)


@pytest.mark.parametrize(
    ("floors", "metrics", "outcome"),
    [
        ({}, {"psnr": 19.49}, "pass"),
        ({}, {"psnr": 19.4899}, "fail"),
        ({"psnr_floor": None}, {"psnr": 1.0}, "pass"),
        ({"ssim_floor": 0.9}, {"ssim": 0.9}, "pass"),
        ({"ssim_floor": 0.9}, {"ssim": 0.89}, "fail"),
        ({"worst_tenth_floor": 21}, {}, "fail"),
        ({}, {"psnr": None}, "fail"),
        ({}, {"psnr": math.nan}, "fail"),
        ({}, {"psnr": math.inf}, "fail"),
        ({}, {"psnr": "25"}, "fail"),
        ({}, {"psnr": True}, "fail"),
        ({"psnr_floor": None}, {"non_finite_fraction": 1e-9}, "fail"),
        ({"psnr_floor": None}, {"non_finite_fraction": math.nan}, "fail"),
        ({"psnr_floor": None}, {"non_finite_fraction": None}, "fail"),
    ],
)
def test_a_floor_is_reached_by_a_finite_number_alone(floors, metrics, outcome):
    assert judge(measured(metrics=metrics), **floors)["floors"].outcome == outcome


def test_a_metric_that_is_missing_altogether_fails_with_the_reason():
    one = measured()
    metrics = {name: value for name, value in one.report.metrics.items() if name != "psnr"}
    without = one.report.model_copy(update={"metrics": metrics, "reasons": {"psnr": "no picture is finite"}})
    gate = judge(dataclasses.replace(one, report=without))["floors"]
    assert (gate.outcome, "psnr has no number (no picture is finite), at least 19.49" in words(gate)) == ("fail", True)


@pytest.mark.parametrize(
    ("gain", "min_gain", "outcome"),
    [(0.5, 0, "pass"), (-0.5, 0, "fail"), (0, 0, "hold"), (0, -0.3, "pass"), (0.5, 0.5, "hold"), (0.5, 0.9, "fail")],
)
def test_the_interval_of_the_primary_metric_decides(gain, min_gain, outcome):
    found = judge(measured(PSNR + gain + NOISE), measured(), min_gain=min_gain, worst_tenth_tolerance=None)
    assert found["regression"].outcome == outcome


GUARDED = [(field, name) for field, names in gates.GUARDS.items() for name in names]


@pytest.mark.parametrize(("field", "name"), GUARDED)
def test_each_guard_fails_holds_and_passes_by_where_its_interval_lies(field, name):
    tolerance = getattr(PromotionConfig(), field)
    best = METRICS[name].better
    worse = math.copysign(1.0, OTHERS[name] - best) if isinstance(best, float) else -1.0 if best == "higher" else 1.0
    noise = NOISE / np.abs(NOISE).max() * tolerance / 2
    for loss, outcome in ((2.0, "fail"), (1.0, "hold"), (0.5, "pass"), (-0.1, "pass")):
        found = judge(measured(**{name: OTHERS[name] + worse * loss * tolerance + noise}), measured())
        gate = found["regression"]
        finding = next(finding for finding in gate.findings if finding.reason.startswith(f"{name} gain"))
        assert (finding.outcome, gate.outcome) == (outcome, outcome), (loss, finding)
        assert gate.thresholds[field] == tolerance
    assert judge(measured(**{name: OTHERS[name] + worse}), measured(), **{field: None})["regression"].outcome == "pass"


def test_a_guard_that_no_picture_can_have_is_not_asked_for_but_a_missing_number_fails():
    nowhere = judge(measured(ms_ssim=None), measured(ms_ssim=None))["regression"]
    assert (nowhere.outcome, "ms_ssim: not defined on these pictures" in words(nowhere)) == ("pass", True)
    lost = judge(measured(ms_ssim=None), measured())["regression"]
    assert (lost.outcome, f"ms_ssim: no number for {COUNT} pictures" in words(lost)) == ("fail", True)
    some = judge(measured([*PSNR[:-1], None]), measured())
    assert (some["regression"].outcome, some["worst tenth"].outcome) == ("fail", "fail")


def test_a_champion_without_numbers_is_not_passed_by_default():
    broken = [None] * COUNT
    found = judge(measured(), measured(broken))
    assert (found["regression"].outcome, found["worst tenth"].outcome) == ("hold", "hold")


@pytest.mark.parametrize("count", [1, 2, 19, 20])
def test_few_pictures_never_pass_a_comparison(count):
    found = judge(measured(PSNR[:count] + 1), measured(PSNR[:count]))
    expected = "pass" if count == 20 else "hold"
    assert (found["regression"].outcome, found["worst tenth"].outcome) == (expected, expected)


def test_the_worst_tenth_is_compared_tenth_with_tenth():
    worst = PSNR.copy()
    lowest = np.argsort(PSNR)[: COUNT // 10]
    worst[lowest] -= 8.0
    found = judge(measured(worst + 3.0), measured(PSNR + 2.0))
    assert (found["regression"].outcome, found["worst tenth"].outcome) == ("hold", "fail")
    assert judge(measured(PSNR - 0.4), measured(PSNR))["worst tenth"].outcome == "pass"
    gain = worst_tenth(worst + 3.0) - worst_tenth(PSNR + 2.0)
    assert f"gain {gain:+.4g} dB" in words(found["worst tenth"])
    assert found["worst tenth"].thresholds == {"worst_tenth_tolerance": 0.5}


def test_the_interval_of_the_worst_tenth_is_scipys():
    a, b = PSNR + NOISE, PSNR
    expected = stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.sort(x)[..., :6].mean(axis) - np.sort(y)[..., :6].mean(axis),
        paired=True,
        method="percentile",
        n_resamples=9999,
        random_state=np.random.default_rng(1),
    ).confidence_interval
    assert worst_tenth_interval(a, b, resamples=9999, seed=0) == pytest.approx(tuple(expected), abs=0.02)


def test_a_leak_into_either_training_set_fails_and_an_unknown_one_holds():
    leaked = TrainingPictures("champion", leaked=("a.png", "b.png"))
    gate = judge(measured(), seen=[TrainingPictures("candidate"), leaked])["leakage"]
    assert gate.outcome == "fail"
    assert "2 evaluation pictures (first 'a.png') are among the training pictures of the champion" in words(gate)
    gone = TrainingPictures("candidate", unknown=("prepared set abc is not there any more",))
    gate = judge(measured(), seen=[gone])["leakage"]
    assert gate.outcome == "hold"
    assert words(gate) == "training pictures of the candidate: prepared set abc is not there any more"


@pytest.mark.parametrize(
    ("precision", "formats", "outcome"),
    [
        (HALVES, ("bf16", "fp16"), "pass"),
        ({**HALVES, "fp16": half("fail", "overflows")}, ("bf16", "fp16"), "fail"),
        ({**HALVES, "fp16": half("fail", "overflows")}, ("bf16",), "pass"),
        ({"bf16": HALVES["bf16"]}, ("bf16", "fp16"), "hold"),
        ({}, ("bf16", "fp16"), "hold"),
        ({}, (), "pass"),
    ],
)
def test_half_precision_is_safe_where_the_report_says_so(precision, formats, outcome):
    gate = judge(measured(precision=precision), half_precision=formats)["half precision"]
    assert gate.outcome == outcome
    if outcome == "fail":
        assert words(gate).startswith("fp16: fail, overflows")


def test_layers_beyond_fp16_come_with_the_command_that_rescales_them():
    precision = {**HALVES, "fp16": half("fail", "overflows", beyond={"decoder.conv_in": 1e6})}
    gate = judge(measured(precision=precision), half_precision=("fp16",))["half precision"]
    remedy = "fp16: fail, overflows; pikavae half-safe makes a copy whose layers stay below"
    assert [finding.reason for finding in gate.findings] == [remedy]


@pytest.mark.parametrize(
    ("candidate", "champion", "complaint"),
    [
        (measured(evaluation_set="d2"), None, "the candidate's report is of evaluation set d1, not d2"),
        (measured(), measured(evaluation_set="d2"), "the champion's report is of evaluation set d1, not d2"),
        (measured(model="another"), None, "the candidate's report is of model another, not m"),
        (measured([*PSNR[:-1], math.inf]), measured(), "holds what no evaluation writes: psnr inf of '0059.png'"),
        (measured(), measured(ssim=math.nan), "the champion's report holds what no evaluation writes: ssim nan"),
        (measured(PSNR[:-1]), measured(), "per_image: picture '0059.png' is not equally in both reports"),
    ],
)
def test_a_report_of_something_else_is_refused_whatever_its_numbers(candidate, champion, complaint):
    found = judge(candidate, champion)
    assert found["reports"].outcome == "fail"
    assert complaint in words(found["reports"])
    assert "reports" in gates.NEVER_FORCED
    assert champion is None or "regression" not in found


def test_files_are_as_registered_and_weights_finite():
    assert gates.integrity(Integrity()).outcome == "pass"
    gate = gates.integrity(Integrity(differing=["MLmodel"], non_finite=["a", "b"]))
    assert gate.outcome == "fail"
    assert words(gate) == "file 'MLmodel' is missing or not as registered\n2 weights (first 'a') are not finite"


def test_the_worst_finding_comes_first_and_is_the_gates_outcome():
    gate = judge(measured(PSNR - 5 + NOISE, ssim=0.9), measured())["regression"]
    order = [gates.ORDER.index(finding.outcome) for finding in gate.findings]
    assert order == sorted(order, reverse=True)
    assert (gate.outcome, gate.findings[0].reason.startswith("psnr gain -5")) == ("fail", True)


def test_gates_need_no_torch_and_no_tracker():
    code = "import sys, pikavae.production.judgements.gates; print({'torch', 'mlflow', 'prefect'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
