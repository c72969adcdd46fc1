"""The table of an evaluation: the model, what else it is set beside, and the baselines, in the same columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """A line of the table; None where something has no such number.

    PSNR in dB, the colour shift that is the largest of the three on [-1, 1], the scaling factor that the latents would
    need, and bytes a picture.
    """

    label: str
    psnr: float | None
    ssim: float | None
    bytes: float | None = None
    psnr_worst_tenth: float | None = None
    ms_ssim: float | None = None
    colour_shift: float | None = None
    scaling_factor: float | None = None


COLUMNS = (
    ("PSNR dB", "psnr", "{:.2f}"),
    ("worst tenth", "psnr_worst_tenth", "{:.2f}"),
    ("SSIM", "ssim", "{:.4f}"),
    ("MS-SSIM", "ms_ssim", "{:.4f}"),
    ("colour shift", "colour_shift", "{:+.4f}"),
    ("scaling", "scaling_factor", "{:.4f}"),
    ("bytes", "bytes", "{:,.0f}"),
)
"""Title, field of `Standing`, and how its numbers are written."""


def cells(rows: Sequence[Standing]) -> list[list[str]]:
    """Titles and rows of the table as text; a dash for what is not there. Columns that nothing fills are left out."""
    filled = [column for column in COLUMNS if any(getattr(row, column[1]) is not None for row in rows)]
    return [
        ["", *(title for title, _, _ in filled)],
        *([row.label, *(_written(getattr(row, name), form) for _, name, form in filled)] for row in rows),
    ]


def aligned(rows: Sequence[Standing]) -> list[str]:
    """The table in lines of one width, for a terminal."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in table
    ]


def markdown(rows: Sequence[Standing]) -> list[str]:
    """The table as Markdown, line by line."""
    head, *body = cells(rows)
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(line)} |" for line in (["reconstruction", *head[1:]], rule, *body)]


def _written(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
