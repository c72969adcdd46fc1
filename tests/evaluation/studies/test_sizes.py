"""Other sizes and tiles: against the model run by hand, and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pikavae.config import EvaluationConfig, ModelConfig
from pikavae.evaluation.measure.baselines import bicubic
from pikavae.evaluation.measure.measurement import Sample
from pikavae.evaluation.metrics.similarity import psnr, ssim
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.studies import sizes
from pikavae.evaluation.studies.sizes import default_sizes, in_tiles, nearest, study_sizes
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.posterior import DiagonalGaussian
from pikavae.model.tiling import TileRow, Tiles, reconstruct_any_size, seams
from tests.evaluation.test_evaluate import CPU, Pictures, model, pictures, run
from tests.support.pages import Page


def pairs_of(subject, *images):
    """Each picture and its reconstruction as a whole."""
    return [(image[None], subject.decode(subject.encode(image[None]).mode())) for image in images]


def sample_of(subject, *images):
    pairs = pairs_of(subject, *images)
    return Sample([image for image, _ in pairs], [made for _, made in pairs], CPU)


def drawn(count, side=16):
    generator = torch.Generator().manual_seed(0)
    return F.interpolate(2 * torch.rand(count, 3, 4, 4, generator=generator) - 1, size=(side, side), mode="bilinear")


@torch.inference_mode()
def study(subject, images, **options):
    return study_sizes(subject, sample_of(subject, *images), image_size=images.shape[-1], **options).sizes


class TileMeans(AutoencoderKL):
    """Shows each tile, or the whole, as its mean: what tiles change is known in closed form."""

    def encode(self, images):
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        latent = mean.expand(-1, 4, images.shape[2] // 2, images.shape[3] // 2)
        return DiagonalGaussian(latent, torch.zeros_like(latent))

    def decode(self, latents):
        return F.interpolate(latents[:, :3], scale_factor=2.0, mode="nearest")


def test_each_size_is_the_models_reconstruction_of_the_scaled_pictures():
    subject, images = model(), drawn(10)
    found = study(subject, images, others=[24, 41])
    assert found.num_images == 8
    assert [one.size for one in found.by_size] == [16, 24, 40]  # 41 is no multiple of two; Python rounds to even
    for one in found.by_size:
        side = one.size
        # Pillow scales each colour as floats by the same kernel.
        scaled = torch.stack(
            [
                torch.stack(
                    [
                        torch.tensor(
                            np.asarray(Image.fromarray(plane.numpy()).resize((side, side), Image.Resampling.BICUBIC))
                        )
                        for plane in image
                    ]
                )
                for image in images[:8]
            ]
        ).clamp(-1, 1)
        with torch.inference_mode():
            made = torch.cat([subject.decode(subject.encode(image[None]).mode()) for image in scaled])
        scores = psnr(made, scaled)
        expected = {
            "psnr": scores.mean().item(),
            "ssim": ssim(made, scaled).mean().item(),
            "psnr_worst_tenth": scores.min().item(),
            "bicubic_psnr": psnr(bicubic(scaled, 2), scaled).mean().item(),
        }
        assert {name: getattr(one, name) for name in expected} == pytest.approx(expected, abs=1e-3)


def test_without_a_wish_sizes_are_half_and_twice_up_to_a_megapixel():
    assert default_sizes(64) == [32, 128]
    assert default_sizes(512) == [256, 1024]
    assert default_sizes(768) == [384]
    assert [nearest(size, 8) for size in (3, 16, 27, 28, 29)] == [16, 16, 24, 32, 32]
    assert [one.size for one in study(model(), drawn(1), others=None).by_size] == [8, 16, 32]
    assert [one.size for one in study(model(), drawn(1), others=[16]).by_size] == [16]


def test_an_empty_list_measures_nothing_and_the_page_says_so(tmp_path):
    report = run(tmp_path, model(), pictures(2), sizes=())
    assert report.sizes.by_size == []
    assert report.sizes.tiled is None
    assert "Not measured: evaluation.sizes" in Page((tmp_path / "report.html").read_text()).text


def test_tiles_are_compared_with_the_whole_at_seams_and_elsewhere():
    subject, images = model(), drawn(6)
    found = study(subject, images, others=[64]).tiled
    assert (found.num_images, found.size, found.tile, found.overlap) == (2, 64, 32, 8)
    scaled = F.interpolate(images[:2], size=(64, 64), mode="bicubic", antialias=True).clamp(-1, 1)
    tiles, whole = Tiles(32, 8), Tiles(64, 0)
    tiled, alone = (
        torch.cat([reconstruct_any_size(subject, image[None], how).clamp(-1, 1) for image in scaled])
        for how in (tiles, whole)
    )
    wrong, seam = (tiled - alone).double(), seams(64, 64, tiles, 2)
    assert 0 < seam.double().mean() < 1
    expected = {
        "psnr_whole": psnr(alone, scaled).mean().item(),
        "psnr_tiled": psnr(tiled, scaled).mean().item(),
        "psnr_to_whole": psnr(tiled, alone).mean().item(),
        "psnr_to_whole_min": psnr(tiled, alone).min().item(),
        "max_difference": wrong.abs().max().item(),
        "rms_seams": wrong[..., seam].square().mean().sqrt().item(),
        "rms_elsewhere": wrong[..., ~seam].square().mean().sqrt().item(),
    }
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, rel=1e-4)


@torch.inference_mode()
def test_the_difference_of_tiles_is_known_where_each_shows_its_mean():
    """Left half black, right half white, two columns of tiles in a picture that is no higher than one."""
    subject = TileMeans(ModelConfig(channels=(4, 4), norm_groups=4))
    image = torch.cat([-torch.ones(3, 32, 64), torch.ones(3, 32, 64)], dim=2)
    found = in_tiles(subject, pairs_of(subject, image, image), 128)
    assert (found.tile, found.overlap) == (64, 16)
    # 128 x 32 pixels are no more than a tile has: one tile.
    assert found.psnr_to_whole == 100.0
    assert found.rms_seams is None
    assert found.rms_elsewhere == 0.0
    tall = torch.cat([-torch.ones(3, 128, 64), torch.ones(3, 128, 64)], dim=2)
    found = in_tiles(subject, pairs_of(subject, tall), 128)
    # Columns of tiles begin at 0, 32 and 64: all black, half and half, all white. The whole is grey, which is 0.
    columns = TileRow.cover(64, 32, 8)
    shown = (columns.weights() * torch.tensor([-1.0, 0.0, 1.0])[:, None]).sum(dim=0).expand(64, 64)  # of each cell
    seam = columns.overlaps()[:, None] | columns.overlaps()
    assert found.max_difference == pytest.approx(1.0)
    assert found.rms_seams == pytest.approx(shown[seam].square().mean().sqrt().item(), rel=1e-5)
    assert found.rms_elsewhere == pytest.approx(1.0)
    assert found.psnr_whole == pytest.approx(10 * math.log10(4))
    assert found.psnr_tiled > found.psnr_whole


def test_a_report_has_sizes_and_its_page_shows_them(tmp_path):
    report = run(tmp_path, model(), pictures(3), sizes=None)
    assert [one.size for one in report.sizes.by_size] == [8, 16, 32]
    own = next(one for one in report.sizes.by_size if one.size == 16)
    assert own.psnr == pytest.approx(report.metrics["psnr"], rel=1e-5)
    assert own.psnr_worst_tenth == pytest.approx(report.metrics["psnr_worst_tenth"], rel=1e-5)
    assert Report.load(tmp_path) == report
    assert {"sizes", "tiled"} <= report.protocol.keys()
    shown = Page((tmp_path / "report.html").read_text()).text
    assert "Other sizes, and tiles" in shown
    for one in report.sizes.by_size:
        assert f"{one.psnr:.2f}" in shown
    assert f"{report.sizes.tiled.psnr_to_whole:.2f} dB from those" in shown


def test_a_single_picture_of_one_colour_is_measured_at_every_size(tmp_path):
    white = Pictures(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8))
    report = run(tmp_path, model(), white, sizes=None)
    assert report.sizes.num_images == report.sizes.tiled.num_images == 1
    for one in report.sizes.by_size:
        assert one.psnr == one.psnr_worst_tenth
        assert one.bicubic_psnr == 100.0


def test_a_model_of_nan_has_no_numbers_at_any_size(tmp_path):
    subject = model()
    torch.nn.init.constant_(subject.get_parameter("quant_conv.bias"), math.nan)
    report = run(tmp_path, subject, pictures(2), sizes=None)
    assert {one.psnr for one in report.sizes.by_size} == {None}
    assert report.sizes.tiled.psnr_to_whole is None
    assert Report.load(tmp_path) == report


def test_pictures_of_several_shapes_keep_their_shapes():
    images = [torch.zeros(3, 16, 32), torch.zeros(3, 32, 16)]
    with torch.inference_mode():
        subject = model()
        found = study_sizes(subject, sample_of(subject, *images), image_size=24, others=[48]).sizes
    assert [one.size for one in found.by_size] == [24, 48]
    assert found.tiled.tile == 24


@torch.inference_mode()
def test_a_long_picture_of_a_size_that_needs_no_tiles_is_one_tile(monkeypatch):
    monkeypatch.setattr(sizes, "TILES", Tiles(48, 12))
    subject = model()
    long = drawn(1, 40)[0][:, :16]  # scaled to 32 x 80 it has more pixels than a tile of 48 x 48
    found = study_sizes(subject, sample_of(subject, long), image_size=24, others=[48]).sizes
    scaled = F.interpolate(long[None], size=(32, 80), mode="bicubic", antialias=True).clamp(-1, 1)
    whole = psnr(subject.decode(subject.encode(scaled).mode()), scaled).item()
    assert found.by_size[1].psnr == pytest.approx(whole, abs=1e-9)
    assert found.tiled.psnr_whole == pytest.approx(whole, abs=1e-9)
    assert found.tiled.psnr_tiled != pytest.approx(whole, abs=1e-3)


def test_sizes_are_a_setting():
    assert EvaluationConfig(sizes=[256, 512]).sizes == (256, 512)
