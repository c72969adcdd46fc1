"""Two reports held against each other: intervals, verdicts, slices, refusals."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from pikavae.errors import UserError
from pikavae.evaluation.comparison import Comparison, compare, mean_difference
from pikavae.evaluation.report import ImageScore
from tests.evaluation.test_evaluate import model, pictures, run


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("report"), model(), pictures())


def scored(report, scores, **fields):
    """The report with these PSNRs in place of its pictures' numbers."""
    per_image = [ImageScore(f"{i}.png", f"no. {i}", score, 0.5, 0.1, 1.0, None) for i, score in enumerate(scores)]
    return replace(report, per_image=per_image, num_images=len(per_image), **fields)


def test_equal_models_tie_everywhere_and_show_no_difference(report):
    found = compare(report, report)
    for metric in found.metrics.values():
        assert metric.difference == (0.0, 0.0, 0.0)
        assert (metric.wins, metric.losses, metric.ties) == (0, 0, 11)
        assert metric.verdict == "no difference shown"
    assert found.most_gained == found.most_lost == []


def test_a_constant_gain_is_found_exactly(report):
    scores = [20.0, 22.0, 25.0, 30.0]
    found = compare(scored(report, [score + 0.5 for score in scores]), scored(report, scores))
    assert found.metrics["psnr"].difference == (0.5, 0.5, 0.5)
    assert found.metrics["psnr"].verdict == "better"
    assert (found.metrics["psnr"].wins, found.metrics["psnr"].losses) == (4, 0)
    assert found.worst_tenth == {"candidate": 20.5, "reference": 20.0}


@pytest.mark.parametrize(("metric", "verdict"), [("psnr", "better"), ("ssim", "better"), ("mse", "worse")])
def test_a_metric_knows_which_way_is_better(report, metric, verdict):
    higher = [replace(image, **{metric: getattr(image, metric) + 1.0}) for image in report.per_image]
    assert compare(replace(report, per_image=higher), report).metrics[metric].verdict == verdict
    wins = 11 if verdict == "better" else 0
    assert compare(replace(report, per_image=higher), report).metrics[metric].wins == wins


def test_the_interval_is_that_of_the_normal_distribution_for_many_pictures():
    differences = np.random.default_rng(1).normal(0.3, 2.0, 4000)
    found = mean_difference(differences.tolist())
    half = 1.959964 * differences.std() / math.sqrt(len(differences))
    assert found.mean == differences.mean()
    assert found.low == pytest.approx(found.mean - half, abs=0.06 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.06 * half)


def test_the_interval_holds_the_true_mean_in_about_nineteen_of_twenty_cases():
    generator = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        found = mean_difference(generator.exponential(1.0, 60).tolist())
        held += found.low <= 1.0 <= found.high
    assert 0.88 * 200 <= held <= 0.99 * 200


def test_intervals_are_the_same_digits_again():
    differences = np.random.default_rng(3).normal(size=300).tolist()
    assert mean_difference(differences) == mean_difference(differences)


def test_one_picture_has_no_interval_and_shows_nothing(report):
    found = compare(scored(report, [30.0]), scored(report, [20.0])).metrics["psnr"]
    assert found.difference == (10.0, None, None)
    assert found.verdict == "no difference shown"


def test_pictures_without_a_number_are_left_out_in_pairs_and_counted(report):
    found = compare(scored(report, [21.0, None, 24.0]), scored(report, [20.0, 22.0, None]))
    psnr = found.metrics["psnr"]
    assert (psnr.candidate, psnr.reference, psnr.left_out) == (21.0, 20.0, 2)


def test_a_model_without_any_number_is_not_compared(report):
    with pytest.raises(UserError, match="psnr: no picture has it from both models"):
        compare(scored(report, [None, None]), scored(report, [20.0, 22.0]))


def test_who_gained_and_who_lost_most_comes_first(report):
    reference = scored(report, [20.0] * 12)
    candidate = scored(report, [20.0 + (i - 5) for i in range(12)])
    found = compare(candidate, reference)
    assert [one.name for one in found.most_gained] == [f"{i}.png" for i in (11, 10, 9, 8, 7)]
    assert [one.name for one in found.most_lost] == [f"{i}.png" for i in (0, 1, 2, 3, 4)]


def test_a_slice_is_compared_by_its_own_pictures(report):
    reference = scored(report, [20.0] * 10)
    candidate = scored(report, [21.0] * 5 + [17.0] * 5)
    first, second = compare(candidate, reference, {"light": range(5), "dark": range(5, 10)}).slices
    assert (first.name, first.num_images, first.difference, first.verdict) == ("light", 5, (1.0, 1.0, 1.0), "better")
    assert (second.difference, second.verdict) == ((-3.0, -3.0, -3.0), "worse")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"evaluation_set": "other"}, r"the evaluation set \(d1 and other\)"),
        ({"primary_metric": "ssim"}, r"the primary metric \(psnr and ssim\)"),
        ({"protocol": {}}, "protocol: "),
    ],
)
def test_what_was_not_measured_alike_is_not_compared(report, change, complaint):
    with pytest.raises(UserError, match=complaint):
        compare(report, replace(report, **change))


def test_other_pictures_are_not_compared(report):
    renamed = [replace(image, name=f"x{image.name}") for image in report.per_image]
    with pytest.raises(UserError, match="the names of the pictures cannot be compared"):
        compare(report, replace(report, per_image=renamed))


def test_the_table_is_aligned_and_the_json_is_json(report):
    found = compare(scored(report, [21.0, 23.0]), scored(report, [20.0, 22.5]), {"all": [0, 1]})
    assert isinstance(found, Comparison)
    lines = found.table().splitlines()
    ends = {line.index("]") for line in lines if "]" in line}
    assert len(ends) == 1
    assert lines[1].startswith("psnr")
    assert lines[1].endswith("better")
    tree = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert tree["metrics"]["psnr"]["difference"] == {"mean": 0.75, "low": 0.5, "high": 1.0}
    assert tree["slices"][0]["difference"]["mean"] == 0.75
