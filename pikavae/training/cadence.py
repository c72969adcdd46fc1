"""When something is due that a cadence of the configuration asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pikavae.config import Cadence


@dataclass(frozen=True)
class Moment:
    """A place in a run.

    Attributes:
        step: optimizer steps taken.
        epochs: passes over the training pictures, a fraction.
        seconds: training time.
    """

    step: int
    epochs: float
    seconds: float


def is_due(every: Cadence, before: Moment, now: Moment) -> bool:
    """Whether a multiple of `every` was reached or passed since the step before."""
    if isinstance(every, int):
        return now.step // every > before.step // every
    number, unit = every.split()
    if unit.startswith("epoch"):
        return _multiples(now.epochs, float(number)) > _multiples(before.epochs, float(number))
    return _multiples(now.seconds, 60.0 * float(number)) > _multiples(before.seconds, 60.0 * float(number))


def _multiples(value: float, size: float) -> int:
    """How many whole times `size` is in `value`; 0.3 has three of 0.1, whatever binary fractions say."""
    return math.floor(value / size + 1e-9)
