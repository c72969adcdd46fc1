"""Formats the table of an evaluation: the model, others beside it and the baselines, in the same columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.metrics.metric import Metric

COLOUR_SHIFT = Metric(
    name="colour_shift",
    title="colour shift",
    about="mean over pictures of its absolute value, the largest of three colours",
)
BYTES = Metric(name="bytes", title="bytes", about="of a picture's latent in half precision", digits=0)
COLUMNS = (
    *(METRICS[name] for name in ("psnr", "psnr_worst_tenth", "ssim", "ms_ssim")),
    COLOUR_SHIFT,
    METRICS["scaling_factor"],
    BYTES,
)
"""The columns of the table."""


@dataclass(frozen=True)
class TableRow:
    """Holds a line of the table: its label and its numbers by the names of `COLUMNS`; others are not shown."""

    label: str
    numbers: Mapping[str, float | None]

    def record(self) -> dict[str, str | float | None]:
        """Return the row as a table in JSON holds it: its label and the number of each column."""
        return {"label": self.label, **{column.name: self.numbers.get(column.name) for column in COLUMNS}}


def cells(rows: Sequence[TableRow]) -> list[list[str]]:
    """Format titles and rows of the table as text, with a dash for a missing number; leave out empty columns."""
    filled = [column for column in COLUMNS if any(row.numbers.get(column.name) is not None for row in rows)]
    return [
        ["", *(column.head or column.title for column in filled)],
        *([row.label, *(column.format(row.numbers.get(column.name)) for column in filled)] for row in rows),
    ]


def align(rows: Sequence[TableRow]) -> list[str]:
    """Format the table in lines of one width, for a terminal."""
    return align_cells(cells(rows))


def align_cells(table: Sequence[Sequence[str]]) -> list[str]:
    """Align text in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in table
    ]


def markdown(rows: Sequence[TableRow]) -> list[str]:
    """Format the table as lines of Markdown."""
    head, *body = cells(rows)
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(line)} |" for line in (["reconstruction", *head[1:]], rule, *body)]
