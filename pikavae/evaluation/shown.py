"""The pictures of a report: which of them are shown, and the panels that show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pikavae.evaluation.measurement import Batch
from pikavae.evaluation.metrics import psnr_of_mse
from pikavae.evaluation.panels import ERROR_GAIN, error_images, panel

FRAME = 0.85
"""What surrounds pictures of other shapes in a panel, in [-1, 1]: a light grey."""


@dataclass(frozen=True)
class ShownPicture:
    """A picture of a report and what a model made of it: both (3, H, W) float32, in [-1, 1] and about it."""

    name: str
    caption: str
    psnr: float | None
    original: Tensor
    reconstruction: Tensor


class Chooser:
    """Keeps the reconstructions that a report shows, of all that pass: of the first pictures, the worst, the best.

    Memory stays bounded. Pictures whose PSNR is not a number are the worst.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: dict[int, Tensor] = {}
        self._scores: dict[int, float] = {}

    def update(self, batch: Batch) -> None:
        """Look at a batch."""
        self.add(batch.indices, batch.reconstructions, psnr_of_mse(batch.mse))

    def add(self, indices: Sequence[int], reconstructions: Tensor, scores: Tensor) -> None:
        """Look at a batch: (B, 3, H, W) reconstructions of the pictures `indices` and their PSNR (B,)."""
        self.kept.update((i, one.clone()) for i, one in zip(indices, reconstructions.cpu(), strict=True))
        self._scores.update(zip(indices, scores.nan_to_num(nan=-math.inf).tolist(), strict=True))
        keep = {i for chosen in self.chosen().values() for i in chosen}
        self.kept = {i: kept for i, kept in self.kept.items() if i in keep}
        self._scores = {i: score for i, score in self._scores.items() if i in keep}

    def chosen(self) -> dict[str, list[int]]:
        """Indices of the `first` pictures, the `worst` from the lowest PSNR up, the `best` from the highest down."""
        ranked = sorted(self._scores, key=lambda i: (self._scores[i], i))
        return {
            "first": sorted(self._scores)[: self.limit],
            "worst": ranked[: self.limit],
            "best": sorted(self._scores, key=lambda i: (-self._scores[i], i))[: self.limit],
        }


def draw_panels(shown: Mapping[str, Sequence[ShownPicture]], out: Path) -> None:
    """Write `panel.png` with the first pictures and `worst.png`: original, reconstruction, error."""
    for name, chosen in (("panel.png", shown["first"]), ("worst.png", shown["worst"])):
        originals = _framed([one.original for one in chosen])
        reconstructions = _framed([one.reconstruction for one in chosen])
        rows = [
            ("original", originals),
            ("reconstruction", reconstructions),
            (f"error x {ERROR_GAIN:g}", error_images(reconstructions, originals)),
        ]
        captions = [[one.caption or one.name, f"{math.nan if one.psnr is None else one.psnr:.2f} dB"] for one in chosen]
        panel(rows, captions).save(out / name, format="PNG")


def _framed(images: Sequence[Tensor]) -> Tensor:
    """Pictures (3, H, W) of several shapes in the middle of one that all fit into: (N, 3, H, W)."""
    height, width = (max(image.shape[side] for image in images) for side in (1, 2))
    framed = torch.full((len(images), 3, height, width), FRAME)
    for whole, image in zip(framed, images, strict=True):
        top, left = (height - image.shape[1]) // 2, (width - image.shape[2]) // 2
        whole[:, top : top + image.shape[1], left : left + image.shape[2]] = image
    return framed
