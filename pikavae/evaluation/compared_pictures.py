"""The pictures that the page of a comparison shows, as two models reconstruct them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pikavae.evaluation.comparison import Comparison, PictureChange
from pikavae.evaluation.evaluate import exact_float32
from pikavae.evaluation.measurement import EvaluationPictures, images_of
from pikavae.model.autoencoder import AutoencoderKL


@dataclass(frozen=True)
class ComparedPicture:
    """A picture and what two models made of it: each (3, H, W) float32, in [-1, 1] and about it."""

    change: PictureChange
    original: Tensor
    a: Tensor
    b: Tensor


def compared_pictures(
    models: tuple[AutoencoderKL, AutoencoderKL],
    pictures: EvaluationPictures,
    comparison: Comparison,
    changes: Sequence[PictureChange],
    *,
    first: int,
    device: torch.device,
) -> dict[str, list[ComparedPicture]]:
    """The `first` pictures, and those that `lost` and `won` most, reconstructed from the posteriors' modes.

    Args:
        models: A and B; moved to `device` and to float32.
        pictures: the evaluation set.
        comparison: of the two on it.
        changes: of all pictures that have the primary metric.
        first: how many of the set's first pictures.
        device: where to compute.
    """
    index = {name: i for i, name in reversed(list(enumerate(pictures.names)))}  # of equal names the first
    ranked = sorted(changes, key=lambda change: index[change.name])[:first]
    chosen: Mapping[str, Sequence[PictureChange]] = {
        "first": ranked,
        "lost": comparison.most_lost,
        "won": comparison.most_won,
    }
    for model in models:
        model.to(device, torch.float32)
    made: dict[str, ComparedPicture] = {}
    with torch.inference_mode(), exact_float32():
        for change in {change.name: change for some in chosen.values() for change in some}.values():
            original = images_of(pictures, [index[change.name]])
            a, b = (model.decode(model.encode(original.to(device)).mode()).cpu() for model in models)
            made[change.name] = ComparedPicture(change, original[0], a[0], b[0])
    return {title: [made[change.name] for change in some] for title, some in chosen.items()}
