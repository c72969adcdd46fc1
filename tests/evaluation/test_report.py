"""The report of an evaluation as files and as a table."""

import csv
import dataclasses
import json

import pytest

from pikavae.errors import UserError
from pikavae.evaluation.report import Report
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
    changed = dataclasses.replace(report, per_image=scores)
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


def test_a_report_of_the_former_version_is_refused(tmp_path):
    report = run(tmp_path, model(), pictures(2))
    tree = json.loads((tmp_path / "report.json").read_text())
    del tree["counts"]
    (tmp_path / "report.json").write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"another version's: .*counts.*; evaluate the model again"):
        Report.load(tmp_path)
    report.save(tmp_path)
    table = tmp_path / "per_image.csv"
    table.write_text("".join(",".join(line.split(",")[-7:]) for line in table.read_text().splitlines(keepends=True)))
    with pytest.raises(UserError, match=r"another version's: .*; evaluate the model again"):
        Report.load(tmp_path)


def test_the_table_sets_the_model_against_its_baselines(tmp_path):
    report = run(tmp_path, model(), pictures())
    table, halves = report.table().split("\n\n")
    assert [line.split(":")[0] for line in halves.splitlines()] == ["In bf16", "In fp16"]
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    starts = ("", "this model", "JPEG", "WebP", "bicubic, down to 8 x 8", "constant", "the original tutorial's bar")
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert lines[0].split() == ["PSNR", "dB", "worst", "tenth", "SSIM", "colour", "shift", "scaling", "bytes"]
    metrics = report.metrics
    shift = max((metrics[f"colour_shift_{colour}"] for colour in ("red", "green", "blue")), key=abs)
    own = [f"{metrics[name]:.{n}f}" for name, n in (("psnr", 2), ("psnr_worst_tenth", 2), ("ssim", 4))]
    own += [f"{shift:+.4f}", f"{metrics['scaling_factor']:.4f}", "512"]  # half precision: 4 x 8 x 8 numbers of 2 bytes
    assert lines[1].split()[-6:] == own
    assert lines[6].split()[-6:] == ["19.49", "-", "-", "-", "-", "-"]
    assert [line.split()[-1] for line in lines[4:6]] == ["384", "6"]
    markdown = report.summary_markdown()
    assert f"| this model | {' | '.join(own)} |" in markdown
    assert "11 pictures of 16 px" in markdown
