"""Defines the parts of an evaluation: the pictures, their reconstructions, and what measures them.

A *measurement* sees every picture once, batch by batch. A *study* runs the model again on a few pictures. Each has its
own module and returns `Measured`; `evaluate.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor

from pikavae.data.pictures.form import RGB
from pikavae.data.prepared.dataset import to_float
from pikavae.data.prepared.shown import shown
from pikavae.evaluation.metrics.similarity import mse
from pikavae.evaluation.report.sections import (
    Baseline,
    ChannelNumbers,
    HalfPrecision,
    LatentNumbers,
    LatentViewNumbers,
    OtherSizes,
    WholePictures,
)
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.posterior import DiagonalGaussian

MOST_STUDIED = 8
"""The most pictures of a sample, so that studies cost little compared with a thousand pictures."""


class EvaluationSet(Protocol):
    """Gives access to a frozen set of pictures."""

    @property
    def names(self) -> Sequence[str]:
        """Return the pictures' names, in order."""

    @property
    def captions(self) -> Sequence[str]:
        """Return the pictures' captions, in order."""

    @property
    def digest(self) -> str:
        """Return a hash of the pictures' content."""

    @property
    def image_size(self) -> int:
        """Return the size that the pictures were prepared at, in pixels."""

    @property
    def channels(self) -> Sequence[str]:
        """Return the names of a picture's channels, in order."""

    def __len__(self) -> int: ...

    def whole_pixels(self, index: int) -> Tensor | None:
        """Return the picture that the shown one is cut out of: (C, H, W) as stored; None if nothing is cut away."""

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures of these indices, which have one shape: (B, C, H, W) uint8 or uint16."""

    def batches(self, size: int) -> Iterator[list[int]]:
        """Yield all indices, one shape after the other, at most `size` at a time."""


def images_of(picture_set: EvaluationSet, indices: Sequence[int]) -> Tensor:
    """Return the pictures of these indices, (B, C, H, W) float32 in [-1, 1], on the CPU, the channels innermost."""
    pixels = picture_set.pixels(indices)
    return to_float(pixels, torch.empty_like(pixels, dtype=torch.float32))


def shown_of(picture_set: EvaluationSet, indices: Sequence[int]) -> Tensor:
    """Return the pictures of these indices as people see them, (B, 3, H, W) float32 in [-1, 1], on the CPU."""
    return shown(images_of(picture_set, indices), picture_set.channels)


@dataclass(frozen=True)
class MeasuredBatch:
    """Holds pictures of one shape, their reconstructions and posteriors, on the model's device.

    Attributes:
        indices: the pictures' indices in their set.
        images: (B, C, H, W) float32 in [-1, 1].
        reconstructions: decoded from the posteriors' modes: the same shape, about [-1, 1], not clamped.
        posterior: the pictures' posteriors.
        channels: the names of a picture's channels.
    """

    indices: Sequence[int]
    images: Tensor
    reconstructions: Tensor
    posterior: DiagonalGaussian
    channels: Sequence[str] = RGB

    @property
    def latents(self) -> Tensor:
        """Return the posteriors' modes: (B, Z, H/f, W/f) float32."""
        return self.posterior.mode()

    @cached_property
    def mse(self) -> Tensor:
        """Return each picture's `similarity.mse`: (B,) float64; NaN if the reconstruction is not finite."""
        return mse(self.reconstructions, self.images)


@dataclass(frozen=True)
class Measured:
    """Holds what a measurement or a study adds to a report; an empty field adds nothing.

    Attributes:
        scores: numbers of the pictures by their names in `METRICS`, (N,) float64 in the set's order, NaN if a number
            is not finite or not defined. Their means become metrics.
        columns: numbers of the pictures like `scores`, but their means do not become metrics.
        metrics: numbers of the set; not finite if there is none.
        reasons: why a metric has no number; by default, that reconstructions are not finite.
        baselines: rows of the report's section `baselines`, by name.
        latents: the report's section of this name, which one measurement adds; `latent_view` and `sizes` likewise.
        whole: the report's section of this name, of a set that shows crops of larger pictures.
        precision: the report's section `precision`, by format.
        channels: the report's section `channels`, by name.
        protocol: what decided the numbers besides the metrics' own protocols, in words for people and JSON values.
    """

    scores: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    latents: LatentNumbers | None = None
    latent_view: LatentViewNumbers | None = None
    precision: Mapping[str, HalfPrecision] = field(default_factory=dict)
    sizes: OtherSizes | None = None
    channels: Mapping[str, ChannelNumbers] = field(default_factory=dict)
    whole: WholePictures | None = None
    protocol: Mapping[str, JsonValue] = field(default_factory=dict)


class Measurement(Protocol):
    """Looks at every picture once."""

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch; together the batches hold every picture of the set, in any order."""

    def result(self) -> Measured:
        """Return what was found; called once, after the last batch."""


@dataclass(frozen=True)
class Sample:
    """Holds pictures for studies: half of them the first of the set, half the worst.

    Attributes:
        images: (1, C, H, W) float32 in [-1, 1] each, on the CPU; one picture each because shapes may differ.
        reconstructions: decoded from the posteriors' modes in float32, in the same form, not clamped.
        device: where the model is.
    """

    images: Sequence[Tensor]
    reconstructions: Sequence[Tensor]
    device: torch.device


Study = Callable[[AutoencoderKL, Sample], Measured]
"""Runs the model again on a sample and leaves the model unchanged."""


class Columns:
    """Collects numbers of the pictures from batches, in the set's order, on the CPU."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.values: dict[str, Tensor] = {}
        """The numbers by name, (N,) float64 each; NaN for pictures that are still to come."""

    def put(self, indices: Sequence[int], numbers: Mapping[str, Tensor]) -> None:
        """Store the numbers of the pictures `indices`, (B,) each."""
        for name, values in numbers.items():
            column = self.values.setdefault(name, torch.full((self.num_images,), torch.nan, dtype=torch.float64))
            column[list(indices)] = values.cpu().double()


def blame(what: str, broken: Tensor, names: Sequence[str]) -> str | None:
    """Name the pictures that make a number not finite: those of `broken` (N,) bool. Return None if there are none."""
    blamed = broken.nonzero()[:, 0].tolist()
    if not blamed:
        return None
    first = f"first {names[blamed[0]]!r}"
    return f"{what} of {len(blamed)} of {len(names)} pictures holds numbers that are not finite ({first})"
