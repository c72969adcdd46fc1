"""What a report says and shows of latents, from the model to the page."""

import base64
import html
import io
import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pikavae.config import ModelConfig
from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.evaluation.measure.measurement import MeasuredBatch
from pikavae.evaluation.pages.latents import count_images
from pikavae.evaluation.pages.report_page import PAGE_NAME
from pikavae.evaluation.report.panels import to_uint8
from pikavae.evaluation.report.sections import LatentViewNumbers
from pikavae.evaluation.studies.latent_view import (
    FRAMES,
    NOISE_PICTURES,
    NOISED_PICTURES,
    VIEWED_PICTURES,
    WALKS,
    LatentViewer,
)
from pikavae.evaluation.studies.smoothness import NOISES
from pikavae.model.autoencoder import AutoencoderKL
from tests.evaluation.test_evaluate import Pictures, model, pictures, run
from tests.support.pages import Page


@torch.inference_mode()
def viewed(subject, given, *, limit=VIEWED_PICTURES, batch_size=4):
    """The view of a model's latents, and its findings."""
    statistics = LatentStatistics(subject.config.latent_channels)
    viewer = LatentViewer(subject.decode, statistics, limit)
    for indices in given.batches(batch_size):
        images = given.pixels(indices).float() / 127.5 - 1
        posterior = subject.encode(images)
        statistics.update(posterior)
        viewer.update(MeasuredBatch(indices, images, subject.decode(posterior.mode()), posterior))
    findings = viewer.result()
    return viewer.view, findings.latent_view


def images_of(document):
    """The pictures of a page's section on latents, with the words for who cannot see them."""
    section = document[document.index('id="latents"') :]
    found = re.findall(r'src="data:image/webp;base64,([^"]+)" alt="([^"]+)"', section)
    return [
        (np.asarray(Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB")), html.unescape(alt))
        for one, alt in found
    ]


def test_the_first_pictures_are_viewed_and_no_more_is_decoded_than_is_said():
    view, _ = viewed(model(), pictures(11))
    assert len(view.components.images) == VIEWED_PICTURES
    assert [(walk.first, walk.second) for walk in view.walks] == [(0, 1), (2, 3)][:WALKS]
    assert {len(walk.frames) for walk in view.walks} == {FRAMES}
    assert len(view.noise) == NOISE_PICTURES
    assert len(view.smoothness.examples) == len(NOISES) + 2
    few, _ = viewed(model(), pictures(11), limit=3)
    assert len(few.components.images) == 3
    assert [(walk.first, walk.second) for walk in few.walks] == [(0, 1)]


def test_the_ends_of_a_way_are_the_reconstructions():
    subject, given = model(), pictures(4)
    view, _ = viewed(subject, given)
    with torch.inference_mode():
        ends = [subject.decode(subject.encode(one[None]).mode())[0] for one in given.content.float() / 127.5 - 1]
    torch.testing.assert_close(view.walks[0].frames[0], ends[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(view.walks[0].frames[-1], ends[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(view.smoothness.examples[0], ends[0], rtol=1e-5, atol=1e-5)


def test_batches_do_not_decide_the_view():
    (one, numbers), (other, others) = (viewed(model(), pictures(6), batch_size=size) for size in (1, 6))
    assert numbers.component_shares == pytest.approx(others.component_shares, rel=1e-4)
    for level, again in zip(numbers.smoothness, others.smoothness, strict=True):
        assert level.noise == again.noise
        for name in ("latent_change", "psnr", "gain"):
            assert getattr(level, name) == pytest.approx(getattr(again, name), rel=1e-3)
    for left, right in zip(one.noise, other.noise, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-3)


def test_the_numbers_are_in_the_report_with_how_they_were_measured(tmp_path):
    subject, given = model(), pictures(11)
    report = run(tmp_path, subject, given, panel_images=8)
    _, expected = viewed(subject, given)
    assert report.latent_view == expected
    assert json.loads((tmp_path / "report.json").read_text())["latent_view"] == expected.content()
    assert [level.noise for level in expected.smoothness] == [*NOISES, "posterior"]
    psnrs = [level.psnr for level in expected.smoothness[:-1]]
    assert psnrs == sorted(psnrs, reverse=True)
    assert 1 > sum(expected.component_shares) > 0.5
    assert f"first {NOISED_PICTURES} pictures" in str(report.protocol["smoothness"])
    assert {"smoothness", "component_shares"} <= report.protocol.keys()


def test_the_page_shows_the_view_with_words_for_each_picture(tmp_path):
    subject, given = model(), pictures(6)
    report = run(tmp_path, subject, given, panel_images=6)
    view, _ = viewed(subject, given)
    document = (tmp_path / PAGE_NAME).read_text()
    shown = images_of(document)
    assert len(shown) == count_images(view)
    assert all(alt for _, alt in shown)
    by_words = {alt: image for image, alt in shown}
    named = given.captions
    for index, picture in enumerate(view.components.images):
        colours = to_uint8(picture[None])[0].permute(1, 2, 0).numpy()
        assert np.array_equal(by_words[f"{named[index]}, latent as colours"], colours)
        original = given.content[index].permute(1, 2, 0).numpy()
        assert np.array_equal(by_words[f"{named[index]}, original"], original)
    half = to_uint8(view.walks[1].frames[3][None])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(by_words[f"from {named[2]} to {named[3]}, 50 % of the way"], half)
    page = Page(document)
    level = report.latent_view.smoothness[2]
    assert page.row("10 %")[1:] == [f"{level.psnr:.2f}", f"{level.gain:.3f}"]
    assert page.row("scaling factor")[0] == f"{report.metrics['scaling_factor']:.5f}"
    assert page.row("active channels, of 4")[0] == "4"
    assert page.row("KL, nats a picture")[0] == f"{report.metrics['kl_nats_per_image']:,.1f}"
    assert page.row("3")[0] == f"{report.latents.channel_means[3]:,.4f}"
    own = sum(one.psnr for one in report.per_image[:4]) / 4
    verb = "less" if level.psnr > own else "more"
    assert f"Here noise of 10 % changes the picture {verb} than the autoencoder itself does" in page.text
    assert f"{level.psnr:.2f} dB from the picture without noise" in page.text
    assert f"reconstructions are {own:.2f} dB from their originals (on the same 4 pictures)" in page.text
    assert "gives no pictures of the data" in page.text


@pytest.mark.parametrize("channels", [1, 2, 16])
def test_any_number_of_channels_can_be_viewed(tmp_path, channels):
    subject = AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4, latent_channels=channels))
    report = run(tmp_path, subject, pictures(2))
    assert len(report.latent_view.component_shares) == min(channels, 3)
    assert f"active channels, of {channels}" in Page((tmp_path / PAGE_NAME).read_text()).text


def test_a_single_picture_has_a_view_without_a_way(tmp_path):
    white = Pictures(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    report = run(tmp_path, model(), white)
    page = Page((tmp_path / PAGE_NAME).read_text())
    assert "It takes two pictures of one size" in page.text
    assert all(level.psnr is not None for level in report.latent_view.smoothness)


def test_latents_that_do_not_vary_have_no_smoothness_and_the_page_says_so(tmp_path):
    subject = model()
    torch.nn.init.zeros_(subject.get_parameter("quant_conv.weight"))
    torch.nn.init.zeros_(subject.get_parameter("quant_conv.bias"))
    report = run(tmp_path, subject, pictures(2))
    assert report.latent_view == LatentViewNumbers(component_shares=[], smoothness=[])
    text = Page((tmp_path / PAGE_NAME).read_text()).text
    assert text.count("do not vary") == 2
    assert "Decoded noise" in text


def test_a_model_without_finite_weights_shows_no_number(tmp_path):
    subject = model()
    torch.nn.init.constant_(subject.get_parameter("quant_conv.bias"), math.nan)
    report = run(tmp_path, subject, pictures(3))
    assert report.latent_view == LatentViewNumbers(component_shares=[], smoothness=[])
    assert "nan" not in Page((tmp_path / PAGE_NAME).read_text()).text.lower()


def test_a_decoder_that_breaks_down_has_null_for_its_numbers(tmp_path):
    subject = model()
    torch.nn.init.constant_(subject.decoder.conv_out.bias, math.nan)
    report = run(tmp_path, subject, pictures(3))
    assert [level.psnr for level in report.latent_view.smoothness] == [None] * (len(NOISES) + 1)
    assert all(level.latent_change > 0 for level in report.latent_view.smoothness)
    assert "nan" not in Page((tmp_path / PAGE_NAME).read_text()).text.lower()
