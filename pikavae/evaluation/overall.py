"""From the numbers of each picture to those of the set: means, why one is missing, over how many pictures it goes.

A mean is None where a reconstruction has numbers that are not finite: leaving that picture out would flatter the model.
A picture on which a metric is not defined, whatever the model, is left out of its mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pikavae.evaluation.latents import LatentStatistics
from pikavae.evaluation.metrics import MS_SSIM_SMALLEST_SIDE, psnr_of_mse

LACKING = {
    "ms_ssim": f"has both sides of at least {MS_SSIM_SMALLEST_SIDE} px, which its five scales need",
    "psnr_foreground": "shows more than a background of one colour",
    "flat_noise": "has a flat region",
    "high_frequency_ratio": "has high frequencies",
    "edge_error": "has an edge",
    "border_mse": "is larger than its border",
    "inside_mse": "is larger than its border",
}
"""What a metric needs and no picture of the set has, as the end of a reason that begins with `no picture`."""


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


def overall(scores: Mapping[str, Tensor], kl: Tensor, latents: LatentStatistics, *, pictures: Sequence[str]) -> Overall:
    """The numbers of a set of pictures.

    Args:
        scores: of the pictures, (N,) float64 each, by their names in `ImageScore`; `psnr` and `mse` among them. NaN
            where a number is not finite or not defined.
        kl: (N,) float64, in nats.
        latents: statistics of the same pictures' posteriors.
        pictures: their names.
    """
    broken = scores["psnr"].isnan()
    defined = {name: values[broken | ~values.isnan()] for name, values in scores.items()}
    worst_first = scores["psnr"].nan_to_num(nan=-math.inf).argsort(stable=True)
    worst_tenth = worst_first[: math.ceil(len(pictures) / 10)]
    of_pictures = {
        **{name: values.mean().item() for name, values in defined.items()},
        "psnr_pooled": psnr_of_mse(scores["mse"].mean()).item(),
        "psnr_min": scores["psnr"].min().item(),
        "psnr_worst_tenth": scores["psnr"][worst_tenth].mean().item(),
    }
    of_latents = {
        "kl_nats_per_image": latents.kl_nats_per_image,
        "kl_nats_per_dimension": latents.kl_nats_per_dimension,
        "latent_mean": latents.mean,
        "latent_std": latents.std,
        "scaling_factor": latents.scaling_factor,
        "shift_factor": latents.shift_factor,
        "active_units": latents.active_units,
    }
    reasons = {
        **_blame(of_pictures, "the reconstruction", broken, pictures),
        **_blame(of_latents, "the posterior", ~kl.isfinite(), pictures),
        **{name: f"no picture {LACKING[name]}" for name, values in defined.items() if len(values) == 0},
    }
    if latents.std == 0.0:
        reasons["scaling_factor"] = "all latents are equal, so that their deviation is zero"
    if math.isnan(latents.active_units):
        reasons.setdefault("active_units", "no two pictures are of one size, so that nothing varies between them")
    numbers = of_pictures | of_latents
    return Overall(
        metrics={name: value if math.isfinite(value) else None for name, value in numbers.items()},
        reasons=reasons,
        counts={
            name: len(values)
            for name, values in defined.items()
            if len(values) < len(pictures) and math.isfinite(numbers[name])
        },
    )


def _blame(values: Mapping[str, float], what: str, broken: Tensor, pictures: Sequence[str]) -> dict[str, str]:
    """For each of `values` that is not finite, which pictures are to blame: those of `broken` (N,) bool."""
    blamed = broken.nonzero()[:, 0].tolist()
    if not blamed:
        return {}
    first = f"first {pictures[blamed[0]]!r}"
    reason = f"{what} of {len(blamed)} of {len(pictures)} pictures holds numbers that are not finite ({first})"
    return {name: reason for name, value in values.items() if not math.isfinite(value)}
