"""How an evaluation is put together: the pictures, what is made of them, and what measures it.

A *measurement* sees every picture once, batch by batch. A *study* runs the model again, on a few pictures. Each is a
module of its own that returns `Findings`; `evaluate.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from pikavae.evaluation.metrics import mse
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


def images_of(pictures: EvaluationPictures, indices: Sequence[int]) -> Tensor:
    """(B, 3, H, W) float32 in [-1, 1], on the CPU."""
    return pictures.pixels(indices).float() / 127.5 - 1.0


@dataclass(frozen=True)
class Batch:
    """Pictures of one shape and what the model made of them, on the device that it runs on.

    Attributes:
        indices: of the pictures in their set.
        images: (B, 3, H, W) float32 in [-1, 1].
        reconstructions: of the posteriors' modes: the same shape, about [-1, 1], not clamped.
        posterior: of the pictures.
    """

    indices: Sequence[int]
    images: Tensor
    reconstructions: Tensor
    posterior: DiagonalGaussian

    @cached_property
    def mse(self) -> Tensor:
        """Of each picture, as `metrics.mse` has it: (B,) float64; NaN where the reconstruction is not finite."""
        return mse(self.reconstructions, self.images)


@dataclass(frozen=True)
class Findings:
    """What a measurement or a study adds to a report. What is not given adds nothing.

    Attributes:
        scores: numbers of the pictures by their names in `ImageScore`, (N,) float64 in the set's order, NaN where one
            is not finite or not defined. Their means become metrics.
        lacking: what a score needs that no picture of a set may have, as the end of a reason that begins with
            `no picture`.
        columns: numbers of the pictures likewise, whose means are not wanted.
        metrics: numbers of the set, not finite where there is none.
        reasons: why a metric has no number; by default, that reconstructions are not finite.
        sections: fields of `Report` by name, as JSON objects; those of several measurements are laid together.
        protocol: how the numbers were measured, by the metrics' names, in words for people and JSON values.
    """

    scores: Mapping[str, Tensor] = field(default_factory=dict)
    lacking: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)


class Measurement(Protocol):
    """Looks at every picture once."""

    def update(self, batch: Batch) -> None:
        """Take in a batch; together the batches have every picture of the set, in any order."""

    def result(self) -> Findings:
        """What was found; asked for once, after the last batch."""


MOST_STUDIED = 8
"""Pictures of a sample, at most, so that studies cost little beside a thousand pictures."""


@dataclass(frozen=True)
class Sample:
    """Pictures for studies: half of them the first of the set, half the worst. Each is alone, since shapes may differ.

    Attributes:
        images: (1, 3, H, W) float32 in [-1, 1] each, on the CPU.
        reconstructions: of the posteriors' modes in float32, likewise, not clamped.
        device: where the model is.
    """

    images: Sequence[Tensor]
    reconstructions: Sequence[Tensor]
    device: torch.device


Study = Callable[[AutoencoderKL, Sample], Findings]
"""Runs the model again on a sample. It leaves the model as it was."""


class Columns:
    """Numbers of the pictures that come batch by batch, in the set's order, on the CPU."""

    def __init__(self, num_images: int) -> None:
        self.num_images = num_images
        self.values: dict[str, Tensor] = {}
        """(N,) float64 each; NaN for pictures that have not come yet."""

    def put(self, indices: Sequence[int], numbers: Mapping[str, Tensor]) -> None:
        """Take the numbers of the pictures `indices`, (B,) each."""
        for name, values in numbers.items():
            column = self.values.setdefault(name, torch.full((self.num_images,), torch.nan, dtype=torch.float64))
            column[list(indices)] = values.cpu().double()


def blame(what: str, broken: Tensor, names: Sequence[str]) -> str | None:
    """Which pictures are to blame for a number that is not finite: those of `broken` (N,) bool. None if it is none."""
    blamed = broken.nonzero()[:, 0].tolist()
    if not blamed:
        return None
    first = f"first {names[blamed[0]]!r}"
    return f"{what} of {len(blamed)} of {len(names)} pictures holds numbers that are not finite ({first})"
