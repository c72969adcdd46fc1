"""Draws pictures for people: originals over reconstructions, and a training as a filmstrip. Save them as PNG."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SMALL_SIDE = 64
MIN_CELL, MAX_CELL = 96, 256
FILMSTRIP_CELL = 128
FILMSTRIP_FRAMES = 16
PANEL_COLUMNS = 8
MOSAIC = 4
ERROR_GAIN = 4.0
GAP = 4
FONT_SIZE = 13
LINE_HEIGHT = 18
LINE_CHARACTERS = 100
INK = (32, 32, 32)
PAPER = (236, 236, 236)


def to_uint8(images: Tensor) -> Tensor:
    """Convert pictures (N, 3, H, W) in about [-1, 1] to bytes on the CPU: clamped and rounded; NaN becomes black."""
    return (images.detach().cpu().float().nan_to_num(nan=-1.0).clamp(-1.0, 1.0) * 127.5 + 127.5).round().byte()


def error_images(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Return four times the absolute error of each colour, from black for 0; NaN is white: (N, 3, H, W) in [-1, 1]."""
    error = (reconstructions.clamp(-1.0, 1.0) - images).abs()
    return (ERROR_GAIN * error.nan_to_num(nan=2.0) - 1.0).clamp(max=1.0)


def panel(rows: Sequence[tuple[str, Tensor]], captions: Sequence[Sequence[str]] = ()) -> Image.Image:
    """Draw labelled rows of pictures that belong together column by column; after eight columns, continue below.

    Args:
        rows: (label, (N, 3, H, W) in about [-1, 1]), all of one shape.
        captions: lines of text above each of the N columns; long lines are cut.

    Pictures up to 64 px are enlarged without smoothing; pictures over 256 px are averaged down.
    """
    labels = [label for label, _ in rows]
    cells = torch.stack([_cells(images, MAX_CELL) for _, images in rows])  # (R, N, 3, h, w)
    starts = range(0, cells.shape[1], PANEL_COLUMNS)
    ends = [min(start + PANEL_COLUMNS, cells.shape[1]) for start in starts]
    bands = [_grid(cells[:, start:end], labels, captions[start:end]) for start, end in zip(starts, ends, strict=True)]
    whole = Image.new("RGB", (bands[0].width, sum(band.height for band in bands)), PAPER)
    top = 0
    for band in bands:
        whole.paste(band, (0, top))
        top += band.height
    return whole


def filmstrip(frames: Sequence[tuple[int, Tensor]], originals: Tensor) -> Image.Image:
    """Draw a training in pictures: a column for each moment, from left to right, and the originals last.

    Args:
        frames: (step, (N, 3, H, W) reconstructions of the same pictures) in any order. Of more than sixteen, sixteen
            are shown, evenly chosen and including the first and the last.
        originals: (N, 3, H, W).
    """
    ordered = sorted(frames, key=lambda frame: frame[0])
    shown = [ordered[i] for i in choose_evenly(len(ordered), FILMSTRIP_FRAMES)]
    columns = [*((f"step {step:,}", images) for step, images in shown), ("original", originals)]
    # A run that was resumed with another number of preview pictures has frames of both heights.
    count = min(len(images) for _, images in columns)
    cells = torch.stack([_cells(images[:count], FILMSTRIP_CELL) for _, images in columns], dim=1)  # (N, T, 3, h, w)
    return _grid(cells, [""] * count, [[heading] for heading, _ in columns])


def mosaic(images: Tensor) -> np.ndarray:
    """Arrange up to four pictures (N, 3, H, W) in two columns: (h, w, 3) uint8."""
    pictures = to_uint8(images[:MOSAIC]).permute(0, 2, 3, 1).numpy()
    count, height, width, _ = pictures.shape
    columns = min(2, count)
    rows = -(-count // columns)
    whole = np.full((rows * height, columns * width, 3), PAPER, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height, number % columns * width
        whole[top : top + height, left : left + width] = picture
    return whole


def choose_evenly(count: int, limit: int) -> list[int]:
    """Choose at most `limit` of the indices below `count`, evenly spread and including the first and the last."""
    if count <= limit:
        return list(range(count))
    return [round(i * (count - 1) / (limit - 1)) for i in range(limit)]


def _cells(images: Tensor, largest: int) -> Tensor:
    """Scale pictures to the size at which they are shown, as bytes: (N, 3, H, W) to (N, 3, h, w)."""
    height, width = images.shape[2:]
    side = max(height, width)
    if side <= SMALL_SIDE:
        scale = -(-MIN_CELL // side)
        return to_uint8(images).repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    if side > largest:
        size = (max(1, height * largest // side), max(1, width * largest // side))
        return to_uint8(F.interpolate(images.float(), size=size, mode="area"))
    return to_uint8(images)


def _grid(cells: Tensor, labels: Sequence[str], captions: Sequence[Sequence[str]]) -> Image.Image:
    """Draw cells (R, C, 3, h, w) uint8 in a grid, with a label left of each row and lines above each column."""
    rows, columns, _, height, width = cells.shape
    font = ImageFont.load_default(size=FONT_SIZE)
    left = max(round(font.getlength(label)) + 2 * GAP if label else GAP for label in labels)
    top = GAP + LINE_HEIGHT * max((len(lines) for lines in captions), default=0)
    size = (left + columns * (width + GAP), top + rows * (height + GAP))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for row in range(rows):
        y = top + row * (height + GAP)
        draw.text((GAP, y + height // 2), labels[row], fill=INK, font=font, anchor="lm")
        for column in range(columns):
            pixels = np.ascontiguousarray(cells[row, column].permute(1, 2, 0).numpy())
            canvas.paste(Image.fromarray(pixels), (left + column * (width + GAP), y))
    for column, lines in enumerate(captions):
        for number, line in enumerate(lines):
            place = (left + column * (width + GAP), GAP // 2 + number * LINE_HEIGHT)
            draw.text(place, _fit(line, width, font), fill=INK, font=font)
    return canvas


def _fit(line: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Cut the line to at most `width` pixels."""
    line = " ".join(line.split())[:LINE_CHARACTERS]
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line}..."
