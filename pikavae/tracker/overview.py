"""Draws the small picture at the head of a run's page: validation pictures, each beside its reconstruction.

MLflow shows about 95 pixels of a run's description before one unfolds it, the lower half faded. It shows pictures that
the text names by address, in their own size, and removes those that are in the text itself.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pikavae.evaluation.report.panels import to_uint8

OVERVIEW_NAME = "overview.png"
CELL = 48
"""The height of a picture in an overview, in pixels: what is not faded."""
WIDTH = 780
"""The width that MLflow's page has for it."""
GAP = 8
LARGE_CELL = 96
COLUMNS = 12


def overview(originals: Tensor, reconstructions: Tensor) -> Image.Image:
    """Draw pairs of a picture and its reconstruction in a row, as many as MLflow's page has room for.

    Args:
        originals: (N, 3, H, W) in about [-1, 1].
        reconstructions: of the same pictures, of the same shape.
    """
    pairs = [np.concatenate(pair, axis=1) for pair in zip(*_rows(originals, reconstructions, CELL), strict=True)]
    height, width, _ = pairs[0].shape
    shown = pairs[: max(1, (WIDTH + GAP) // (width + GAP))]
    whole = np.full((height, len(shown) * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for number, pair in enumerate(shown):
        whole[:, number * (width + GAP) :][:, :width] = pair
    return Image.fromarray(whole)


def two_rows(originals: Tensor, reconstructions: Tensor) -> Image.Image:
    """Draw up to twelve pictures in a row, larger, and their reconstructions below; arguments as for `overview`."""
    rows = _rows(originals[:COLUMNS], reconstructions[:COLUMNS], LARGE_CELL)
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0))


def _rows(originals: Tensor, reconstructions: Tensor, cell: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the pictures and their reconstructions, of the height of a cell; a resumed run may have fewer of one."""
    count = min(len(originals), len(reconstructions))
    return _cells(originals[:count], cell), _cells(reconstructions[:count], cell)


def _cells(images: Tensor, cell: int) -> list[np.ndarray]:
    """Scale pictures until their height is that of a cell: pictures (h, w, 3) uint8."""
    height, width = images.shape[2:]
    size = (cell, max(1, width * cell // height))
    mode = "area" if height > cell else "nearest"
    return [*to_uint8(F.interpolate(images.float(), size=size, mode=mode)).permute(0, 2, 3, 1).numpy()]


def picture_markdown(run_id: str, path: str, text: str) -> str:
    """Return the Markdown of a picture among a run's artifacts, on any of MLflow's pages and whatever its host.

    Args:
        run_id: the run.
        path: the artifact.
        text: what the picture shows; it may hold no brackets.
    """
    return f"![{text}](get-artifact?path={path}&run_uuid={run_id})"
