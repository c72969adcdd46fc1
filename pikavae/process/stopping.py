"""Treat Ctrl-C, SIGTERM and a lost terminal alike, and write the last records without interruption."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
STREAMS = (0, 1, 2)


def listen() -> None:
    """Raise KeyboardInterrupt for SIGTERM and SIGHUP as Python does for Ctrl-C, except a SIGHUP that nohup ignores."""
    signal.signal(signal.SIGTERM, _stop)
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) != signal.SIG_DFL:
        return
    terminals = [stream for stream in STREAMS if os.isatty(stream)]

    def hang_up(number: int, frame: FrameType | None) -> NoReturn:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in terminals:  # the terminal is gone, and writing to it would fail
            os.dup2(nowhere, stream)
        os.close(nowhere)
        _stop(number, frame)

    signal.signal(hangup, hang_up)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@contextmanager
def ignore_stops() -> Iterator[None]:
    """Ignore further signals during a short block, such as the one that records why a run ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
