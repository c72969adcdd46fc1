"""Count the CPUs that this process may use, and those that other work leaves free."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
SECONDS_OF_LOOKING = 0.5
"""How long the use of the CPUs is measured: long enough for fifty ticks of the system's clock."""


def count_allowed(root: Path = ROOT) -> int:
    """Return how many CPUs this process may use by its affinity and by the quota of its control groups; at least 1.

    Args:
        root: where `proc` and `sys` are.
    """
    allowed = len(_affinity())
    quota = _quota(root)
    return allowed if quota is None else max(1, min(allowed, int(quota)))


def count_free(root: Path = ROOT) -> int:
    """Return how many of the allowed CPUs other work leaves free, in whole numbers; at least 1.

    This process must not compute meanwhile. The load average is not used: it still holds what this process did in the
    minute before, and in a container it is that of the whole machine. Work of low priority (`nice`) counts as none,
    unless this process has a low priority itself.

    Args:
        root: where `proc` and `sys` are.
    """
    before = _ticks(root)
    time.sleep(SECONDS_OF_LOOKING)
    after = _ticks(root)
    free = 0.0
    for cpu in _affinity():
        idle, total = (b - a for a, b in zip(before.get(cpu, (0, 0)), after.get(cpu, (0, 0)), strict=True))
        free += idle / total if total > 0 else 1.0
    return max(1, min(count_allowed(root), round(free)))


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def _ticks(root: Path) -> dict[int, tuple[int, int]]:
    """Return the idle ticks and all ticks of each CPU since the system started; nothing if the system tells none."""
    try:
        lines = (root / "proc/stat").read_text().splitlines()
    except OSError:
        return {}
    ticks = {}
    for line in lines:
        name, *numbers = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and len(numbers) >= 8:
            _, nice, _, idle, waiting, *_ = counts = [int(number) for number in numbers[:8]]
            ticks[int(name[3:])] = (idle + waiting + (nice if os.nice(0) <= 0 else 0), sum(counts))
    return ticks


def _quota(root: Path) -> float | None:
    """Return the CPUs that the tightest quota of this process's control groups gives; None without a quota."""
    return min(_quotas(root), default=None)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`), from the own group to the root."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        # In a container, the path may be that of the host, and only its end or nothing of it is there.
        for group in (top / path.strip("/"), *(top / path.strip("/")).parents):
            if (quota := _quota_of(group)) is not None:
                yield quota
            if group == top:
                break


def _quota_of(group: Path) -> float | None:
    for name in ("cpu.max", "cpu.cfs_quota_us"):
        try:
            words = (group / name).read_text().split()
            if name == "cpu.cfs_quota_us":
                words += (group / "cpu.cfs_period_us").read_text().split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # not there, or `max`
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None
