"""Whole pictures of a set that shows squares of them: reconstructed in tiles, measured strip by strip."""

import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.evaluation.measure.measurement import Sample
from pikavae.evaluation.metrics.similarity import psnr, ssim
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.sections import WholePictures
from pikavae.evaluation.studies import whole
from pikavae.evaluation.studies.whole import study_whole
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.tiling import Tiles, reconstruct_any_size, seams
from tests.evaluation.test_evaluate import run
from tests.support.prepared_sets import make_prepared, random_pictures

SHAPES = [(52, 70), (32, 33), (16, 16)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return AutoencoderKL(ModelConfig(channels=(8, 16), norm_groups=4)).eval()


@pytest.fixture
def prepared(tmp_path):
    pictures = random_pictures(3, *SHAPES)
    return make_prepared(tmp_path / "set", pictures[:1], pictures, image_size=16, crop="native")


@pytest.fixture(autouse=True)
def _small_tiles_and_strips(monkeypatch):
    """So that pictures of 50 px have several of both."""
    monkeypatch.setattr(whole, "tiles_of", lambda config: Tiles(32, 8))
    monkeypatch.setattr(whole, "STRIP_ROWS", 7)


def study(model, prepared, count):
    nothing = Sample([], [], torch.device("cpu"))
    with torch.inference_mode():
        return study_whole(model, nothing, picture_set=prepared.validation, count=count)


def test_the_numbers_are_those_of_the_whole_pictures(model, prepared):
    measured = study(model, prepared, 9)
    found = measured.whole
    images = [prepared.validation.whole_pixels(i)[None].float() / 127.5 - 1 for i in range(3)]
    with torch.inference_mode():
        made = [reconstruct_any_size(model, image, Tiles(32, 8)) for image in images]
    decibels = torch.cat([psnr(one, image) for one, image in zip(made, images, strict=True)])
    structure = torch.cat([ssim(one, image) for one, image in zip(made, images, strict=True)])
    assert found.psnr == pytest.approx(decibels.mean().item(), rel=1e-9)
    assert found.psnr_min == pytest.approx(decibels.min().item(), rel=1e-9)
    assert found.ssim == pytest.approx(structure.mean().item(), rel=1e-9)
    assert (found.num_images, found.largest_width, found.largest_height) == (3, 70, 52)
    errors, marks = [], []
    for one, image in zip(made, images, strict=True):
        height, width = image.shape[2:]
        marks.append(seams(height, width + width % 2, Tiles(32, 8), 2)[:, :width].expand(3, -1, -1).flatten())
        errors.append((one.clamp(-1, 1) - image).double().square().flatten())
    error, at_seams = torch.cat(errors), torch.cat(marks)
    assert found.rms_seams == pytest.approx(error[at_seams].mean().sqrt().item(), rel=1e-6)
    assert found.rms_elsewhere == pytest.approx(error[~at_seams].mean().sqrt().item(), rel=1e-6)
    assert "whole" in measured.protocol


def test_the_first_pictures_are_measured_and_none_on_request(model, prepared):
    assert study(model, prepared, 2).whole.num_images == 2
    assert study(model, prepared, 0).whole == WholePictures()


def test_other_sets_have_no_whole_pictures(model, tmp_path):
    pictures = random_pictures(2, (16, 16))
    measured = study(model, make_prepared(tmp_path / "set", pictures, pictures, image_size=16), 4)
    assert (measured.whole, measured.protocol) == (WholePictures(), {})


def test_a_report_has_them_beside_the_numbers_of_the_squares(model, prepared, tmp_path):
    report = run(tmp_path / "out", model, prepared.validation, whole_pictures=2)
    assert report.whole.num_images == 2
    assert Report.load(tmp_path / "out").whole == report.whole
    assert report.num_images == 3
    assert f"{report.whole.psnr:.2f} dB on 2 whole pictures of up to 70 x 52 px, in tiles of 32 px" in report.table()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h3>Whole pictures</h3>" in page
    plain = run(tmp_path / "none", model, prepared.validation, whole_pictures=0)
    assert plain.whole == WholePictures()
    assert plain.metrics == report.metrics
    assert "Whole pictures" not in (tmp_path / "none" / "report.html").read_text()
    assert "whole picture" not in plain.table()
