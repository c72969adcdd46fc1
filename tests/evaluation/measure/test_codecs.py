"""JPEG and WebP within the bytes of a latent."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from pikavae.evaluation.measure import codecs
from pikavae.evaluation.measure.codecs import decode_file, encode_within
from pikavae.evaluation.pages.numbers import conclusions
from tests.evaluation.test_evaluate import Pictures, drawn, model, pictures, run

SETTINGS = {"jpeg": {"format": "JPEG", "optimize": True}, "webp": {"format": "WEBP", "method": 4}}


def soft_picture(side=64):
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)


def file_of(picture, codec, quality):
    buffer = io.BytesIO()
    picture.save(buffer, quality=quality, **SETTINGS[codec])
    return buffer.getvalue()


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
@pytest.mark.parametrize("limit", [900, 1500, 2048])
def test_the_largest_file_that_fits_is_taken(codec, limit):
    files = [file_of(soft_picture(), codec, quality) for quality in range(1, 101)]
    sizes = [len(file) for file in files]
    found = encode_within(soft_picture(), codec, limit)
    assert found in files
    assert len(found) <= limit
    # Where neighbours do not grow, bisection may end one of them lower.
    assert len(found) >= 0.97 * max(size for size in sizes if size <= limit)
    assert found == encode_within(soft_picture(), codec, limit)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_without_a_file_that_fits_it_is_the_lowest_quality_and_without_a_bound_the_highest(codec):
    assert encode_within(soft_picture(), codec, 10) == file_of(soft_picture(), codec, 1)
    assert encode_within(soft_picture(), codec, 10**6) == file_of(soft_picture(), codec, 100)


def test_a_file_comes_back_as_pixels():
    file = file_of(soft_picture(), "jpeg", 90)
    expected = np.asarray(Image.open(io.BytesIO(file)), dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1
    assert np.allclose(decode_file(file)[0].numpy(), expected, atol=1e-6)


def test_the_report_has_the_means_over_the_coded_pictures(tmp_path):
    side, limit = 64, 2 * 4 * 32 * 32
    given = pictures(3, side=side)
    given.content[1] = drawn(side)
    report = run(tmp_path, model(), given)
    arrays = [one.permute(1, 2, 0).numpy() for one in given.content]
    for codec in ("jpeg", "webp"):
        files = [encode_within(Image.fromarray(array), codec, limit) for array in arrays]
        back = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        scores = [peak_signal_noise_ratio(x, y, data_range=255) for x, y in zip(arrays, back, strict=True)]
        row = report.baselines[codec]
        assert row.psnr == pytest.approx(np.mean(np.minimum(scores, 100)), rel=1e-6)
        assert row.bytes == pytest.approx(np.mean([len(file) for file in files]))
        assert (row.coded, row.too_large) == (3, 0)
    words = f"WebP files of at most the latent's bytes ({report.baselines['webp'].psnr:.2f} dB)."
    assert [level for level, text in conclusions(report) if text.endswith(words)] == ["note"]


def test_files_that_do_not_fit_are_shown_with_their_size_and_counted(tmp_path):
    given = pictures(2, side=16)
    given.content[1] = 255
    small = model()
    report = run(tmp_path, small, Pictures(given.content[:, :, :8, :8].contiguous()))  # 128 bytes, less than a header
    jpeg = report.baselines["jpeg"]
    assert (jpeg.coded, jpeg.too_large) == (2, 2)
    assert jpeg.bytes > 128
    assert "JPEG, the lowest quality; 2 of 2 larger than the latent" in report.table()


def test_of_many_pictures_a_bounded_number_is_coded_evenly_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(codecs, "MOST_CODED", 4)
    given = pictures(10, side=32)
    given.content[[1, 2, 4, 5, 7, 8]] = 255  # those between
    report = run(tmp_path, model(), given)
    only = run(tmp_path / "only", model(), Pictures(given.content[[0, 3, 6, 9]]))
    assert report.baselines["webp"].coded == 4
    assert report.baselines["webp"] == only.baselines["webp"]
    assert "WebP within the latent's bytes, 4 pictures" in report.table()


def test_one_picture_of_one_colour_is_coded(tmp_path):
    white = Pictures(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8))
    report = run(tmp_path, model(), white)
    assert report.baselines["jpeg"].psnr == 100.0
    assert report.baselines["jpeg"].too_large == 0
