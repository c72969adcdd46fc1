"""Reports that earlier versions wrote, as files: read, shown, compared, judged, and written again byte for byte."""

import json
import shutil
from pathlib import Path

import pytest

from pikavae.config import PromotionConfig
from pikavae.errors import UserError
from pikavae.evaluation.compare.comparison import compare
from pikavae.evaluation.pages.beside_page import beside_page
from pikavae.evaluation.pages.numbers import conclusions
from pikavae.evaluation.report.model_card import model_card
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.sections import LatentViewNumbers, OtherSizes
from pikavae.operations.stages.describing import version_metrics
from pikavae.presets import parse_config
from pikavae.production.judgements import gates

EARLIER = Path(__file__).parent / "earlier"
"""`first` is of the first version, `with_counts` from before half precision, `with_sizes` from before sections were
records. All are of the same model and pictures."""
VERSIONS = ("first", "with_counts", "with_sizes")


@pytest.fixture
def folder(tmp_path):
    """A copy of the newest of the reports."""
    return Path(shutil.copytree(EARLIER / "with_sizes", tmp_path / "report"))


def change(folder, edit):
    tree = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    edit(tree)
    (folder / "report.json").write_text(json.dumps(tree), encoding="utf-8")


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_written_again_byte_for_byte(tmp_path, version):
    Report.load(EARLIER / version).save(tmp_path)
    assert (tmp_path / "report.json").read_bytes() == (EARLIER / version / "report.json").read_bytes()
    assert Report.load(tmp_path) == Report.load(EARLIER / version)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_shown(version):
    report = Report.load(EARLIER / version)
    card = model_card(report, parse_config({}), name="a")
    for text in (report.table(), report.summary_markdown(), card, beside_page(report, [("b", report)])):
        assert "9.64" in text
        assert "bicubic, down to 8 x 8" in text
        assert ("JPEG within the latent" in text) is (version == "with_sizes")
    assert any("worse than scaling" in finding.text for finding in conclusions(report))
    assert version_metrics(report)["val/psnr"] == report.metrics["psnr"]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_compared_and_judged_and_what_was_not_measured_holds(version):
    report = Report.load(EARLIER / version)
    assert compare(report, report).metrics["psnr"].difference == 0.0
    measured = gates.MeasuredModel(report, "m1", "d1")
    found = {gate.name: gate for gate in gates.judge(measured, measured, [], PromotionConfig())}
    assert found["reports"].outcome == "pass"
    assert found["half precision"].outcome == ("pass" if version == "with_sizes" else "hold")


def test_sections_that_it_lacks_are_empty():
    report = Report.load(EARLIER / "first")
    assert (report.counts, report.precision, report.latents.bytes) == ({}, {}, None)
    assert (report.latent_view, report.sizes) == (LatentViewNumbers(), OtherSizes())
    assert report.table_row("a").numbers["colour_shift"] is None


def test_fields_that_only_a_newer_version_knows_are_ignored(folder):
    expected = Report.load(folder)

    def add(tree):
        tree["newer"] = 1
        tree["sizes"]["tiled"]["newer"] = {"a": 1}
        tree["precision"]["bf16"]["newer"] = None

    change(folder, add)
    assert Report.load(folder) == expected


DAMAGES = {
    "latents.channel_means": lambda tree: tree["latents"].pop("channel_means"),
    "baselines.jpeg.psnr": lambda tree: tree["baselines"]["jpeg"].update(psnr="13"),
    "latent_view.smoothness.2.gain": lambda tree: tree["latent_view"]["smoothness"][2].update(gain=True),
    "precision.fp16.verdict": lambda tree: tree["precision"]["fp16"].update(verdict="great"),
    "sizes.by_size.0.size": lambda tree: tree["sizes"]["by_size"][0].update(size=8.5),
    "metrics.psnr": lambda tree: tree["metrics"].update(psnr="25"),
}


@pytest.mark.parametrize("field", DAMAGES)
def test_damage_is_named_by_file_and_field(folder, field):
    change(folder, DAMAGES[field])
    with pytest.raises(UserError, match=rf"report.json: damaged: '{field}' is .*; evaluate the model again$"):
        Report.load(folder)
