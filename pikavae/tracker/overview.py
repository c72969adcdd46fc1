"""Draws the small picture at the head of a run's page: validation pictures, and below them their reconstructions.

MLflow shows about 95 pixels of a run's description before one unfolds it. It removes pictures that are in the text, and
shows those that the text names by their address.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pikavae.evaluation.report.panels import to_uint8

OVERVIEW_NAME = "overview.png"
HEIGHT = 92
"""The height in pixels at which MLflow shows it."""
CELL = 96
COLUMNS = 12


def overview(originals: Tensor, reconstructions: Tensor) -> Image.Image:
    """Draw up to twelve pictures in a row, and their reconstructions below.

    Args:
        originals: (N, 3, H, W) in about [-1, 1].
        reconstructions: of the same pictures, of the same shape.
    """
    count = min(len(originals), len(reconstructions), COLUMNS)  # a resumed run may have another number of them
    rows = [np.concatenate(_cells(images[:count]), axis=1) for images in (originals, reconstructions)]  # (h, n*w, 3)
    return Image.fromarray(np.concatenate(rows, axis=0))


def _cells(images: Tensor) -> list[np.ndarray]:
    """Scale pictures until their height is that of a cell: pictures (h, w, 3) uint8."""
    height, width = images.shape[2:]
    size = (CELL, max(1, width * CELL // height))
    mode = "area" if height > CELL else "nearest"
    return [*to_uint8(F.interpolate(images.float(), size=size, mode=mode)).permute(0, 2, 3, 1).numpy()]


def picture_markdown(run_id: str, path: str, text: str, *, height: int | None = None) -> str:
    """Return the Markdown of a picture among a run's artifacts, on any of MLflow's pages and whatever its host.

    Args:
        run_id: the run.
        path: the artifact.
        text: what the picture shows; it may hold no quotes.
        height: in pixels; by default the picture's own.
    """
    size = f' height="{height}"' if height else ""
    return f'<img src="get-artifact?path={path}&run_uuid={run_id}" alt="{text}" title="{text}"{size}>'
