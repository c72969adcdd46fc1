"""How far a long command is: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A function to be told how many pictures are done and of how many, where that is known.

    Args:
        what: is done to the pictures, such as "preparing".
    """
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    with tqdm(desc=what, unit=" pictures", smoothing=0.1, file=sys.stderr) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _lines(what: str) -> Callable[[int, int | None], None]:
    shown = time.monotonic()

    def tell(done: int, total: int | None) -> None:
        nonlocal shown
        if time.monotonic() - shown >= SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            logger.info("%s: %s of %s pictures", what, f"{done:,}", "?" if total is None else f"{total:,}")

    return tell
