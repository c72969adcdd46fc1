"""Computes the numbers of the set from those of each picture: means, their counts, and why one is missing.

A mean is None if a reconstruction has numbers that are not finite: leaving that picture out would flatter the model.
A picture is left out of a mean if its metric is not defined for it, whatever the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor

from pikavae.evaluation.measure.measurement import Measured, blame
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.metrics.similarity import SSIM_SIGMA, ssim_window


@dataclass(frozen=True)
class Overall:
    """Holds the numbers of a set in the form of `Report`.

    Attributes:
        metrics: by name; None if a number is not finite or not defined.
        reasons: why a metric is None.
        counts: over how many pictures a mean is taken, if fewer than all.
    """

    metrics: dict[str, float | None]
    reasons: dict[str, str]
    counts: dict[str, int]


def overall(measured: Sequence[Measured], broken: Tensor, names: Sequence[str]) -> Overall:
    """Compute the numbers of a set of pictures.

    Args:
        measured: by all measurements and studies.
        broken: (N,) bool, True for pictures whose reconstructions have numbers that are not finite.
        names: the pictures' names.
    """
    metrics: dict[str, float | None] = {}
    reasons: dict[str, str] = {}
    counts: dict[str, int] = {}
    broke = blame("the reconstruction", broken, names)
    for one in measured:
        defined = {name: values[broken | ~values.isnan()] for name, values in one.scores.items()}
        numbers = {**{name: values.mean().item() for name, values in defined.items()}, **one.metrics}
        missing = [name for name, value in numbers.items() if not math.isfinite(value)]
        metrics |= {name: None if name in missing else value for name, value in numbers.items()}
        if broke is not None:
            reasons |= dict.fromkeys(missing, broke)
        reasons |= {name: f"no picture {METRICS[name].needs}" for name, values in defined.items() if len(values) == 0}
        reasons |= {name: reason for name, reason in one.reasons.items() if name in missing}
        counts |= {
            name: len(values) for name, values in defined.items() if len(values) < len(names) and name not in missing
        }
    return Overall(metrics, reasons, counts)


def protocol(*, image_size: int, batch_size: int, device_type: str) -> dict[str, JsonValue]:
    """Describe what was measured and how, in words for people and JSON values."""
    window = ssim_window(image_size, image_size)
    return {
        "latent": "mode of the posterior",
        "precision": "float32 without TF32; metrics in float64",
        "resize": "none",
        "data_range": [-1.0, 1.0],
        "reconstruction": "clamped to the data range, not rounded to 8 bits",
        "mean": "over pictures, of each picture's metric",
        "ssim_window": f"Gaussian of sigma {SSIM_SIGMA}, {window} px, only windows wholly inside the picture",
        "bicubic": "Keys' kernel with a = -0.5 and antialiasing (as Pillow), to the latent's height and width and back",
        "constant": "the mean colour over all pictures of the set",
        "batch_size": batch_size,
        "device": device_type,
        **{metric.entry: metric.protocol for metric in METRICS.values() if metric.protocol},
    }
