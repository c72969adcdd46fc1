"""Matches patterns such as `*_mask.png` or `masks/**` against files and folders of a source."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence

from pikavae.errors import UserError


class Patterns:
    """Matches the patterns of `data.exclude`. Without `/` they name entries at any depth, else paths from the root.

    A named folder includes all its contents. `*` and `?` stay within a name, `**` spans folders.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._compiled = [(pattern, _compile(pattern)) for pattern in patterns]
        self._used: set[str] = set()

    def match(self, path: str) -> bool:
        """Return True if a pattern names the path (relative to the root) or a folder above it."""
        for pattern, expression in self._compiled:
            if expression.fullmatch(path):
                self._used.add(pattern)
                return True
        return False

    @property
    def unused(self) -> list[str]:
        """Return the patterns that have named nothing so far."""
        return [pattern for pattern, _ in self._compiled if pattern not in self._used]


def _compile(pattern: str) -> re.Pattern[str]:
    parts = [part for part in pattern.split("/") if part not in {"", "."}]
    if not parts or ".." in parts or pattern.startswith("/"):
        raise UserError(f"data.exclude {pattern!r}: expected a pattern relative to the source, such as *_mask.png")
    anywhere = "" if "/" in pattern.strip("/") else "(?:.*/)?"
    return re.compile(f"(?s:{anywhere}{''.join(_expressions(parts))}(?:/.*)?)")


def _expressions(parts: Sequence[str]) -> Iterator[str]:
    last = len(parts) - 1
    for i, part in enumerate(parts):
        if part == "**":
            yield ".*" if i == last else "(?:[^/]+/)*"
        else:
            yield _within_a_name(part) + ("" if i == last else "/")


def _within_a_name(part: str) -> str:
    """Return the expression of `fnmatch` for a part of a path; its wildcards do not match `/`."""
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", part)
    return "".join(
        "[^/]*" if piece.startswith("*") else "[^/]" if piece == "?" else _class(piece) if i % 2 else re.escape(piece)
        for i, piece in enumerate(pieces)
    )


def _class(piece: str) -> str:
    """Return the expression for a set such as `[0-9]`, as `fnmatch` reads it."""
    return re.sub(r"^\(\?s:(.*)\)\\[Zz]$", r"\1", fnmatch.translate(piece))
