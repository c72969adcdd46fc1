"""Read everything that a list of Prefect's server holds, which the server gives in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Item = TypeVar("Item")

PAGE = 200
"""How much is asked for at once: the most that a server gives by default."""


def read_all(read: Callable[..., list[Item]], **filters: Any) -> list[Item]:
    """Return all items of a list.

    Args:
        read: a client's function that reads a page of it, such as `client.read_flow_runs`.
        filters: what it is asked for besides.
    """
    found: list[Item] = []
    while page := read(**filters, limit=PAGE, offset=len(found)):
        found += page
    return found
