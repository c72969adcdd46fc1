"""Decide when something is due by a cadence of the configuration, and measure how fast a run is now."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from pikavae.config import Cadence

RECENT_SECONDS = 60.0


class Pace:
    """Measures how fast a number grows: over the last minute, or since the first look if that is more recent."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque()  # at most about sixty, whatever the number of looks
        self._now = (0.0, 0.0)

    def look(self, seconds: float, number: float) -> None:
        """Take in the number at a time, which is not before the last one."""
        self._now = (seconds, number)
        if not self._marks or seconds - self._marks[-1][0] >= RECENT_SECONDS / 60:
            self._marks.append(self._now)
        while len(self._marks) > 1 and seconds - self._marks[1][0] >= RECENT_SECONDS:
            self._marks.popleft()

    @property
    def per_second(self) -> float:
        """Return the growth in a second; 0 before the second look."""
        (began, first), (seconds, number) = self._marks[0] if self._marks else self._now, self._now
        return (number - first) / (seconds - began) if seconds > began else 0.0


@dataclass(frozen=True)
class Moment:
    """Says how far a run is.

    Attributes:
        step: optimizer steps taken.
        epochs: passes over the training pictures, with a fraction.
        seconds: training time.
    """

    step: int
    epochs: float
    seconds: float


def is_due(every: Cadence, before: Moment, now: Moment) -> bool:
    """Return True if a multiple of `every` was reached or passed since the step before."""
    if isinstance(every, int):
        return now.step // every > before.step // every
    number, unit = every.split()
    if unit.startswith("epoch"):
        return _multiples(now.epochs, float(number)) > _multiples(before.epochs, float(number))
    return _multiples(now.seconds, 60.0 * float(number)) > _multiples(before.seconds, 60.0 * float(number))


def _multiples(value: float, size: float) -> int:
    """Return how many whole times `size` is in `value`; 0.3 contains 0.1 three times despite binary rounding."""
    return math.floor(value / size + 1e-9)
