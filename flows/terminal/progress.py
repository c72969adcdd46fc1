"""Show how far a long command is: a bar in a terminal, occasional lines in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Give a function to call with the number of pictures done, and the total if it is known.

    Args:
        what: the work on the pictures, such as "preparing".
    """
    if not sys.stderr.isatty():
        yield _report_lines(what)
        return
    from tqdm import tqdm

    with tqdm(desc=what, unit=" pictures", smoothing=0.1, file=sys.stderr) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _report_lines(what: str) -> Callable[[int, int | None], None]:
    shown = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal shown
        if time.monotonic() - shown >= SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            logger.info("%s: %s of %s pictures", what, f"{done:,}", "?" if total is None else f"{total:,}")

    return report
