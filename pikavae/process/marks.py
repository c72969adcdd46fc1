"""Mark processes, so that a record can say which one works on something and others can see if it still runs."""

from __future__ import annotations

import socket

import psutil

CLOCK_SECONDS = 60.0


def mark_of(process: psutil.Process) -> str:
    """Return a mark of a process: its id and the second of its start, since ids are reused."""
    return f"{process.pid}:{process.create_time():.0f}"


def is_alive(mark: str) -> bool:
    """Return True if the process of this mark still runs."""
    pid, _, started = mark.partition(":")
    try:
        # The start is counted from the machine's start, which clock corrections move.
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < CLOCK_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False


def mark_here() -> str:
    """Return this machine's name and the mark of this process, for records that several machines read."""
    return f"{socket.gethostname()} {mark_of(psutil.Process())}"


def ended_here(mark: str) -> bool:
    """Return True if a mark of `mark_here` is of this machine, and its process has ended."""
    host, _, process = mark.partition(" ")
    return host == socket.gethostname() and not is_alive(process)
