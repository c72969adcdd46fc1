"""Measure a model on a frozen set of pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pikavae.config import EvaluationConfig
from pikavae.errors import UserError
from pikavae.evaluation import baselines
from pikavae.evaluation.appearance import appearance, appearance_protocol
from pikavae.evaluation.latents import ACTIVE_VARIANCE, LatentStatistics
from pikavae.evaluation.metrics import ms_ssim, mse, psnr, psnr_of_mse, ssim
from pikavae.evaluation.overall import overall
from pikavae.evaluation.page import PAGE_NAME, report_page
from pikavae.evaluation.protocol import protocol
from pikavae.evaluation.report import ImageScore, Report
from pikavae.evaluation.shown import Chooser, ShownPicture, draw_panels
from pikavae.files import write_atomically
from pikavae.model.autoencoder import AutoencoderKL, DiagonalGaussian


class EvaluationPictures(Protocol):
    """A frozen set of square pictures of one size."""

    @property
    def names(self) -> Sequence[str]:
        """The pictures' names, in order."""

    @property
    def captions(self) -> Sequence[str]:
        """The pictures' captions, in order."""

    @property
    def digest(self) -> str:
        """A hash of the pictures' content."""

    @property
    def image_size(self) -> int:
        """Pixels along a side."""

    def __len__(self) -> int: ...

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """The pictures of these indices, which are of one shape: (B, 3, H, W) uint8."""

    def batches(self, size: int) -> Iterator[list[int]]:
        """All indices, those of one shape after the other, at most `size` at a time."""


def evaluate(
    model: AutoencoderKL,
    pictures: EvaluationPictures,
    config: EvaluationConfig,
    out: Path,
    *,
    device: torch.device,
    provenance: Mapping[str, Any],
) -> Report:
    """Reconstruct every picture from its posterior's mode, measure it, and write the report.

    Into the existing folder `out` go `report.json`, `per_image.csv`, `report.html` for people, `panel.png` (the first
    pictures: original, reconstruction, error) and `worst.png` (the same for those of the lowest PSNR). On one machine
    and at one number of threads, the numbers of a repetition are the same to the last digit.

    Args:
        model: moved to `device` and to float32.
        pictures: the evaluation set.
        config: batch size, panel size and the metric that ranks models.
        out: made by the caller, who removes it if this raises.
        device: where to compute.
        provenance: JSON values on where the model came from; kept in the report.

    Raises:
        UserError: there are no pictures, or the model's downsampling factor does not divide their size.
    """
    _check(model, pictures)
    model.to(device, torch.float32)
    with torch.inference_mode(), exact_float32():
        measured = _measure(model, pictures, config, device)
    shown = _shown_pictures(measured, pictures)
    draw_panels(shown, out)
    found = overall(measured.own, measured.kl, measured.latents, pictures=pictures.names)
    factor = model.config.downsampling_factor
    report = Report(
        metrics={**found.metrics, "non_finite_fraction": measured.non_finite_fraction},
        reasons=found.reasons,
        counts=found.counts,
        baselines={
            "bicubic": dict(zip(("psnr", "ssim"), measured.bicubic.mean(dim=0).tolist(), strict=True)),
            "constant": dict(zip(("psnr", "ssim"), measured.constant.mean(dim=0).tolist(), strict=True)),
            "original_bar": {"psnr": baselines.original_bar(), "ssim": None},
        },
        latents={
            "channel_means": [_finite(value) for value in measured.latents.channel_means.tolist()],
            "channel_stds": [_finite(value) for value in measured.latents.channel_stds.tolist()],
            "unit_variances": [_finite(value) for value in measured.latents.unit_variances.tolist()],
            "non_finite_fraction": measured.latents.non_finite_fraction,
        },
        protocol={
            **protocol(image_size=pictures.image_size, batch_size=config.batch_size, device_type=device.type),
            "psnr_pooled": "of the mean MSE over pictures",
            "ms_ssim": "Wang et al. 2003 by torchmetrics, in float32, on [0, 1]; negative contrasts count as 0",
            "active_units": f"channels whose variance over pictures, mean over positions, is over {ACTIVE_VARIANCE}",
            "shift_factor": "mean of the latent; a diffusion model gets (latent - shift_factor) * scaling_factor",
            **appearance_protocol(),
        },
        num_images=len(pictures),
        image_size=pictures.image_size,
        evaluation_set=pictures.digest,
        downsampling_factor=factor,
        primary_metric=config.primary_metric,
        provenance=dict(provenance),
        per_image=_per_image(measured, pictures),
    )
    report.save(out)
    write_atomically(out / PAGE_NAME, report_page(report, shown))
    return report


def _check(model: AutoencoderKL, pictures: EvaluationPictures) -> None:
    size, factor = pictures.image_size, model.config.downsampling_factor
    if len(pictures) == 0:
        raise UserError(
            "data.source: the evaluation set holds no pictures; raise data.validation_fraction or add pictures"
        )
    if size % factor:
        below = max(factor, size - size % factor)
        raise UserError(
            f"data.image_size {size} is not a multiple of the model's downsampling factor {factor}: "
            f"use {below} or {below + factor}"
        )


@contextmanager
def exact_float32() -> Iterator[None]:
    """Let a GPU neither shorten float32 to TF32 nor choose algorithms by a race."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@dataclass(frozen=True)
class _Measured:
    """What one pass over the pictures gathers, in their order. NaN is where a number is not finite.

    Attributes:
        own: the numbers of the model's reconstructions by their names in `ImageScore`, (N,) float64 each.
        kl: (N,) float64, of the posteriors, in nats.
        bicubic: (N, 2) float64, PSNR and SSIM.
        constant: (N, 2) float64, PSNR and SSIM.
        latents: statistics of the posteriors.
        non_finite_fraction: the share of NaN and infinite numbers among those of the reconstructions.
        shown: the reconstructions for the panels.
    """

    own: dict[str, Tensor]
    kl: Tensor
    bicubic: Tensor
    constant: Tensor
    latents: LatentStatistics
    non_finite_fraction: float
    shown: Chooser


def _measure(
    model: AutoencoderKL, pictures: EvaluationPictures, config: EvaluationConfig, device: torch.device
) -> _Measured:
    """Model and baselines on every picture."""
    batches = list(pictures.batches(config.batch_size))
    colour = baselines.mean_colour(pictures.pixels(indices) for indices in batches)
    latents = LatentStatistics(model.config.latent_channels)
    own, kl, bicubic, constant, not_finite, count = [], [], [], [], 0, 0
    shown = Chooser(config.panel_images)
    for indices in batches:
        images = _images(pictures, indices)
        # The baselines are made on the CPU, so that they are the same wherever the model runs.
        small = baselines.bicubic(images, model.config.downsampling_factor).to(device)
        flat = baselines.constant(images, colour).to(device)
        images = images.to(device)
        reconstructions, posterior = _reconstruct(model, images)
        scores = _scores(reconstructions, images, model.config.downsampling_factor)
        own.append({name: values.cpu() for name, values in scores.items()})
        kl.append(latents.update(posterior))
        shown.add(indices, reconstructions, scores["psnr"])
        bicubic.append(_psnr_and_ssim(small, images))
        constant.append(_psnr_and_ssim(flat, images))
        not_finite += int((~reconstructions.isfinite()).sum())
        count += reconstructions.numel()
    share = not_finite / count
    in_order = torch.tensor([index for indices in batches for index in indices]).argsort()
    own_scores = {name: torch.cat([scores[name] for scores in own])[in_order] for name in own[0]}
    kl_nats, small_scores, flat_scores = (torch.cat(parts)[in_order] for parts in (kl, bicubic, constant))
    return _Measured(own_scores, kl_nats, small_scores, flat_scores, latents, share, shown)


def _images(pictures: EvaluationPictures, indices: Sequence[int]) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1], on the CPU."""
    return pictures.pixels(indices).float() / 127.5 - 1.0


def _reconstruct(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, DiagonalGaussian]:
    posterior = model.encode(images)
    return model.decode(posterior.mode()), posterior


def _scores(reconstructions: Tensor, images: Tensor, factor: int) -> dict[str, Tensor]:
    """The numbers of each picture by their names in `ImageScore`, (B,) float64 each."""
    error = mse(reconstructions, images)
    return {
        "psnr": psnr_of_mse(error),
        "ssim": ssim(reconstructions, images),
        "mse": error,
        "ms_ssim": ms_ssim(reconstructions, images),
        **appearance(reconstructions, images, factor=factor),
    }


def _psnr_and_ssim(reconstructions: Tensor, images: Tensor) -> Tensor:
    """(B, 2) float64, on the CPU."""
    return torch.stack([psnr(reconstructions, images), ssim(reconstructions, images)], dim=1).cpu()


def _per_image(measured: _Measured, pictures: EvaluationPictures) -> list[ImageScore]:
    columns = {**measured.own, "kl_nats": measured.kl, "bicubic_psnr": measured.bicubic[:, 0]}
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [
        ImageScore(name, caption, **{key: _finite(value) for key, value in zip(columns, values, strict=True)})
        for name, caption, values in zip(pictures.names, pictures.captions, rows, strict=True)
    ]


def _shown_pictures(measured: _Measured, pictures: EvaluationPictures) -> dict[str, list[ShownPicture]]:
    return {
        name: [
            ShownPicture(
                pictures.names[i],
                pictures.captions[i],
                _finite(measured.own["psnr"][i].item()),
                _images(pictures, [i])[0],
                measured.shown.kept[i],
            )
            for i in indices
        ]
        for name, indices in measured.shown.chosen().items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
