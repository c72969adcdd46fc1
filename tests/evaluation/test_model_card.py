"""A model's card is read by a model hub, and says no more than is known."""

import re
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from pikavae.evaluation.model_card import measured_scaling, model_card, words
from pikavae.presets import parse_config
from tests.evaluation.test_evaluate import model, pictures, run

CONFIG = parse_config({"data": {"source": "hub:org/pictures", "image_size": 16}, "model": {"channels": [32, 64]}})


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("report"), model(), pictures())


def test_a_hub_reads_its_scores_its_data_set_and_its_library(report):
    data = ModelCard(model_card(report, CONFIG, name="fine model")).data
    assert (data.library_name, data.license, data.datasets) == ("diffusers", "unknown", ["org/pictures"])
    scores = {result.metric_type: result.metric_value for result in data.eval_results}
    assert scores == {name: pytest.approx(report.metrics[name], abs=1e-6) for name in ("psnr", "ssim")}


def test_it_tells_scores_protocol_baselines_and_scaling(report):
    text = model_card(report, CONFIG, name="fine model")
    assert f"PSNR {report.metrics['psnr']:.2f} dB" in text
    assert "bicubic, down to" in text
    assert all(name in text.replace("\\", "") for name in report.protocol)
    scaling = measured_scaling(report)
    assert scaling == {name: report.metrics[name] for name in ("scaling_factor", "shift_factor")}
    assert f"scaling factor {scaling['scaling_factor']:.6g}, shift factor {scaling['shift_factor']:.6g}" in text
    assert "fills in `license`" in text
    assert model_card(report, CONFIG, name="fine model") == text


def test_what_was_not_measured_or_is_not_known_is_said():
    text = model_card(None, CONFIG, name="theirs", is_imported=True)
    assert "Not measured yet" in text
    assert "how it was trained is not known here" in text
    assert "org/pictures" not in text
    assert ModelCard(text).data.eval_results is None


def test_a_scaling_that_is_no_number_is_left_out(report):
    broken = replace(report, metrics={**report.metrics, "scaling_factor": None}, reasons={"scaling_factor": "NaN"})
    assert measured_scaling(broken) == {}
    assert "was not measured" in model_card(broken, CONFIG, name="broken")


def test_the_source_is_named_without_the_machines_paths():
    config = parse_config({"data": {"source": "/home/zoe/secret/pictures"}})
    text = model_card(None, config, name="a")
    assert "on the pictures of pictures at" in text
    assert "zoe" not in text


@pytest.mark.parametrize(
    "odd",
    [
        "a\n---\nlicense: mit\n---\n# Other",
        "x" * 10_000,
        "`a` <script> [b](c) | * _",
        "../../etc: {a: 'b\"}",
        "é\u2028✓",
    ],
    ids=["newlines", "long", "marks", "path", "unusual"],
)
def test_no_name_breaks_a_line_or_the_header(report, odd):
    config = parse_config({"data": {"source": odd}})
    text = model_card(report, config, name=odd)
    header, body = re.fullmatch(r"---\n(.*?)---\n(.*)", text, flags=re.S).groups()
    assert yaml.safe_load(header)["license"] == "unknown"
    assert [line for line in body.splitlines() if line.startswith("# ")] == [f"# {words(odd)}"]
    assert max(map(len, text.splitlines())) < 1500
    assert "<script>" not in body
