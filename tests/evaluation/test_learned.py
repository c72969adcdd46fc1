"""LPIPS, rFID and KID in a report: measured where the weights are there, and told to be missing where not."""

import math

import numpy as np
import pytest
import torch

from pikavae.errors import UserError
from pikavae.evaluation.measure.distribution import Distribution, kernel_distances
from pikavae.evaluation.measure.measurement import MeasuredBatch
from pikavae.evaluation.measure.scores import Perceptual
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.report.panels import to_uint8
from pikavae.evaluation.report.report import Report
from pikavae.features.inception import InceptionFeatures
from pikavae.features.lpips import LPIPS
from pikavae.features.published import INCEPTION, INCEPTION_FIELD, LPIPS_FIELD, VGG16, digest_of
from tests.evaluation.test_evaluate import CPU, NEED_WEIGHTS, Pictures, model, pictures, reconstructions, run


@pytest.fixture(scope="module")
def measured(tmp_path_factory, vgg16_file, inception_file):
    """The folder of a report with all weights."""
    folder = tmp_path_factory.mktemp("measured")
    run(folder, model(), pictures(4), lpips_weights=str(vgg16_file), inception_weights=str(inception_file))
    return folder


def test_the_numbers_are_those_of_the_networks(measured, vgg16_file, inception_file):
    report = Report.load(measured)
    shown, images = reconstructions(model(), pictures(4))
    with torch.inference_mode():
        expected = LPIPS(vgg16_file, LPIPS_FIELD)(shown.clamp(-1, 1), images)
        network = InceptionFeatures(inception_file, INCEPTION_FIELD)
        features = [network(to_uint8(one)).double().numpy() for one in (images, shown)]
    assert [score.lpips for score in report.per_image] == pytest.approx(expected.tolist(), rel=1e-4)
    assert report.metrics["lpips"] == pytest.approx(expected.mean().item(), rel=1e-4)
    kid = kernel_distances(*features)
    assert report.metrics["kid"] == pytest.approx(kid.mean(), rel=1e-3)
    assert report.metrics["kid_deviation"] == pytest.approx(kid.std(), rel=1e-3)
    assert kid.mean() > 0.01
    assert report.metrics["rfid"] is None
    assert "needs more pictures than the 2,048 features" in report.reasons["rfid"]


def test_protocol_and_page_tell_of_weights_and_subsets(measured, vgg16_file, inception_file):
    protocol = Report.load(measured).protocol
    assert f"VGG16 with the weights {digest_of(vgg16_file)} (not the published file)" in str(protocol["lpips"])
    assert f"Inception v3 with the weights {digest_of(inception_file)}" in str(protocol["rfid"])
    assert "100 subsets of 2 (seed 0)" in str(protocol["kid"])
    page = (measured / "report.html").read_text()
    for name in NEED_WEIGHTS:
        assert f"<code>{name}</code>" in page
    assert "Zhang et al. 2018" in page
    assert "needs more pictures than the 2,048 features" in page


def test_without_weights_there_is_no_number_but_the_file_and_the_remedy(tmp_path):
    report = run(tmp_path, model(), pictures(2))
    assert {report.metrics[name] for name in NEED_WEIGHTS} == {None}
    assert not NEED_WEIGHTS & report.protocol.keys()
    assert [score.lpips for score in report.per_image] == [None, None]
    for name in NEED_WEIGHTS:
        weights, field = (VGG16, LPIPS_FIELD) if name == "lpips" else (INCEPTION, INCEPTION_FIELD)
        assert report.reasons[name] == (
            f"{weights.cache_path} is missing; `pikavae doctor` says how to get it, or name a copy in {field}"
        )
        assert weights.name in (tmp_path / "report.html").read_text()


def test_a_damaged_file_stops_the_evaluation_by_name(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"<html>")
    for field in ("lpips_weights", "inception_weights"):
        with pytest.raises(UserError, match=rf"bad\.pth: .*evaluation\.{field}"):
            run(tmp_path / "out", model(), pictures(2), **{field: str(tmp_path / "bad.pth")})


def batches(given: Pictures, size: int) -> list[MeasuredBatch]:
    """With reconstructions that leave the range; of the first picture one number is not finite."""
    images = given.content.float() / 127.5 - 1
    shown = 1.3 * images.roll(1, dims=-1)
    shown[0, 0, 0, 0] = math.inf
    with torch.inference_mode():
        posterior = model().encode(images)
    return [MeasuredBatch(indices, images[indices], shown[indices], posterior) for indices in given.batches(size)]


def test_lpips_does_not_depend_on_the_batch_and_blames_what_is_not_finite(vgg16_file):
    columns = []
    for size in (1, 4):
        perceptual = Perceptual(4, str(vgg16_file), CPU)
        for batch in batches(pictures(4), size):
            perceptual.update(batch)
        columns.append(perceptual.result().scores["lpips"])
    assert columns[0].isnan().tolist() == [True, False, False, False]
    assert torch.equal(columns[0].nan_to_num(), columns[1].nan_to_num())


def test_small_pictures_have_no_lpips(vgg16_file):
    perceptual = Perceptual(2, str(vgg16_file), CPU)
    for batch in batches(pictures(2, side=8), 2):
        perceptual.update(batch)
    found = perceptual.result()
    assert found.scores["lpips"].isnan().all()
    assert METRICS["lpips"].needs == "has both sides of at least 16 px, which VGG16 needs"


def test_one_reconstruction_that_is_not_finite_takes_rfid_and_kid_away(inception_file):
    distribution = Distribution(2, str(inception_file), CPU)
    for batch in batches(pictures(2), 2):
        distribution.update(batch)
    found = distribution.result()
    assert np.isnan(list(found.metrics.values())).all()
    assert found.metrics.keys() == NEED_WEIGHTS - {"lpips"}
    assert found.reasons == {}  # that is `overall`'s to tell
