"""Mark processes, so that a record can say which one works on something and others can see if it still runs."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil

CLOCK_SECONDS = 60.0
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TICKS_FIELD = 19
"""The field `starttime` of /proc/PID/stat, counted from the one after the program's name; see proc_pid_stat(5)."""


def mark_of(process: psutil.Process) -> str:
    """Return a mark of a process: its id, the second of its start, since ids are reused, and where known its beginning.

    The beginning is counted from the machine's start: no step of the clock moves it.
    """
    return ":".join([str(process.pid), f"{process.create_time():.0f}", *_beginning(process.pid)])


def is_alive(mark: str) -> bool:
    """Return True if the process of this mark still runs."""
    pid, _, rest = mark.partition(":")
    started, _, beginning = rest.partition(":")
    try:
        if beginning and (found := _beginning(int(pid))):
            return found == [beginning]
        # The start is counted from the machine's start, which clock corrections move.
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < CLOCK_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False


def _beginning(pid: int) -> list[str]:
    """Return the tick of a process's start with the id of this machine's start; [] where the system has neither."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return [f"{fields[TICKS_FIELD]}@{BOOT_ID.read_text(encoding='ascii').strip()[:8]}"]
    except (OSError, IndexError):
        return []


def mark_here() -> str:
    """Return this machine's name and the mark of this process, for records that several machines read."""
    return f"{socket.gethostname()} {mark_of(psutil.Process())}"


def ended_here(mark: str) -> bool:
    """Return True if a mark of `mark_here` is of this machine, and its process has ended."""
    host, _, process = mark.partition(" ")
    return host == socket.gethostname() and not is_alive(process)
