import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pikavae.config import EvaluationConfig, ModelConfig
from pikavae.data.pictures.form import RGB
from pikavae.errors import UserError
from pikavae.evaluation.evaluate import measure
from pikavae.evaluation.measure.baselines import bicubic
from pikavae.evaluation.metrics.appearance import appearance
from pikavae.evaluation.metrics.similarity import ms_ssim, mse, psnr, ssim
from pikavae.evaluation.report.report import Report
from pikavae.model.autoencoder import AutoencoderKL
from tests.support.prepared_sets import make_prepared

TINY = ModelConfig(channels=(8, 16), norm_groups=4)
CPU = torch.device("cpu")
NEED_WEIGHTS = {"lpips", "rfid", "kid", "kid_deviation"}


@dataclass
class Pictures:
    content: Tensor
    """(N, C, H, W) uint8."""
    digest: str = "d1"
    channels: Sequence[str] = RGB

    @property
    def names(self) -> list[str]:
        return [f"{i}.png" for i in range(len(self.content))]

    @property
    def captions(self) -> list[str]:
        return [f'a "cat", no. {i}' for i in range(len(self.content))]

    @property
    def image_size(self) -> int:
        return self.content.shape[-1]

    def __len__(self) -> int:
        return len(self.content)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        return self.content[list(indices)]

    def whole_pixels(self, index: int) -> Tensor | None:
        return None

    def batches(self, size: int) -> Iterator[list[int]]:
        for start in range(0, len(self), size):
            yield list(range(start, min(start + size, len(self))))


class BrokenOnDark(AutoencoderKL):
    """Its decoder breaks down on dark pictures: they are recognised by the latents that `encode` last gave."""

    def encode(self, images):
        posterior = super().encode(images)
        self.dark = posterior.mode()[images.mean(dim=(1, 2, 3)) < -0.5]
        return posterior

    def decode(self, latents):
        images = super().decode(latents)
        for image, latent in zip(images, latents, strict=True):
            if any(torch.equal(latent, dark) for dark in self.dark):
                image[0, 0, 0] = math.inf
        return images


def model(kind: type[AutoencoderKL] = AutoencoderKL) -> AutoencoderKL:
    torch.manual_seed(0)
    return kind(TINY)


def pictures(count: int = 11, side: int = 16) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    return Pictures(torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator))


def run(out: Path, subject: AutoencoderKL, given: Pictures, **settings: object) -> Report:
    out.mkdir(exist_ok=True)
    config = EvaluationConfig(**{"batch_size": 4, "panel_images": 3, "sizes": (), **settings})
    return measure(subject, given, config, out, device=CPU, provenance={"run": "r1"})


@torch.inference_mode()
def reconstructions(subject: AutoencoderKL, given: Pictures) -> tuple[Tensor, Tensor]:
    images = given.content.float() / 127.5 - 1
    return subject.decode(subject.encode(images).mode()), images


def test_scores_are_the_metrics_of_the_modes_reconstructions(tmp_path):
    subject, given = model(), pictures()
    report = run(tmp_path, subject, given)
    shown, images = reconstructions(subject, given)
    metrics = {"psnr": psnr(shown, images), "ssim": ssim(shown, images), "mse": mse(shown, images)}
    looks = appearance(shown, images, factor=2)
    undefined = {"ms_ssim", "flat_noise", *NEED_WEIGHTS}  # on noise of 16 px
    for name, expected in (metrics | {name: looks[name] for name in looks.keys() - undefined}).items():
        assert report.metrics[name] == pytest.approx(expected.mean().item(), rel=1e-5)
        assert [getattr(score, name) for score in report.per_image] == pytest.approx(expected.tolist(), rel=1e-5)
    scores = psnr(shown, images)
    assert report.metrics["psnr_min"] == pytest.approx(scores.min().item(), rel=1e-5)
    assert report.metrics["psnr_worst_tenth"] == pytest.approx(scores.sort().values[:2].mean().item(), rel=1e-5)
    assert report.metrics["psnr_pooled"] == pytest.approx(10 * math.log10(4 / mse(shown, images).mean()), rel=1e-5)
    assert report.metrics["non_finite_fraction"] == 0.0
    assert {name for name, value in report.metrics.items() if value is None} == set(report.reasons) == undefined
    assert report.counts == {}


def test_latent_statistics_are_those_of_the_posteriors(tmp_path):
    subject, given = model(), pictures()
    report = run(tmp_path, subject, given)
    with torch.inference_mode():
        posterior = subject.encode(given.content.float() / 127.5 - 1)
    modes, kl = posterior.mode().double(), posterior.kl().double()
    expected = {
        "kl_nats_per_image": kl.mean().item(),
        "kl_nats_per_dimension": kl.mean().item() / (4 * 8 * 8),
        "latent_mean": modes.mean().item(),
        "latent_std": modes.std(correction=0).item(),
        "scaling_factor": 1 / modes.std(correction=0).item(),
        "shift_factor": modes.mean().item(),
        "active_units": (modes.var(dim=0).mean(dim=(1, 2)) > 0.01).sum().item(),
    }
    assert {name: report.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert report.latents.channel_means == pytest.approx(modes.mean(dim=(0, 2, 3)).tolist(), rel=1e-5)
    variances = modes.var(dim=0).mean(dim=(1, 2)).tolist()
    assert report.latents.unit_variances == pytest.approx(variances, rel=1e-5)
    assert [score.kl_nats for score in report.per_image] == pytest.approx(kl.tolist(), rel=1e-5)


def test_baselines_are_measured_on_the_same_pictures(tmp_path):
    given = pictures()
    report = run(tmp_path, model(), given)
    images = given.content.float() / 127.5 - 1
    flat = images.mean(dim=(0, 2, 3), keepdim=True).expand_as(images)
    for name, baseline in (("bicubic", bicubic(images, 2)), ("constant", flat)):
        assert report.baselines[name].psnr == pytest.approx(psnr(baseline, images).mean().item(), rel=1e-6)
        assert report.baselines[name].ssim == pytest.approx(ssim(baseline, images).mean().item(), rel=1e-4)
    expected = psnr(bicubic(images, 2), images).tolist()
    assert [score.bicubic_psnr for score in report.per_image] == pytest.approx(expected)
    assert report.baselines["original_bar"].content() == {
        "psnr": pytest.approx(19.488, abs=1e-3),
        "ssim": None,
        "bytes": None,
    }
    assert (report.latents.bytes, report.baselines["bicubic"].bytes) == (2 * 4 * 8 * 8, 2 * 3 * 8 * 8)


def test_a_repetition_gives_the_same_files(tmp_path):
    for folder in ("a", "b"):
        run(tmp_path / folder, model(), pictures())
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["panel.png", "per_image.csv", "report.html", "report.json", "worst.png"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_batch_size_does_not_decide_the_scores(tmp_path):
    whole, single = (run(tmp_path / str(size), model(), pictures(), batch_size=size) for size in (64, 1))
    assert whole.reasons == single.reasons
    whole, single = ({k: v for k, v in one.metrics.items() if v is not None} for one in (whole, single))
    assert whole == pytest.approx(single, rel=1e-5)


def test_one_reconstruction_that_is_not_finite_takes_the_overall_score_away(tmp_path):
    given = pictures(6)
    given.content[2] //= 8
    report = run(tmp_path, model(BrokenOnDark), given)
    whole = run(tmp_path / "whole", model(), given)
    lost = {"psnr", "ssim", "mse", "psnr_min", "psnr_worst_tenth", "psnr_pooled", "edge_error", "inside_mse"}
    assert {name for name, value in report.metrics.items() if value is None} >= lost
    assert set(report.reasons) == {name for name, value in report.metrics.items() if value is None}
    kept = {name for name in report.metrics if name.startswith(("latent_", "kl_"))}
    assert {name: report.metrics[name] for name in kept} == {name: whole.metrics[name] for name in kept}
    assert report.counts == {}
    assert report.reasons["psnr"] == (
        "the reconstruction of 1 of 6 pictures holds numbers that are not finite (first '2.png')"
    )
    assert report.metrics["non_finite_fraction"] == 1 / (6 * 3 * 16 * 16)
    assert [score.psnr is None for score in report.per_image] == [False, False, True, False, False, False]
    assert report.per_image[2].kl_nats is not None
    assert Report.load(tmp_path) == report
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["psnr"] is None
    assert report.reasons["psnr"] in report.table()
    assert report.reasons["psnr"] in report.summary_markdown()


def test_a_model_of_nan_has_no_score_and_still_a_report(tmp_path):
    subject = model()
    torch.nn.init.constant_(subject.get_parameter("quant_conv.bias"), math.nan)
    report = run(tmp_path, subject, pictures(3))
    assert {value for name, value in report.metrics.items() if name != "non_finite_fraction"} == {None}
    assert report.metrics["non_finite_fraction"] == 1.0
    assert report.latents.non_finite_fraction == 1.0
    assert report.latents.channel_stds == [None] * 4
    assert "the posterior of 3 of 3 pictures" in report.reasons["scaling_factor"]
    assert Report.load(tmp_path) == report


def test_latents_without_spread_have_no_scaling_factor(tmp_path):
    subject = model()
    torch.nn.init.zeros_(subject.get_parameter("quant_conv.weight"))
    torch.nn.init.zeros_(subject.get_parameter("quant_conv.bias"))
    report = run(tmp_path, subject, pictures(3))
    assert report.metrics["scaling_factor"] is None
    assert set(report.reasons) == {"scaling_factor", "spectrum_divergence", "ms_ssim", "flat_noise", *NEED_WEIGHTS}
    assert report.metrics["active_units"] == 0.0
    assert "deviation is zero" in report.reasons["scaling_factor"]
    assert report.metrics["kl_nats_per_image"] == 0.0


def drawn(side: int) -> Tensor:
    """A drawing on a white ground: (3, side, side) uint8."""
    plane = torch.full((3, side, side), 255, dtype=torch.uint8)
    plane[:, side // 4 : side // 2, side // 4 : side // 2] = torch.tensor([200, 30, 90])[:, None, None]
    return plane


def test_means_leave_out_pictures_that_lack_what_is_measured_and_say_so(tmp_path):
    given = pictures(5)
    given.content[1] = drawn(16)
    given.content[3] = 255
    report = run(tmp_path, model(), given)
    counts = {"flat_noise": 2} | dict.fromkeys(
        ("psnr_foreground", "edge_error", "high_frequency_ratio", "spectrum_divergence"), 4
    )
    assert report.counts == counts
    for name, count in counts.items():
        values = [getattr(score, name) for score in report.per_image]
        defined = [value for value in values if value is not None]
        assert len(defined) == count
        assert report.metrics[name] == pytest.approx(sum(defined) / count, rel=1e-12)
    assert report.per_image[1].psnr_foreground != report.per_image[1].psnr
    assert report.per_image[0].psnr_foreground == pytest.approx(report.per_image[0].psnr, rel=1e-12)
    assert Report.load(tmp_path) == report


def test_a_metric_that_no_picture_has_is_none_with_the_reason(tmp_path):
    white = Pictures(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8))
    report = run(tmp_path, AutoencoderKL(ModelConfig(channels=(8, 8, 8), norm_groups=4)), white)
    assert report.counts == {}
    assert {name for name, value in report.metrics.items() if value is None} == set(report.reasons)
    assert report.reasons["ms_ssim"] == "no picture has both sides of at least 176 px, which its five scales need"
    assert report.reasons["border_mse"] == report.reasons["inside_mse"] == "no picture is larger than its border"
    assert {"psnr_foreground", "edge_error", "high_frequency_ratio"} < set(report.reasons)
    assert "ms_ssim" not in report.table()


def test_ms_ssim_is_measured_where_pictures_are_large_enough(tmp_path):
    given = pictures(2, side=176)
    given.content[1] = drawn(176)
    subject = model()
    reports = [
        run(tmp_path / folder, subject, given, batch_size=size, panel_images=1) for folder, size in (("a", 2), ("b", 2))
    ]
    shown, images = reconstructions(subject, given)
    expected = ms_ssim(shown, images)
    assert [score.ms_ssim for score in reports[0].per_image] == pytest.approx(expected.tolist(), rel=1e-4)
    assert reports[0].metrics["ms_ssim"] == pytest.approx(expected.mean().item(), rel=1e-4)
    assert "ms_ssim" not in reports[0].reasons
    for name in ("report.json", "per_image.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_protocol_tells_of_each_metric_that_has_a_value(tmp_path):
    report = run(tmp_path, model(), pictures(2))
    told = report.protocol.keys() | report.reasons.keys()
    colours = ("_red", "_green", "_blue")
    assert [name for name in report.metrics if not told & {name, *map(name.removesuffix, colours)}] == []
    assert report.metrics.keys() - report.reasons.keys() > {"psnr", "kl_nats_per_image", "edge_error", "inside_mse"}


def test_a_single_picture_of_one_colour_is_measured(tmp_path):
    white = Pictures(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    report = run(tmp_path, model(), white)
    assert report.baselines["constant"].content() == {"psnr": 100.0, "ssim": pytest.approx(1.0), "bytes": 6.0}
    assert report.metrics["psnr"] == report.metrics["psnr_min"] == report.metrics["psnr_worst_tenth"]
    assert "7 px" in str(report.protocol["ssim_window"])
    assert report.metrics["psnr_pooled"] == pytest.approx(report.metrics["psnr"], rel=1e-12)
    assert report.metrics["active_units"] is None
    assert report.reasons["active_units"] == ("no two pictures are of one size, so that nothing varies between them")


def test_the_panels_show_the_first_and_the_worst_pictures(tmp_path):
    given = pictures(9, side=96)
    report = run(tmp_path, model(), given)
    by_score = sorted(range(9), key=lambda i: report.per_image[i].psnr)
    for name, chosen in (("panel.png", [0, 1, 2]), ("worst.png", by_score[:3])):
        pixels = np.asarray(Image.open(tmp_path / name))
        top, left = 4 + 2 * 18, pixels.shape[1] - 3 * (96 + 4)
        for column, index in enumerate(chosen):
            cell = pixels[top : top + 96, left + column * 100 : left + column * 100 + 96]
            assert np.array_equal(cell, given.content[index].permute(1, 2, 0).numpy())
        assert pixels.shape[0] == top + 3 * (96 + 4)


def test_evaluation_leaves_the_random_state_and_the_precision_settings_alone(tmp_path):
    before, settings = torch.get_rng_state(), torch.get_float32_matmul_precision()
    allowed = torch.backends.cudnn.allow_tf32
    subject = model()
    before = torch.get_rng_state()
    run(tmp_path, subject, pictures(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_float32_matmul_precision() == settings
    assert torch.backends.cudnn.allow_tf32 == allowed
    assert all(parameter.requires_grad for parameter in subject.parameters())


def test_a_size_that_the_factor_does_not_divide_is_the_users_mistake(tmp_path):
    subject = AutoencoderKL(ModelConfig(channels=(8, 8, 8, 8), norm_groups=4))
    with pytest.raises(UserError, match=r"data\.image_size 20 .* factor 8: use 16 or 24"):
        run(tmp_path, subject, pictures(2, side=20))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_set_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match=r"data\.source.*no pictures.*data\.validation_fraction"):
        run(tmp_path, model(), pictures(0))
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_several_shapes_are_measured_each_for_itself(tmp_path):
    generator = np.random.default_rng(0)
    shapes = [(16, 16), (24, 8), (8, 24), (16, 16), (8, 24)]
    pictures = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    mixed = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=16, crop="buckets").train
    subject = AutoencoderKL(ModelConfig(channels=(8, 8), norm_groups=4)).eval()

    def measured(one, out):
        out.mkdir()
        config = EvaluationConfig(batch_size=2, sizes=())
        return measure(subject, one, config, out, device=torch.device("cpu"), provenance={}).per_image

    together = measured(mixed, tmp_path / "together")
    assert [score.name for score in together] == mixed.names
    for number, pixels in enumerate(pictures):
        alone = Pictures(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
        (score,) = measured(alone, tmp_path / f"alone-{number}")
        assert together[number].psnr == pytest.approx(score.psnr, abs=1e-4)
    with Image.open(tmp_path / "together" / "panel.png") as panel:
        assert panel.width > 5 * 24
