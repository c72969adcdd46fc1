"""Chooses the pictures that a report shows, and draws them in panels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pikavae.evaluation.measure.measurement import MeasuredBatch
from pikavae.evaluation.metrics.similarity import psnr_of_mse
from pikavae.evaluation.report.panels import ERROR_GAIN, error_images, panel

FRAME = 0.85
"""The light grey, in [-1, 1], that surrounds pictures of other shapes in a panel."""


@dataclass(frozen=True)
class ChosenPicture:
    """Holds a picture of a report and its reconstruction, as people see them: (3, H, W) in about [-1, 1] each."""

    name: str
    caption: str
    psnr: float | None
    original: Tensor
    reconstruction: Tensor


class Chooser:
    """Keeps the reconstructions that a report shows: of the first pictures, the worst and the best.

    Memory is bounded. Pictures whose PSNR is NaN are the worst.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: dict[int, Tensor] = {}
        self._scores: dict[int, float] = {}

    def update(self, batch: MeasuredBatch) -> None:
        """Look at a batch."""
        self.add(batch.indices, batch.reconstructions, psnr_of_mse(batch.mse))

    def add(self, indices: Sequence[int], reconstructions: Tensor, scores: Tensor) -> None:
        """Look at a batch: (B, C, H, W) reconstructions of the pictures `indices` and their PSNR (B,)."""
        self.kept.update((i, one.clone()) for i, one in zip(indices, reconstructions.cpu(), strict=True))
        self._scores.update(zip(indices, scores.nan_to_num(nan=-math.inf).tolist(), strict=True))
        keep = {i for chosen in self.indices().values() for i in chosen}
        self.kept = {i: kept for i, kept in self.kept.items() if i in keep}
        self._scores = {i: score for i, score in self._scores.items() if i in keep}

    def indices(self) -> dict[str, list[int]]:
        """Return the indices of the `first` pictures, the `worst` by rising PSNR, and the `best` by falling PSNR."""
        ranked = sorted(self._scores, key=lambda i: (self._scores[i], i))
        return {
            "first": sorted(self._scores)[: self.limit],
            "worst": ranked[: self.limit],
            "best": sorted(self._scores, key=lambda i: (-self._scores[i], i))[: self.limit],
        }


def draw_panels(shown: Mapping[str, Sequence[ChosenPicture]], out: Path) -> None:
    """Write `panel.png` with the first pictures and `worst.png`: original, reconstruction, error."""
    for name, chosen in (("panel.png", shown["first"]), ("worst.png", shown["worst"])):
        originals = _frame([one.original for one in chosen])
        reconstructions = _frame([one.reconstruction for one in chosen])
        rows = [
            ("original", originals),
            ("reconstruction", reconstructions),
            (f"error x {ERROR_GAIN:g}", error_images(reconstructions, originals)),
        ]
        captions = [[one.caption or one.name, f"{math.nan if one.psnr is None else one.psnr:.2f} dB"] for one in chosen]
        panel(rows, captions).save(out / name, format="PNG")


def _frame(images: Sequence[Tensor]) -> Tensor:
    """Centre pictures (3, H, W) of several shapes in frames that all of them fit into: (N, 3, H, W)."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    framed = torch.full((len(images), 3, height, width), FRAME)
    for whole, image in zip(framed, images, strict=True):
        top, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
        whole[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return framed
