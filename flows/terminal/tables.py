"""Lay out tables and paragraphs that remain readable in a terminal of 80 columns."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

HASH = re.compile(r"\b[0-9a-f]{16,}\b")
TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d):[\d.]+\+00:00")
LABEL = 14
GAP = 2


def columns() -> int:
    """Return the number of columns: the terminal's, at least 40; 80 without a terminal."""
    return max(shutil.get_terminal_size().columns, 40)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], wrapped: int) -> list[str]:
    """Return the lines of a table.

    Args:
        header: the title of each column.
        rows: rows of cells; cells of the columns before `wrapped` remain whole.
        wrapped: the index of the first column that shares the remaining width. The last column is wrapped to several
            lines; the others from this one on are shortened in their middle.
    """
    cells = [[*map(str, header)], *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    left = columns() - sum(width + GAP for width in widths[:wrapped])
    for i in range(wrapped, len(header)):
        widths[i] = min(widths[i], max((left - GAP * (len(header) - 1 - i)) // (len(header) - i), 8))
        left -= widths[i] + GAP
    widths[-1] = max(widths[-1], left + GAP)
    lines = []
    for row in cells:
        *fixed, last = row
        parts = [shorten(cell, width).ljust(width) for cell, width in zip(fixed, widths, strict=False)]
        head = (" " * GAP).join([*parts, ""])
        first, *more = textwrap.wrap(last, max(widths[-1], 8)) or [""]
        lines += [f"{head}{first}".rstrip(), *(f"{' ' * len(head)}{line}" for line in more)]
    return lines


def label_text(label: str, text: str) -> str:
    """Return a label and a text; a long text is wrapped, and its lines are aligned."""
    indent = " " * LABEL
    return textwrap.fill(
        text, max(columns(), 60), initial_indent=label.ljust(LABEL), subsequent_indent=indent, break_on_hyphens=False
    )


def shorten(text: str, width: int) -> str:
    """Return a text without its middle if it is longer than `width`."""
    if len(text) <= width:
        return text
    tail = (width - 3) // 2
    return f"{text[: width - 3 - tail]}...{text[len(text) - tail :]}"


def brief(text: str) -> str:
    """Return a text with each hash cut to its first eight digits, which identify it, and times cut to minutes."""
    return TIME.sub(r"\1 \2 UTC", HASH.sub(lambda match: match[0][:8], text))


def minute(time: datetime | str) -> str:
    """Return a time to the minute, in UTC."""
    when = datetime.fromisoformat(time) if isinstance(time, str) else time
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M}"
