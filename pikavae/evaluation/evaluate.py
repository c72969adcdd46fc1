"""Measure a model on a frozen set of pictures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pikavae.config import EvaluationConfig
from pikavae.errors import UserError
from pikavae.evaluation.baselines import Baselines
from pikavae.evaluation.codecs import Codecs
from pikavae.evaluation.distribution import Distribution
from pikavae.evaluation.latent_view import LatentViewer
from pikavae.evaluation.measurement import (
    MOST_STUDIED,
    Batch,
    EvaluationPictures,
    Findings,
    Measurement,
    Sample,
    Study,
    images_of,
)
from pikavae.evaluation.overall import overall
from pikavae.evaluation.page import PAGE_NAME, report_page
from pikavae.evaluation.perceptual import Perceptual
from pikavae.evaluation.posteriors import Posteriors
from pikavae.evaluation.precision import study_precision
from pikavae.evaluation.protocol import protocol
from pikavae.evaluation.report import ImageScore, Report
from pikavae.evaluation.scores import Scores
from pikavae.evaluation.shown import Chooser, ShownPicture, draw_panels
from pikavae.evaluation.sizes import study_sizes
from pikavae.files import write_atomically
from pikavae.model.autoencoder import AutoencoderKL


def measurements_of(
    model: AutoencoderKL, pictures: EvaluationPictures, config: EvaluationConfig, device: torch.device
) -> list[Measurement]:
    """What measures every picture; a report has their findings in this order."""
    factor = model.config.downsampling_factor
    return [
        Scores(len(pictures), factor),
        Baselines(pictures, factor, config.batch_size),
        Codecs(len(pictures)),
        Perceptual(len(pictures), config.lpips_weights, device),
        Distribution(len(pictures), config.inception_weights, device),
    ]


def studies_of(pictures: EvaluationPictures, config: EvaluationConfig) -> list[Study]:
    """What runs the model again on a few pictures; a report has their findings after those of the measurements."""
    return [study_precision, partial(study_sizes, image_size=pictures.image_size, others=config.sizes)]


def evaluate(
    model: AutoencoderKL,
    pictures: EvaluationPictures,
    config: EvaluationConfig,
    out: Path,
    *,
    device: torch.device,
    provenance: Mapping[str, Any],
    filmstrip: Path | None = None,
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
        filmstrip: a picture of the model's training, for the page.

    Raises:
        UserError: there are no pictures, or the model's downsampling factor does not divide their size; or a
            file of weights that measure is not there or holds something else.
    """
    _check(model, pictures)
    model.to(device, torch.float32)
    chooser = Chooser(config.panel_images)
    with torch.inference_mode(), exact_float32():
        posteriors = Posteriors(pictures.names, model.config.latent_channels)
        viewer = LatentViewer(model.decode, posteriors.statistics, config.panel_images)
        measurements = [*measurements_of(model, pictures, config, device), posteriors, viewer]
        for batch in _reconstructed(model, pictures, config.batch_size, device):
            chooser.update(batch)
            for measurement in measurements:
                measurement.update(batch)
        findings = [measurement.result() for measurement in measurements]
        sample = _sample(chooser, pictures, device)
        findings += [study(model, sample) for study in studies_of(pictures, config)]
    columns = {name: values for one in findings for name, values in {**one.scores, **one.columns}.items()}
    shown = _shown_pictures(chooser, pictures, columns["psnr"])
    draw_panels(shown, out)
    found = overall(findings, columns["psnr"].isnan(), pictures.names)
    report = Report(
        metrics=found.metrics,
        reasons=found.reasons,
        counts=found.counts,
        **_sections(findings),
        protocol={
            **protocol(image_size=pictures.image_size, batch_size=config.batch_size, device_type=device.type),
            **{name: words for one in findings for name, words in one.protocol.items()},
        },
        num_images=len(pictures),
        image_size=pictures.image_size,
        evaluation_set=pictures.digest,
        downsampling_factor=model.config.downsampling_factor,
        primary_metric=config.primary_metric,
        provenance=dict(provenance),
        per_image=_per_image(columns, pictures),
    )
    report.save(out)
    write_atomically(out / PAGE_NAME, report_page(report, shown, viewer.view, filmstrip))
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


def _reconstructed(
    model: AutoencoderKL, pictures: EvaluationPictures, batch_size: int, device: torch.device
) -> Iterator[Batch]:
    """Every picture with its reconstruction from the posterior's mode."""
    for indices in pictures.batches(batch_size):
        images = images_of(pictures, indices).to(device)
        posterior = model.encode(images)
        yield Batch(indices, images, model.decode(posterior.mode()), posterior)


def _sample(chooser: Chooser, pictures: EvaluationPictures, device: torch.device) -> Sample:
    """Pictures that the report shows: their reconstructions are at hand."""
    chosen = chooser.chosen()
    half = MOST_STUDIED // 2
    indices = sorted({*chosen["first"][:half], *chosen["worst"][:half]})
    return Sample(
        images=[images_of(pictures, [i]) for i in indices],
        reconstructions=[chooser.kept[i][None] for i in indices],
        device=device,
    )


def _sections(findings: Iterable[Findings]) -> dict[str, Any]:
    """Fields of `Report` by name."""
    sections: dict[str, Any] = {}
    for one in findings:
        for name, section in one.sections.items():
            sections[name] = {**sections.get(name, {}), **section}
    return sections


def _per_image(columns: Mapping[str, Tensor], pictures: EvaluationPictures) -> list[ImageScore]:
    names = [field.name for field in fields(ImageScore)][2:]  # the first two are name and caption
    absent = [None] * len(pictures)
    rows = zip(*(map(_finite, columns[name].tolist()) if name in columns else absent for name in names), strict=True)
    return [
        ImageScore(name, caption, *row)
        for name, caption, row in zip(pictures.names, pictures.captions, rows, strict=True)
    ]


def _shown_pictures(chooser: Chooser, pictures: EvaluationPictures, psnr: Tensor) -> dict[str, list[ShownPicture]]:
    return {
        name: [
            ShownPicture(
                pictures.names[i],
                pictures.captions[i],
                _finite(psnr[i].item()),
                images_of(pictures, [i])[0],
                chooser.kept[i],
            )
            for i in indices
        ]
        for name, indices in chooser.chosen().items()
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
