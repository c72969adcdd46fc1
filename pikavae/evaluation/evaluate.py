"""Measures a model on a frozen set of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import JsonValue
from torch import Tensor

from pikavae.config import EvaluationConfig, why_size_does_not_fit
from pikavae.data.pictures.form import GREY, RGB
from pikavae.data.prepared.shown import shown
from pikavae.errors import UserError
from pikavae.evaluation.measure.baselines import Baselines
from pikavae.evaluation.measure.channels import ChannelScores
from pikavae.evaluation.measure.chosen import Chooser, ChosenPicture, draw_panels
from pikavae.evaluation.measure.codecs import Codecs
from pikavae.evaluation.measure.distribution import Distribution
from pikavae.evaluation.measure.measurement import (
    MOST_STUDIED,
    EvaluationSet,
    MeasuredBatch,
    Measurement,
    Sample,
    Study,
    images_of,
    shown_of,
)
from pikavae.evaluation.measure.overall import overall, protocol
from pikavae.evaluation.measure.posteriors import Posteriors
from pikavae.evaluation.measure.scores import Perceptual, Scores
from pikavae.evaluation.pages.lineage import About
from pikavae.evaluation.pages.report_page import PAGE_NAME, report_page
from pikavae.evaluation.report.report import ImageScore, Report
from pikavae.evaluation.report.sections import finite
from pikavae.evaluation.studies.latent_view import LatentViewer
from pikavae.evaluation.studies.precision import study_precision
from pikavae.evaluation.studies.sizes import study_sizes
from pikavae.evaluation.studies.whole import study_whole
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32, prepare_for_use
from pikavae.workspace.files import write_atomically

Section = TypeVar("Section")


def measurements_of(
    model: AutoencoderKL, picture_set: EvaluationSet, config: EvaluationConfig, device: torch.device
) -> list[Measurement]:
    """Return the measurements, which see every picture; a report has their findings in this order."""
    factor, channels = model.config.downsampling_factor, tuple(picture_set.channels)
    return [
        Scores(len(picture_set)),
        *([ChannelScores(len(picture_set), channels)] if channels != RGB else []),
        Baselines(picture_set, factor, config.batch_size),
        *([Codecs(len(picture_set))] if channels in (RGB, GREY) else []),  # no others have alpha, or many channels
        Perceptual(len(picture_set), config.lpips_weights, device, channels),
        Distribution(len(picture_set), config.inception_weights, device, channels),
    ]


def studies_of(picture_set: EvaluationSet, config: EvaluationConfig) -> list[Study]:
    """Return the studies, which run the model again on a few pictures; a report has their findings last."""
    return [
        study_precision,
        partial(study_sizes, image_size=picture_set.image_size, others=config.sizes),
        partial(study_whole, picture_set=picture_set, count=config.whole_pictures),
    ]


def measure(
    model: AutoencoderKL,
    picture_set: EvaluationSet,
    config: EvaluationConfig,
    out: Path,
    *,
    device: torch.device,
    provenance: Mapping[str, JsonValue],
    about: About | None = None,
) -> Report:
    """Reconstruct every picture from its posterior's mode, measure it, and write the report.

    Write `report.json`, `per_image.csv`, `report.html` for people, `panel.png` (the first pictures: original,
    reconstruction, error) and `worst.png` (the same for the pictures with the lowest PSNR) into the existing folder
    `out`. On one machine with one number of threads, a repetition gives the same numbers to the last digit.

    Args:
        model: moved to `device` and to float32.
        picture_set: the evaluation set.
        config: batch size, panel size and the metric that ranks models.
        out: made by the caller, who removes it if this raises.
        device: where to compute.
        provenance: JSON values on where the model came from; the report keeps them.
        about: what else the page shows of the model.

    Raises:
        UserError: there are no pictures; the model's downsampling factor does not divide their size; or a file of
            weights that a metric needs is missing or holds something else.
    """
    _check(model, picture_set)
    prepare_for_use(model, device)
    chooser = Chooser(config.panel_images)
    with torch.inference_mode(), exact_float32():
        posteriors = Posteriors(picture_set.names, model.config.latent_channels)
        viewer = LatentViewer(model.decode, posteriors.statistics, config.panel_images, picture_set.channels)
        measurements = [*measurements_of(model, picture_set, config, device), posteriors, viewer]
        for batch in _reconstruct(model, picture_set, config.batch_size, device):
            chooser.update(batch)
            for measurement in measurements:
                measurement.update(batch)
        measured = [measurement.result() for measurement in measurements]
        sample = _sample(chooser, picture_set, device)
        measured += [study(model, sample) for study in studies_of(picture_set, config)]
    columns = {name: values for one in measured for name, values in {**one.scores, **one.columns}.items()}
    shown = _chosen_pictures(chooser, picture_set, columns["psnr"])
    draw_panels(shown, out)
    found = overall(measured, columns["psnr"].isnan(), picture_set.names)
    report = Report(
        metrics=found.metrics,
        reasons=found.reasons,
        counts=found.counts,
        baselines={name: row for one in measured for name, row in one.baselines.items()},
        latents=_only(one.latents for one in measured),
        latent_view=_only(one.latent_view for one in measured),
        precision={name: half for one in measured for name, half in one.precision.items()},
        sizes=_only(one.sizes for one in measured),
        channels={name: numbers for one in measured for name, numbers in one.channels.items()},
        whole=_only(one.whole for one in measured),
        protocol={
            **protocol(image_size=picture_set.image_size, batch_size=config.batch_size, device_type=device.type),
            **{name: words for one in measured for name, words in one.protocol.items()},
        },
        num_images=len(picture_set),
        image_size=picture_set.image_size,
        evaluation_set=picture_set.digest,
        downsampling_factor=model.config.downsampling_factor,
        primary_metric=config.primary_metric,
        provenance=dict(provenance),
        per_image=_per_image(columns, picture_set),
    )
    report.save(out)
    write_atomically(out / PAGE_NAME, report_page(report, shown, viewer.view, about))
    return report


def _check(model: AutoencoderKL, picture_set: EvaluationSet) -> None:
    if len(picture_set) == 0:
        raise UserError(
            "data.source: the evaluation set holds no pictures; raise data.validation_fraction or add pictures"
        )
    if len(picture_set.channels) != (count := model.config.image_channels):
        raise UserError(
            f"data.channels: the pictures have {len(picture_set.channels)} ({' '.join(picture_set.channels)}), and the "
            f"model reads {count}; set --data.channels for the model's, or name another model"
        )
    if reason := why_size_does_not_fit(picture_set.image_size, model.config.downsampling_factor):
        raise UserError(reason)


def _reconstruct(
    model: AutoencoderKL, picture_set: EvaluationSet, batch_size: int, device: torch.device
) -> Iterator[MeasuredBatch]:
    """Yield every picture with its reconstruction from the posterior's mode."""
    for indices in picture_set.batches(batch_size):
        images = images_of(picture_set, indices).to(device)
        posterior = model.encode(images)
        yield MeasuredBatch(indices, images, model.decode(posterior.mode()), posterior, picture_set.channels)


def _sample(chooser: Chooser, picture_set: EvaluationSet, device: torch.device) -> Sample:
    """Sample from the pictures that the report shows, because their reconstructions are kept."""
    chosen = chooser.indices()
    half = MOST_STUDIED // 2
    indices = sorted({*chosen["first"][:half], *chosen["worst"][:half]})
    return Sample(
        images=[images_of(picture_set, [i]) for i in indices],
        reconstructions=[chooser.kept[i][None] for i in indices],
        device=device,
    )


def _only(sections: Iterable[Section | None]) -> Section:
    """Return the section that one of the measurements and studies added."""
    (section,) = [one for one in sections if one is not None]
    return section


def _per_image(columns: Mapping[str, Tensor], picture_set: EvaluationSet) -> list[ImageScore]:
    names = [field.name for field in fields(ImageScore)][2:]  # the first two are name and caption
    absent = [None] * len(picture_set)
    rows = zip(*(map(finite, columns[name].tolist()) if name in columns else absent for name in names), strict=True)
    return [
        ImageScore(name, caption, *row)
        for name, caption, row in zip(picture_set.names, picture_set.captions, rows, strict=True)
    ]


def _chosen_pictures(chooser: Chooser, picture_set: EvaluationSet, psnr: Tensor) -> dict[str, list[ChosenPicture]]:
    return {
        name: [
            ChosenPicture(
                picture_set.names[i],
                picture_set.captions[i],
                finite(psnr[i].item()),
                shown_of(picture_set, [i])[0],
                shown(chooser.kept[i][None], picture_set.channels)[0],
            )
            for i in indices
        ]
        for name, indices in chooser.indices().items()
    }
