"""Two reports held against each other, against closed forms and SciPy's paired bootstrap of two samples."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from pikavae.errors import UserError
from pikavae.evaluation.compare import comparison
from pikavae.evaluation.compare.comparison import compare
from pikavae.evaluation.compare.table import comparison_table
from pikavae.evaluation.metrics import bootstrap
from pikavae.evaluation.metrics.bootstrap import bootstrap_interval
from pikavae.evaluation.metrics.definitions import COMPARED
from pikavae.evaluation.report.report import ImageScore, Report
from pikavae.evaluation.report.sections import LatentNumbers

NO_SCORES = dict.fromkeys((field.name for field in dataclasses.fields(ImageScore)), None)


def report(names=None, captions=None, **columns):
    """A report whose pictures have these numbers; what is not told is None."""
    count = len(next(iter(columns.values())))
    names = names or [f"{i:04d}.png" for i in range(count)]
    captions = captions or ["" for _ in names]
    rows = [
        {**NO_SCORES, "name": name, "caption": caption, **dict(zip(columns, values, strict=True))}
        for name, caption, *values in zip(names, captions, *columns.values(), strict=True)
    ]
    return Report(
        metrics={},
        reasons={},
        baselines={},
        latents=LatentNumbers(channel_means=[], channel_stds=[], non_finite_fraction=0.0),
        protocol={"precision": "float32", "device": "cpu"},
        num_images=count,
        image_size=16,
        evaluation_set="d1",
        downsampling_factor=2,
        primary_metric="psnr",
        provenance={},
        per_image=[ImageScore(**row) for row in rows],
    )


def scores(count, seed=0):
    """PSNRs with few digits, so that sums of them are exact."""
    return (np.random.default_rng(seed).integers(10 * 64, 40 * 64, count) / 64).tolist()


def test_a_shifted_copy_differs_by_exactly_the_shift():
    psnr = scores(37)
    found = compare(report(psnr=[one + 0.5 for one in psnr], mse=psnr), report(psnr=psnr, mse=[x + 2 for x in psnr]))
    better = found.metrics["psnr"]
    assert (better.difference, better.interval) == (0.5, (0.5, 0.5))
    assert (better.wins, better.ties, better.losses, better.verdict) == (37, 0, 0, "better")
    assert (better.mean_a, better.mean_b) == (np.mean(psnr) + 0.5, np.mean(psnr))
    fewer = found.metrics["mse"]
    assert (fewer.difference, fewer.interval, fewer.wins, fewer.verdict) == (-2.0, (-2.0, -2.0), 37, "better")


def test_a_shift_that_rounding_blurs_has_an_interval_all_the_same():
    psnr = np.random.default_rng(0).normal(20, 3, 50)
    shifted = psnr + 0.1
    assert len({*(shifted - psnr)}) > 1
    found = compare(report(psnr=shifted.tolist()), report(psnr=psnr.tolist())).metrics["psnr"]
    assert found.interval == pytest.approx((0.1, 0.1), abs=1e-14)


def test_equal_models_tie():
    one = report(psnr=scores(20), ssim=scores(20, 1), kl_nats=scores(20, 2))
    found = compare(one, one, slices={"half": [True, False] * 10})
    for name in ("psnr", "ssim", "kl_nats"):
        difference = found.metrics[name]
        assert (difference.difference, difference.interval) == (0.0, (0.0, 0.0))
        assert (difference.wins, difference.ties, difference.losses) == (0, 20, 0)
        assert difference.verdict == "no difference shown"
    assert found.slices["half"].interval == (0.0, 0.0)
    assert (found.most_lost, found.most_won) == ([], [])
    assert found.worst_tenth.difference == 0.0


@pytest.mark.parametrize("count", [5, 60, 3001])
def test_the_interval_is_that_of_scipy_on_two_paired_samples(count):
    generator = np.random.default_rng(count)
    b = np.round(generator.normal(25, 4, count) * 1024) / 1024  # short numbers, so that SciPy's sums are exact too
    a = b + np.round(generator.gamma(0.5, 0.8, count) * 1024) / 1024 - 0.125  # skewed, as gains are
    found = compare(report(psnr=a.tolist()), report(psnr=b.tolist()), resamples=999, seed=7).metrics["psnr"]
    expected = stats.bootstrap(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=999,
        method="BCa",
        random_state=np.random.default_rng(7),
    ).confidence_interval
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_the_interval_of_few_pictures_does_not_hang_on_the_order_of_a_sum():
    differences = np.random.default_rng(0).normal(0.3, 1.0, 5)
    low, high = bootstrap_interval(differences, resamples=999, seed=0)
    for shift in (0.1, 3.7, -20.3):
        assert bootstrap_interval(differences + shift, resamples=999, seed=0) == pytest.approx(
            (low + shift, high + shift), abs=1e-8
        )


def test_the_interval_of_normal_differences_is_the_textbook_one():
    differences = np.random.default_rng(0).normal(0.2, 1.5, 2000)
    half = 1.959964 * differences.std() / math.sqrt(2000)
    low, high = bootstrap_interval(differences, resamples=9999, seed=0)
    assert (low, high) == pytest.approx((differences.mean() - half, differences.mean() + half), abs=0.05 * half)


def test_nineteen_in_twenty_intervals_hold_the_true_mean():
    samples = np.random.default_rng(0).normal(0.2, 1.0, (300, 50))
    intervals = [bootstrap_interval(sample, resamples=599, seed=i) for i, sample in enumerate(samples)]
    share = np.mean([low <= 0.2 <= high for low, high in intervals])
    assert 0.91 <= share <= 0.98  # 0.95 within three standard errors of 0.013, a little under for 50 pictures


def test_many_pictures_are_drawn_in_bounded_memory(monkeypatch):
    drawn = []
    real = np.mean

    def mean(values, axis=None):
        drawn.append(np.size(values))
        return real(values, axis=axis)

    monkeypatch.setattr(np, "mean", mean)
    bootstrap_interval(np.random.default_rng(0).normal(size=5000), resamples=2000, seed=0)
    assert 5000 * 838 == max(drawn) <= bootstrap.MAX_DRAWN


def test_the_order_of_the_pictures_does_not_matter():
    names = [f"{i}.png" for i in range(30)]
    a, b, caption = scores(30, 1), scores(30, 2), [f"picture {i}" for i in range(30)]
    a[3], b[4] = None, None
    mask = [i % 3 == 0 for i in range(30)]

    def arranged(values, seed):
        order = np.random.default_rng(seed).permutation(30)
        return [values[i] for i in order]

    def shuffled(values, seed):
        return report(names=arranged(names, seed), captions=arranged(caption, seed), psnr=arranged(values, seed))

    straight = compare(report(names, caption, psnr=a), report(names, caption, psnr=b), slices={"third": mask})
    for seed in (1, 2):
        other = compare(shuffled(a, seed), shuffled(b, seed + 10), slices={"third": arranged(mask, seed)})
        assert other == straight
    assert straight.metrics["psnr"].count == 28


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"evaluation_set": "d2"}, "evaluation_set 'd1' of one report and 'd2' of the other"),
        ({"image_size": 32}, "image_size 16 of one report and 32 of the other"),
        ({"protocol": {"precision": "float32", "device": "cuda"}}, "protocol.device 'cpu' of one report and 'cuda'"),
        ({"protocol": {"precision": "float32"}}, "protocol.device 'cpu' of one report and None"),
        (
            {"per_image": report(names=["0000.png", "x.png", "0002.png"], psnr=[1.0] * 3).per_image},
            "per_image: picture '0001.png' is not equally in both reports",
        ),
        (
            {"per_image": report(names=["0000.png", "0001.png", "0002.png", "0001.png"], psnr=[1.0] * 4).per_image},
            "per_image: picture '0001.png' is not equally in both reports",
        ),
    ],
)
def test_reports_of_other_pictures_or_protocols_are_refused(changes, complaint):
    one = report(psnr=[20.0, 21.0, 22.0])
    with pytest.raises(UserError, match=re.escape(complaint)) as raised:
        compare(one, one.model_copy(update=changes))
    assert "\n" not in str(raised.value)


def test_pictures_without_a_number_are_left_out_in_pairs_and_counted():
    a = report(psnr=[20.0, None, 30.0, None, 26.0], ssim=[None] * 5, mse=[0.5, None, None, None, None])
    b = report(psnr=[18.0, 10.0, None, None, 25.0], ssim=[0.5] * 5, mse=[0.25] * 5)
    found = compare(a, b)
    psnr = found.metrics["psnr"]
    assert (psnr.mean_a, psnr.mean_b, psnr.difference) == (23.0, 21.5, 1.5)
    assert (psnr.count, psnr.left_out_a, psnr.left_out_b, psnr.wins) == (2, 2, 2, 2)
    ssim = found.metrics["ssim"]
    assert (ssim.mean_a, ssim.mean_b, ssim.difference, ssim.interval) == (None, None, None, None)
    assert "no picture" in ssim.reason
    mse = found.metrics["mse"]
    assert (mse.difference, mse.interval, mse.count, mse.verdict) == (0.25, None, 1, "no difference shown")
    assert "one picture" in mse.reason
    table = comparison_table(found, "new", "old")
    assert "psnr: pictures without such a number are left out: 2 of A, 2 of B." in table
    assert "No interval of mse: one picture" in table


@pytest.mark.parametrize(
    ("name", "a", "b", "verdict"),
    [
        ("psnr", 21.0, 20.0, "better"),
        ("ssim", 0.8, 0.9, "worse"),
        ("mse", 0.1, 0.2, "better"),
        ("kl_nats", 900.0, 800.0, "worse"),
        ("mse", 0.1, 0.1, "no difference shown"),
    ],
)
def test_each_metric_knows_which_direction_is_better(name, a, b, verdict):
    columns = [{"psnr": [20.0] * 4, name: [value] * 4} for value in (a, b)]
    assert compare(report(**columns[0]), report(**columns[1])).metrics[name].verdict == verdict


def test_every_number_of_a_picture_but_the_baselines_has_a_direction():
    numbers = {field.name for field in dataclasses.fields(ImageScore)} - {"name", "caption", "bicubic_psnr"}
    compared = {metric.name for metric in COMPARED}
    assert numbers <= compared
    assert "bicubic_psnr" not in compared


def test_where_the_best_is_a_number_the_distances_from_it_are_compared(monkeypatch):
    added = [("colour_shift_red", "float | None", None), ("high_frequency_ratio", "float | None", None)]
    known = {field.name for field in dataclasses.fields(ImageScore)}
    more = [field for field in added if field[0] not in known]
    if more:
        monkeypatch.setattr(
            comparison, "ImageScore", dataclasses.make_dataclass("More", more, bases=(ImageScore,), frozen=True)
        )
    a = report(psnr=[20.0] * 3, colour_shift_red=[-0.25, 0.25, 0.0], high_frequency_ratio=[1.25] * 3)
    b = report(psnr=[20.0] * 3, colour_shift_red=[0.0] * 3, high_frequency_ratio=[0.5] * 3)
    found = compare(a, b)
    shift, ratio = found.metrics["colour_shift_red"], found.metrics["high_frequency_ratio"]
    assert (shift.mean_a, shift.difference, shift.wins, shift.ties, shift.losses) == (0.5 / 3, 0.5 / 3, 0, 1, 2)
    assert (ratio.mean_a, ratio.mean_b, ratio.interval, ratio.verdict) == (0.25, 0.5, (-0.25, -0.25), "better")
    table = comparison_table(found, "a", "b")
    assert "|colour_shift_red|" in table
    assert "|high_frequency_ratio - 1|" in table


def test_the_worst_tenth_is_each_models_own():
    a, b = [float(10 + i) for i in range(20)], [float(40 - i) for i in range(20)]
    tenth = compare(report(psnr=a), report(psnr=b)).worst_tenth
    assert (tenth.count, tenth.a, tenth.b, tenth.difference) == (2, 10.5, 21.5, -11.0)
    assert compare(report(psnr=[*a, 5.0]), report(psnr=[*b, 5.0])).worst_tenth.count == 3


def test_the_pictures_that_changed_most_are_named():
    a = report(psnr=[20.0, 30.0, 25.0, 21.0, 20.0], captions=["a", "b", "c", "d", "e"])
    b = report(psnr=[22.0, 25.0, 25.0, 30.0, 14.0])
    found = compare(a, b)
    assert [(one.name, one.caption, one.a, one.b, one.difference) for one in found.most_lost] == [
        ("0003.png", "d", 21.0, 30.0, -9.0),
        ("0000.png", "a", 20.0, 22.0, -2.0),
    ]
    assert [(one.caption, one.difference) for one in found.most_won] == [("e", 6.0), ("b", 5.0)]
    many = compare(report(psnr=[1.0] * 9), report(psnr=[float(i) for i in range(1, 10)]))
    assert [one.difference for one in many.most_lost] == [-8.0, -7.0, -6.0, -5.0, -4.0]


def test_a_slice_is_compared_as_a_set_of_its_pictures():
    a, b = scores(40, 1), scores(40, 2)
    mask = [i % 4 == 1 for i in range(40)]
    found = compare(report(psnr=a), report(psnr=b), slices={"some": mask, "one": [i == 2 for i in range(40)]})
    part = [np.array(column)[mask].tolist() for column in (a, b)]
    alone = compare(report(psnr=part[0]), report(psnr=part[1]))
    assert found.slices["some"] == alone.metrics["psnr"]
    assert (found.slices["one"].count, found.slices["one"].interval) == (1, None)


def test_it_is_kept_as_json_and_a_repetition_writes_the_same_bytes(tmp_path):
    a, b = report(psnr=scores(40, 1), captions=["é \n x"] * 40), report(psnr=scores(40, 2))
    files = [tmp_path / "1.json", tmp_path / "2.json"]
    for file in files:
        compare(a, b).save(file, models={"a": "m1"})
    assert files[0].read_bytes() == files[1].read_bytes()
    tree = json.loads(files[0].read_text())
    assert tree["models"] == {"a": "m1"}
    assert tree["metrics"]["psnr"]["interval"] == list(compare(a, b).metrics["psnr"].interval)
    assert compare(a, b, seed=1).metrics["psnr"].interval != compare(a, b).metrics["psnr"].interval


def test_the_table_is_aligned_whatever_names_and_captions_hold():
    captions = ["several\nlines\x1b[31m", "word " * 100, "", "", "", ""]
    names = ["x" * 200, "b", "c", "d", "e", "f"]
    a = report(names, captions, psnr=[20.0, 10.0, 25.0, 30.0, 31.0, 40.0], kl_nats=[123456.0] * 6)
    b = report(names, captions, psnr=[22.0, 9.0, 25.0, 30.5, 30.0, 39.0], kl_nats=[1.0] * 6)
    found = compare(a, b, slices={"dark": [True] * 5 + [False]})
    lines = comparison_table(found, "new", "old").splitlines()
    assert max(len(line) for line in lines if not line.startswith("No interval of ")) < 160
    assert not any("\x1b" in line for line in lines)
    start = next(i for i, line in enumerate(lines) if "95 % interval" in line)
    column = lines[start].index("A is")
    assert {lines[start + i][column:] for i in range(1, 1 + len(found.metrics))} <= {
        "better",
        "worse",
        "no difference shown",
    }
    assert any(line.startswith("dark ") for line in lines)
