"""Reconstructs the pictures that the page of a comparison shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pikavae.data.prepared.shown import shown
from pikavae.evaluation.compare.comparison import Comparison, PictureChange
from pikavae.evaluation.measure.measurement import EvaluationSet, images_of, shown_of
from pikavae.evaluation.report.report import Report
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32, prepare_for_use


@dataclass(frozen=True)
class ComparedPicture:
    """Holds a picture and its reconstructions by two models, as people see them: (3, H, W) in about [-1, 1] each."""

    change: PictureChange
    original: Tensor
    a: Tensor
    b: Tensor


def reconstruct_by_all(
    models: Sequence[tuple[str, AutoencoderKL, Report]],
    picture_set: EvaluationSet,
    *,
    count: int,
    device: torch.device,
) -> list[BesidePicture]:
    """Reconstruct some pictures with several models, from the posteriors' modes.

    Args:
        models: each model's label, the model, and its report on these pictures; the first is the one in question. One
            after the other is moved to `device` and to float32.
        picture_set: the evaluation set.
        count: how many of the set's first pictures, and how many more on which the first model has the lowest PSNR.
        device: where to compute.
    """
    scores = [{score.name: score.psnr for score in report.per_image} for _, _, report in models]
    own = [scores[0].get(name) for name in picture_set.names]
    ranked = sorted(range(len(own)), key=lambda i: (-math.inf if own[i] is None else own[i], i))
    chosen = list(dict.fromkeys([*range(min(count, len(own))), *ranked[:count]]))
    made: dict[int, list[tuple[str, Tensor, float | None]]] = {i: [] for i in chosen}
    with torch.inference_mode(), exact_float32():
        for (label, model, _), known in zip(models, scores, strict=True):
            prepare_for_use(model, device)
            for i in chosen:
                image = images_of(picture_set, [i]).to(device)
                reconstruction = shown(model.decode(model.encode(image).mode()), picture_set.channels)[0]
                made[i].append((label, reconstruction, known.get(picture_set.names[i])))
    return [
        BesidePicture(picture_set.captions[i] or picture_set.names[i], shown_of(picture_set, [i])[0], made[i])
        for i in chosen
    ]


def reconstruct_by_both(
    models: tuple[AutoencoderKL, AutoencoderKL],
    picture_set: EvaluationSet,
    comparison: Comparison,
    changes: Sequence[PictureChange],
    *,
    first: int,
    device: torch.device,
) -> dict[str, list[ComparedPicture]]:
    """Reconstruct the `first` pictures, and those that `lost` and `won` most, from the posteriors' modes.

    Args:
        models: A and B; moved to `device` and to float32.
        picture_set: the evaluation set.
        comparison: of the two on it.
        changes: the changes of all pictures that have the primary metric.
        first: how many of the set's first pictures.
        device: where to compute.
    """
    index = {name: i for i, name in reversed(list(enumerate(picture_set.names)))}  # the first of equal names
    ranked = sorted(changes, key=lambda change: index[change.name])[:first]
    chosen: Mapping[str, Sequence[PictureChange]] = {
        "first": ranked,
        "lost": comparison.most_lost,
        "won": comparison.most_won,
    }
    for model in models:
        prepare_for_use(model, device)
    made: dict[str, ComparedPicture] = {}
    with torch.inference_mode(), exact_float32():
        for change in {change.name: change for some in chosen.values() for change in some}.values():
            original = images_of(picture_set, [index[change.name]])
            decoded = [model.decode(model.encode(original.to(device)).mode()) for model in models]
            seen, a, b = (shown(one, picture_set.channels)[0] for one in (original, *decoded))
            made[change.name] = ComparedPicture(change, seen, a, b)
    return {title: [made[change.name] for change in some] for title, some in chosen.items()}


@dataclass(frozen=True)
class BesidePicture:
    """Holds a picture and its reconstruction by every model.

    Attributes:
        name: the picture's name, or its caption.
        original: (3, H, W) float32 in [-1, 1].
        made: for each model its label, its reconstruction and the PSNR.
    """

    name: str
    original: Tensor
    made: Sequence[tuple[str, Tensor, float | None]]
