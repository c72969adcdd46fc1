"""The report of an evaluation as files and as a table."""

import csv
import dataclasses
import json
from dataclasses import replace

import pytest

from pikavae.errors import UserError
from pikavae.evaluation.compare.comparison import compare
from pikavae.evaluation.pages.numbers import conclusions
from pikavae.evaluation.report.report import Report
from tests.evaluation.test_evaluate import model, pictures, run


def test_a_report_comes_back_as_it_was_saved(tmp_path):
    report = run(tmp_path, model(), pictures())
    assert Report.load(tmp_path) == report
    tree = json.loads((tmp_path / "report.json").read_text())
    assert tree["primary_metric"] == "psnr"
    assert (tree["num_images"], tree["image_size"], tree["downsampling_factor"]) == (11, 16, 2)
    assert (tree["evaluation_set"], tree["provenance"]) == ("d1", {"run": "r1"})
    assert tree["protocol"]["device"] == "cpu"
    with (tmp_path / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == ["name", "caption", "psnr", "ssim", "mse", "kl_nats", "bicubic_psnr"]
    assert rows[3]["caption"] == 'a "cat", no. 3'


def test_captions_of_any_text_come_back(tmp_path):
    captions = ["", "two\nlines\r\nof it", "comma, \"quote\" 'apostrophe'", "ünï日本\u2028", "3.5"]
    report = run(tmp_path, model(), pictures(5))
    scores = [dataclasses.replace(s, caption=c) for s, c in zip(report.per_image, captions, strict=True)]
    changed = report.model_copy(update={"per_image": scores})
    changed.save(tmp_path)
    assert Report.load(tmp_path) == changed


@pytest.mark.parametrize("damage", ["cut", "empty", "no json", "missing", "row lost", "field lost", "column lost"])
def test_a_damaged_report_is_refused_in_one_line(tmp_path, damage):
    run(tmp_path, model(), pictures(3))
    tree, table = tmp_path / "report.json", tmp_path / "per_image.csv"
    text, rows = tree.read_text(), table.read_text().splitlines(keepends=True)
    if damage == "missing":
        table.unlink()
    elif damage in ("row lost", "column lost"):
        table.write_text("".join(rows[:-1]) if damage == "row lost" else "".join(rows).replace("caption", "capt"))
    else:
        spoilt = {"cut": text[:99], "empty": "", "no json": "[]", "field lost": text.replace("num_images", "images")}
        tree.write_text(spoilt[damage])
    with pytest.raises(UserError, match="evaluate the model again") as caught:
        Report.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_table_of_pictures_without_names_is_refused(tmp_path):
    run(tmp_path, model(), pictures(2))
    table = tmp_path / "per_image.csv"
    table.write_text("".join(",".join(line.split(",")[-7:]) for line in table.read_text().splitlines(keepends=True)))
    with pytest.raises(UserError, match=r"damaged report: .*; evaluate the model again"):
        Report.load(tmp_path)


def with_numbers(row, **numbers):
    return replace(row, **numbers)


@pytest.mark.parametrize(
    ("first", "second"),
    [((-0.3, 0.3, 0.3), (0.1, 0.15, 0.1)), ((0.2, -0.2, 0.0), (0.1, 0.1, 0.1)), ((-0.05,) * 3, (0.2, 0.2, -0.4))],
    ids=["signs that cancel", "cancel wholly", "a mean of zero"],
)
def test_the_table_and_the_comparison_rank_two_models_alike_by_colour_shift(tmp_path, first, second):
    """By a mean with signs the first model of each pair would stand elsewhere in the table than in the comparison."""
    report = run(tmp_path, model(), pictures(3))

    def shifted(shifts):
        rows = [
            with_numbers(row, colour_shift_red=shift, colour_shift_green=0.0, colour_shift_blue=0.0)
            for row, shift in zip(report.per_image, shifts, strict=True)
        ]
        metrics = {**report.metrics, "colour_shift_red": sum(shifts) / 3}
        return report.model_copy(update={"per_image": rows, "metrics": metrics})

    a, b = shifted(first), shifted(second)
    found = compare(a, b, resamples=99).metrics["colour_shift_red"]
    assert a.table_row("a").numbers["colour_shift"] == pytest.approx(found.mean_a)
    assert b.table_row("b").numbers["colour_shift"] == pytest.approx(found.mean_b)


def test_a_baseline_of_some_pictures_is_set_against_the_model_on_the_same(tmp_path):
    report = run(tmp_path, model(), pictures(3))
    rows = [with_numbers(row, psnr=psnr) for row, psnr in zip(report.per_image, (10.0, 40.0, 20.0), strict=True)]
    jpeg = report.baselines["jpeg"].model_copy(update={"psnr": 14.0, "coded": 2.0})
    part = report.model_copy(update={"per_image": rows, "baselines": {**report.baselines, "jpeg": jpeg}})
    said = [words for _, words in conclusions(part) if "JPEG" in words]
    (told,) = said
    assert told.startswith("1.00 dB better than JPEG files of at most the latent's bytes (14.00 dB), on the 2")
    assert told.endswith("pictures that were coded.")


def test_a_mean_over_some_pictures_is_said_to_be(tmp_path):
    report = run(tmp_path, model(), pictures(3))
    part = report.model_copy(update={"counts": {"ms_ssim": 2, "edge_error": 1}})
    assert "ms_ssim is the mean over 2 of 3 pictures: the others have none." in part.table()
    assert "ms_ssim is the mean over 2 of 3 pictures" in part.summary_markdown()
    assert "edge_error is" not in part.table()


def test_the_table_sets_the_model_against_its_baselines(tmp_path):
    report = run(tmp_path, model(), pictures())
    table, halves = report.table().split("\n\n")
    for line, name in zip(halves.splitlines(), ("bf16", "fp16"), strict=True):
        tried = report.precision[name].num_images
        assert tried < report.num_images
        assert f" in {name}, " in line
        assert f"(on the {tried} pictures tried)" in line
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    starts = ("", "this model", "JPEG", "WebP", "bicubic, down to 8 x 8", "constant", "the original tutorial's bar")
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert lines[0].split() == ["PSNR", "dB", "worst", "tenth", "SSIM", "colour", "shift", "scaling", "bytes"]
    metrics = report.metrics
    colours = [[abs(getattr(one, f"colour_shift_{c}")) for one in report.per_image] for c in ("red", "green", "blue")]
    shift = max(sum(column) / len(column) for column in colours)
    own = [f"{metrics[name]:.{n}f}" for name, n in (("psnr", 2), ("psnr_worst_tenth", 2), ("ssim", 4))]
    own += [f"{shift:.4f}", f"{metrics['scaling_factor']:.4f}", "512"]  # half precision: 4 x 8 x 8 numbers of 2 bytes
    assert lines[1].split()[-6:] == own
    assert lines[6].split()[-6:] == ["19.49", "-", "-", "-", "-", "-"]
    assert [line.split()[-1] for line in lines[4:6]] == ["384", "6"]
    markdown = report.summary_markdown()
    assert f"| this model | {' | '.join(own)} |" in markdown
    assert "11 pictures of 16 px" in markdown
