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
from pikavae.evaluation.latents import LatentStatistics
from pikavae.evaluation.metrics import mse, psnr, psnr_of_mse, ssim
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
    metrics, reasons = _overall(measured, pictures.names)
    report = Report(
        metrics=metrics,
        reasons=reasons,
        baselines={
            "bicubic": dict(zip(("psnr", "ssim"), measured.bicubic.mean(dim=0).tolist(), strict=True)),
            "constant": dict(zip(("psnr", "ssim"), measured.constant.mean(dim=0).tolist(), strict=True)),
            "original_bar": {"psnr": baselines.original_bar(), "ssim": None},
        },
        latents={
            "channel_means": [_finite(value) for value in measured.latents.channel_means.tolist()],
            "channel_stds": [_finite(value) for value in measured.latents.channel_stds.tolist()],
            "non_finite_fraction": measured.latents.non_finite_fraction,
        },
        protocol=protocol(image_size=pictures.image_size, batch_size=config.batch_size, device_type=device.type),
        num_images=len(pictures),
        image_size=pictures.image_size,
        evaluation_set=pictures.digest,
        downsampling_factor=model.config.downsampling_factor,
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
        own: (N, 4) float64, the model's PSNR, SSIM, MSE and KL.
        bicubic: (N, 2) float64, PSNR and SSIM.
        constant: (N, 2) float64, PSNR and SSIM.
        latents: statistics of the posteriors.
        non_finite_fraction: the share of NaN and infinite numbers among those of the reconstructions.
        shown: the reconstructions for the panels.
    """

    own: Tensor
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
    own, bicubic, constant, not_finite, count = [], [], [], 0, 0
    shown = Chooser(config.panel_images)
    for indices in batches:
        images = _images(pictures, indices)
        # The baselines are made on the CPU, so that they are the same wherever the model runs.
        small = baselines.bicubic(images, model.config.downsampling_factor).to(device)
        flat = baselines.constant(images, colour).to(device)
        images = images.to(device)
        reconstructions, posterior = _reconstruct(model, images)
        kl = latents.update(posterior)
        error = mse(reconstructions, images)
        scores = psnr_of_mse(error)
        shown.add(indices, reconstructions, scores)
        own.append(torch.stack([scores, ssim(reconstructions, images), error, kl.to(error.device)], dim=1))
        bicubic.append(_psnr_and_ssim(small, images))
        constant.append(_psnr_and_ssim(flat, images))
        not_finite += int((~reconstructions.isfinite()).sum())
        count += reconstructions.numel()
    share = not_finite / count
    in_order = torch.tensor([index for indices in batches for index in indices]).argsort()
    own_scores, small_scores, flat_scores = (torch.cat(parts).cpu()[in_order] for parts in (own, bicubic, constant))
    return _Measured(own_scores, small_scores, flat_scores, latents, share, shown)


def _images(pictures: EvaluationPictures, indices: Sequence[int]) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1], on the CPU."""
    return pictures.pixels(indices).float() / 127.5 - 1.0


def _reconstruct(model: AutoencoderKL, images: Tensor) -> tuple[Tensor, DiagonalGaussian]:
    posterior = model.encode(images)
    return model.decode(posterior.mode()), posterior


def _psnr_and_ssim(reconstructions: Tensor, images: Tensor) -> Tensor:
    """(B, 2) float64, on the CPU."""
    return torch.stack([psnr(reconstructions, images), ssim(reconstructions, images)], dim=1).cpu()


def _worst_first(scores: Tensor) -> Tensor:
    """Indices of PSNRs (N,) from the lowest up; those that are not a number come before all others."""
    return scores.nan_to_num(nan=-math.inf).argsort(stable=True)


def _overall(measured: _Measured, names: Sequence[str]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The metrics over all pictures, and why those are None that are."""
    scores, latents = measured.own[:, 0], measured.latents
    worst_tenth = _worst_first(scores)[: math.ceil(len(scores) / 10)]
    means = measured.own.mean(dim=0).tolist()
    of_pictures = {
        "psnr": means[0],
        "ssim": means[1],
        "mse": means[2],
        "psnr_min": scores.min().item(),
        "psnr_worst_tenth": scores[worst_tenth].mean().item(),
    }
    of_latents = {
        "kl_nats_per_image": latents.kl_nats_per_image,
        "kl_nats_per_dimension": latents.kl_nats_per_dimension,
        "latent_mean": latents.mean,
        "latent_std": latents.std,
        "scaling_factor": latents.scaling_factor,
    }
    reasons = {
        **_reasons(of_pictures, "the reconstruction", scores, names),
        **_reasons(of_latents, "the posterior", measured.own[:, 3], names),
    }
    if latents.std == 0.0:
        reasons["scaling_factor"] = "all latents are equal, so that their deviation is zero"
    metrics = {name: _finite(value) for name, value in (of_pictures | of_latents).items()}
    return {**metrics, "non_finite_fraction": measured.non_finite_fraction}, reasons


def _reasons(values: Mapping[str, float], what: str, scores: Tensor, names: Sequence[str]) -> dict[str, str]:
    """For each of `values` that is not finite, which pictures are to blame: those whose score (N,) is not."""
    blamed = (~scores.isfinite()).nonzero()[:, 0].tolist()
    if not blamed:
        return {}
    first = f"first {names[blamed[0]]!r}"
    reason = f"{what} of {len(blamed)} of {len(names)} pictures holds numbers that are not finite ({first})"
    return {name: reason for name, value in values.items() if not math.isfinite(value)}


def _per_image(measured: _Measured, pictures: EvaluationPictures) -> list[ImageScore]:
    columns = torch.cat([measured.own, measured.bicubic[:, :1]], dim=1).tolist()
    return [
        ImageScore(name, caption, *(_finite(value) for value in values))
        for name, caption, values in zip(pictures.names, pictures.captions, columns, strict=True)
    ]


def _shown_pictures(measured: _Measured, pictures: EvaluationPictures) -> dict[str, list[ShownPicture]]:
    return {
        name: [
            ShownPicture(
                pictures.names[i],
                pictures.captions[i],
                _finite(measured.own[i, 0].item()),
                _images(pictures, [i])[0],
                measured.shown.kept[i],
            )
            for i in indices
        ]
        for name, indices in measured.shown.chosen().items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
