"""Parse JSON as pikavae writes it, and raise one kind of error for any other content."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 64
"""The largest number of nested levels of lists and objects; pikavae writes fewer than ten."""


def parse(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: it is not JSON or not UTF-8, is nested too deeply, has NaN, an infinity or a number beyond the range
            of floats, or has a key twice.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _refuse_depth(value)
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large for a float")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key appears twice")
    return found


def _refuse_depth(value: Any) -> None:
    """Refuse deep nesting that the parser accepts, but that code which copies or writes the value cannot handle."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")
