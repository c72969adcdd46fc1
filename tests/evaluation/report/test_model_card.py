"""A model's card is read by a model hub, and says no more than is known."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard

from pikavae.evaluation.report.model_card import Scaling, Training, model_card, one_line, scaling_of_report
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
    scaling = scaling_of_report(report)
    assert scaling.factors == {name: report.metrics[name] for name in ("scaling_factor", "shift_factor")}
    assert scaling.source == f"the {report.num_images} evaluation pictures"
    assert "fills in `license`" in text
    assert model_card(report, CONFIG, name="fine model") == text


def test_what_was_not_measured_or_is_not_known_is_said():
    text = model_card(None, CONFIG, name="theirs", is_imported=True)
    assert "Not measured yet" in text
    assert "how it was trained is not known here" in text
    assert "org/pictures" not in text
    assert ModelCard(text).data.eval_results is None


def test_a_scaling_that_is_no_number_is_left_out(report):
    broken = report.model_copy(
        update={"metrics": {**report.metrics, "scaling_factor": None}, "reasons": {"scaling_factor": "NaN"}}
    )
    assert scaling_of_report(broken) is None
    assert "was not measured" in model_card(broken, CONFIG, name="broken")


def test_the_source_is_named_without_the_machines_paths():
    config = parse_config({"data": {"source": "/home/zoe/secret/pictures"}})
    text = model_card(None, config, name="a")
    assert "on the pictures of pictures at" in text
    assert "How long is not known here" in text
    assert "zoe" not in text


ASKED = parse_config({"training": {"steps": 800, "batch_size": 16}})


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            Training(step=550, steps=550, images_seen=2200, num_images=1100, started_with=None),
            "on the 1,100 training pictures of sprites at 512 px, 550 steps of 4 pictures (2,200 pictures seen, 2.0 "
            "times each), from new weights;",
        ),
        (
            Training(step=300, steps=550, images_seen=1200, num_images=None, started_with="abc"),
            "on the training pictures of sprites at 512 px, 300 steps of 4 pictures (1,200 pictures seen); the "
            "training went on to step 550, from the weights abc;",
        ),
        (None, "How long is not known here"),
    ],
    ids=["ended before", "an earlier step", "not known"],
)
def test_what_it_says_of_a_training_is_what_happened_and_not_what_was_asked_for(training, said):
    text = model_card(None, ASKED, name="a", training=training)
    assert said in text
    assert "800" not in text
    assert "16 pictures" not in text


@pytest.mark.parametrize("side", ["training", "evaluation"])
@pytest.mark.parametrize("written", [True, False])
def test_a_scaling_is_told_with_the_pictures_that_it_is_of(side, written):
    scaling = Scaling.of(0.29903, 0.125, num_images=1100, side=side)
    text = model_card(None, ASKED, name="a", scaling=scaling, written=written)
    assert f"Scaling factor 0.29903, shift factor 0.125, measured on the 1,100 {side} pictures" in text
    assert ("`config.json` has both" in text) is written


def test_a_reason_names_a_file_without_the_machines_folders(report):
    reasons = {"lpips": "/home/a/.cache/torch/vgg16.pth is missing; see /a/b/c.html"}
    lacking = report.model_copy(update={"reasons": reasons, "metrics": {**report.metrics, "lpips": None}})
    text = model_card(lacking, CONFIG, name="a")
    assert "vgg16.pth is missing; see c.html" in text
    assert "/home" not in text


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
    assert [line for line in body.splitlines() if line.startswith("# ")] == [f"# {one_line(odd)}"]
    assert max(map(len, text.splitlines())) < 1500
    assert "<script>" not in body
