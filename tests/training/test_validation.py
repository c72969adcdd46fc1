"""Scores and previews during a training: the numbers of the report, from one pass, from pictures that stay."""

import pytest
import torch

from pikavae.evaluation.evaluate import measure
from pikavae.training.processes import Processes
from pikavae.training.state import TrainState
from pikavae.training.validation import Validation
from tests.support.prepared_sets import make_prepared, random_pictures
from tests.training.conftest import make_config

CPU = torch.device("cpu")
CONFIG = make_config(**{"evaluation.batch_size": 3, "training.preview_images": 4, "data.image_size": 32})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    drawn = random_pictures(9, (32, 32))
    return make_prepared(tmp_path_factory.mktemp("validation") / "set", drawn[:2], drawn[2:], image_size=32).validation


@pytest.fixture(scope="module")
def model():
    return TrainState.fresh(CONFIG, CPU).model.eval()


def test_the_numbers_are_those_of_the_report(tmp_path, pictures, model):
    scores, _ = Validation(pictures, CONFIG, CPU).measure(model)
    report = measure(model, pictures, CONFIG.evaluation, tmp_path, device=CPU, provenance={})
    for name in ("psnr", "ssim", "kl_nats_per_image"):
        assert scores[f"val/{name}"] == pytest.approx(report.metrics[name], rel=1e-12), name


def test_the_preview_is_taken_from_the_pass_that_measures(pictures, model):
    validation = Validation(pictures, CONFIG, CPU)
    scores, shown = validation.look(model, measure=True, show=True)
    nothing, alone = validation.look(model, measure=False, show=True)
    assert shown.shape == alone.shape == (4, 3, 32, 32)  # of two batches
    torch.testing.assert_close(shown, alone, rtol=0, atol=1e-5)
    assert scores == validation.look(model, measure=True, show=False)[0]
    assert (nothing, validation.look(model, measure=False, show=False)) == ({}, ({}, None))


def test_pictures_that_stay_are_read_once_and_give_the_same_numbers(pictures, model, monkeypatch):
    validation = Validation(pictures, CONFIG, CPU)
    expected = validation.measure(model)[0]
    validation._keeps = True  # as on a GPU
    assert validation.measure(model)[0] == expected
    monkeypatch.setattr(type(pictures), "pixels", None)
    assert validation.measure(model)[0] == expected


def test_processes_share_the_batches_and_each_picture_is_shown(pictures, model, monkeypatch):
    whole, shown = Validation(pictures, CONFIG, CPU).measure(model, show=True)
    parts = []
    monkeypatch.setattr(Processes, "gather", lambda self, value: parts.append(value) or [*parts])
    Validation(pictures, CONFIG, CPU, Processes(1, 2)).measure(model)
    scores, pieced = Validation(pictures, CONFIG, CPU, Processes(0, 2)).measure(model, show=True)
    assert [sorted(part) for part in parts] == [[1], [0, 2]]
    assert scores == whole
    torch.testing.assert_close(pieced, shown, rtol=0, atol=1e-5)
