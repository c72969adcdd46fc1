"""Measures what a report says about the latents of its pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.evaluation.measure.measurement import Columns, Measured, MeasuredBatch, blame
from pikavae.evaluation.report.sections import LatentNumbers, finite
from pikavae.model.posterior import PointPosterior

BYTES = 2
"""Bytes for each number of a latent: half precision, in which latents are stored and used."""
PROTOCOL = {"bytes": f"a picture: {BYTES} for each number of the latent, or of what bicubic and constant need"}


class Posteriors:
    """Measures the posteriors: their KL, and the statistics of their modes."""

    def __init__(self, names: Sequence[str], latent_channels: int) -> None:
        self.names = names
        self.statistics = LatentStatistics(latent_channels)
        self._kl = Columns(len(names))
        self._numbers = 0
        self._is_point = False

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        self._kl.put(batch.indices, {"kl_nats": self.statistics.update(batch.posterior)})
        self._numbers += batch.posterior.mean.numel()
        self._is_point = isinstance(batch.posterior, PointPosterior)

    def result(self) -> Measured:
        """Return the KL of each picture, and what a diffusion model needs to know about the latents."""
        found = self.statistics
        return Measured(
            columns=self._kl.values,
            metrics={
                "kl_nats_per_image": found.kl_nats_per_image,
                "kl_nats_per_dimension": found.kl_nats_per_dimension,
                "latent_mean": found.mean,
                "latent_std": found.std,
                "scaling_factor": found.scaling_factor,
                "shift_factor": found.shift_factor,
                "active_units": found.active_units,
            },
            reasons=self._reasons(),
            latents=LatentNumbers(
                channel_means=_numbers(found.channel_means),
                channel_stds=_numbers(found.channel_stds),
                unit_variances=_numbers(found.unit_variances),
                non_finite_fraction=found.non_finite_fraction,
                bytes=BYTES * self._numbers / len(self.names),
            ),
            protocol=PROTOCOL,
        )

    def _reasons(self) -> dict[str, str]:
        """Return why numbers are not finite, by the metrics' names."""
        found = self.statistics
        reasons = {}
        if broken := blame("the posterior", ~self._kl.values["kl_nats"].isfinite(), self.names):
            names = ("kl_nats_per_image", "kl_nats_per_dimension", "latent_mean", "latent_std", "scaling_factor")
            reasons = dict.fromkeys((*names, "shift_factor", "active_units"), broken)
        if self._is_point:
            no_kl = "the latent is a point and no distribution, so that it has no KL"
            reasons |= dict.fromkeys(("kl_nats_per_image", "kl_nats_per_dimension"), no_kl)
        if found.std == 0.0:
            reasons["scaling_factor"] = "all latents are equal, so that their deviation is zero"
        if math.isnan(found.active_units):
            reasons.setdefault("active_units", "no two pictures are of one size, so that nothing varies between them")
        return reasons


def _numbers(values: Tensor) -> list[float | None]:
    """Convert values to JSON: None for a value that is not finite."""
    return [finite(value) for value in values.tolist()]
