"""From the numbers of each picture to those of the set: means, why one is missing, over how many pictures it goes.

A mean is None where a reconstruction has numbers that are not finite: leaving that picture out would flatter the model.
A picture on which a metric is not defined, whatever the model, is left out of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pikavae.evaluation.measurement import Findings, blame


@dataclass(frozen=True)
class Overall:
    """The numbers of a set, as `Report` has them.

    Attributes:
        metrics: by name; None where a number is not finite or not defined.
        reasons: why a metric is None.
        counts: over how many pictures a mean is taken, where that is fewer than all.
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    counts: dict[str, int]


def overall(findings: Sequence[Findings], broken: Tensor, names: Sequence[str]) -> Overall:
    """The numbers of a set of pictures.

    Args:
        findings: of all measurements and studies.
        broken: (N,) bool, which pictures' reconstructions have numbers that are not finite.
        names: the pictures' names.
    """
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    counts: dict[str, int] = {}
    broke = blame("the reconstruction", broken, names)
    for one in findings:
        defined = {name: values[broken | ~values.isnan()] for name, values in one.scores.items()}
        numbers = {**{name: values.mean().item() for name, values in defined.items()}, **one.metrics}
        missing = [name for name, value in numbers.items() if not math.isfinite(value)]
        metrics |= {name: None if name in missing else value for name, value in numbers.items()}
        if broke is not None:
            reasons |= dict.fromkeys(missing, broke)
        reasons |= {name: f"no picture {one.lacking[name]}" for name, values in defined.items() if len(values) == 0}
        reasons |= {name: reason for name, reason in one.reasons.items() if name in missing}
        counts |= {
            name: len(values) for name, values in defined.items() if len(values) < len(names) and name not in missing
        }
    return Overall(metrics, reasons, counts)
