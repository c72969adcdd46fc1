"""The table of metrics: what follows from its rows, and reports from before a row was added."""

import csv
import json
from dataclasses import fields, replace

import pytest

from pikavae.config import PromotionConfig
from pikavae.errors import UserError
from pikavae.evaluation.compare.comparison import compare
from pikavae.evaluation.compare.table import comparison_table
from pikavae.evaluation.measure import latent_statistics
from pikavae.evaluation.metrics import appearance, similarity, spectrum
from pikavae.evaluation.metrics.definitions import COMPARED, COMPUTED, METRICS, OF_PICTURE
from pikavae.evaluation.pages.comparison_page import comparison_page
from pikavae.evaluation.report.report import ImageScore, Report
from pikavae.features import lpips
from pikavae.operations.stages.describing import version_metrics
from pikavae.production.judgements import gates
from tests.evaluation.test_evaluate import model, pictures, run

ADDED = "spectrum_divergence"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def measured(folder):
    return run(folder, model(), pictures(24))


def without(report, folder, name):
    """A report as it was written before the metric was added, read from the disk."""
    folder.mkdir()
    report.save(folder)
    tree = json.loads((folder / "report.json").read_text())
    for part in ("metrics", "reasons", "counts", "protocol"):
        tree[part].pop(name, None)
    (folder / "report.json").write_text(json.dumps(tree))
    with (folder / "per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / "per_image.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [column for column in rows[0] if column != name], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return Report.load(folder)


def test_a_row_is_all_that_report_pages_comparison_and_mlflow_need(measured, folder):
    metric = METRICS[ADDED]
    value = measured.metrics[ADDED]
    assert value == pytest.approx(sum(getattr(one, ADDED) for one in measured.per_image) / measured.num_images)
    assert json.loads((folder / "report.json").read_text())["protocol"][ADDED] == metric.protocol
    page = (folder / "report.html").read_text()
    assert f"<code>{ADDED}</code></th><td>{value:.6g}</td>" in page
    assert "how far the latents" in page
    assert version_metrics(measured)[f"val/{ADDED}"] == value
    nines = [replace(one, **{ADDED: 9.0}) for one in measured.per_image]
    found = compare(measured, measured.model_copy(update={"per_image": nines}))
    assert found.metrics[ADDED].verdict == "better"
    assert ADDED in comparison_table(found, "a", "b")
    shown = {"first": [], "lost": [], "won": []}
    assert f">{ADDED}</code>" in comparison_page(found, [], shown, a="a", b="b")


def test_a_report_from_before_a_metric_was_added_is_read_compared_and_judged(measured, tmp_path):
    old = without(measured, tmp_path / "old", ADDED)
    assert ADDED not in old.metrics
    assert {getattr(one, ADDED) for one in old.per_image} == {None}
    assert old.table() == measured.table()
    for a, b in ((old, measured), (measured, old), (old, old)):
        found = compare(a, b)
        assert found.metrics["psnr"].verdict == "no difference shown"
        assert found.metrics[ADDED].reason == "no picture for which both models have the number"
        assert comparison_table(found, "a", "b")
        assert comparison_page(found, [], {"first": [], "lost": [], "won": []}, a="a", b="b")
        judged = gates.judge(
            gates.MeasuredModel(a, a.provenance.get("model"), a.evaluation_set),
            gates.MeasuredModel(b, b.provenance.get("model"), b.evaluation_set),
            [],
            PromotionConfig(psnr_floor=0.0),
        )
        assert {gate.name: gate.outcome for gate in judged}["reports"] == "pass"


def test_a_metric_that_both_reports_have_must_be_measured_alike(measured):
    other = measured.model_copy(update={"protocol": {**measured.protocol, ADDED: "by ear"}})
    with pytest.raises(UserError, match=f"protocol.{ADDED} 'by ear' of one report"):
        compare(other, measured)


def test_a_champions_guard_cannot_be_dropped_from_a_candidates_report(measured, tmp_path):
    candidate = without(measured, tmp_path / "candidate", "flat_noise")
    scores = [replace(one, flat_noise=0.1) for one in measured.per_image]
    champion = measured.model_copy(update={"per_image": scores})
    gate = gates.regression(compare(candidate, champion), PromotionConfig())
    assert gate.outcome == "fail"
    assert any("flat_noise: no number for 24 pictures" in finding.reason for finding in gate.findings)


def test_every_number_of_a_report_has_a_row(measured):
    assert measured.metrics.keys() <= METRICS.keys()
    assert [field.name for field in fields(ImageScore)] == ["name", "caption", *(one.name for one in OF_PICTURE)]
    assert {one.entry for one in METRICS.values() if one.protocol} <= measured.protocol.keys()
    assert {one.name for one in COMPUTED} <= measured.metrics.keys()


def test_every_setting_of_a_metric_is_one_of_the_policy():
    policy = PromotionConfig.model_fields
    floors, tolerances = ({getattr(one, kind) for one in METRICS.values()} - {""} for kind in ("floor", "tolerance"))
    assert floors == {name for name in policy if name.endswith("_floor")}
    assert tolerances | {"worst_tenth_tolerance"} == {name for name in policy if name.endswith("_tolerance")}
    assert all(one in COMPARED for one in METRICS.values() if one.tolerance)


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("psnr", f"{similarity.DATA_RANGE:g}^2"),
        ("psnr", f"{similarity.MAX_PSNR:g} dB"),
        ("ssim", f"K1 {similarity.SSIM_K1}, K2 {similarity.SSIM_K2}"),
        ("ms_ssim", f"{similarity.MS_SSIM_SMALLEST_SIDE} px"),
        ("flat_noise", f"{appearance.FLAT_WINDOW} px"),
        ("high_frequency_ratio", f"{appearance.HIGH_FREQUENCY} cycles/px"),
        ("edge_error", f"{appearance.EDGE_GRADIENT}/px"),
        ("lpips", f"{lpips.SMALLEST_SIDE} px"),
        ("active_units", f"over {latent_statistics.ACTIVE_VARIANCE}"),
        ("spectrum_divergence", f"{spectrum.NUM_BINS} radial bins"),
    ],
)
def test_the_words_of_a_row_have_the_constants_of_its_code(name, constant):
    assert constant in f"{METRICS[name].protocol} {METRICS[name].needs}"


def test_a_value_has_its_digits_and_its_unit():
    assert METRICS["psnr"].text(24.618) == "24.62 dB"
    assert METRICS["ssim"].text(0.5) == "0.5000"
    assert METRICS["kl_nats_per_image"].text(1234.56) == "1,234.6 nats a picture"
    assert METRICS["psnr"].format(None) == "-"
    assert (METRICS["colour_shift_red"].label, METRICS["high_frequency_ratio"].label) == (
        "|colour_shift_red|",
        "|high_frequency_ratio - 1|",
    )
