"""Rank trials by a metric of their reports: the better way follows from the project's table of metrics."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.evaluation.metrics.definitions import COMPARED, METRICS
from pikavae.evaluation.metrics.metric import Metric
from pikavae.evaluation.metrics.similarity import MS_SSIM_SMALLEST_SIDE
from pikavae.evaluation.report.report import Report
from pikavae.features.published import LPIPS_FIELD, OF_EVALUATION
from pikavae.presets import did_you_mean

DURING_TRAINING = {"psnr": "val/psnr", "ssim": "val/ssim"}
"""The metrics that a training measures too, and the names of their curves: by these trials can be pruned."""


@dataclass(frozen=True)
class Objective:
    """Describes what trials are ranked by: the mean of a metric over the validation pictures.

    If the metric's best value is a number, as for sharpness, it is the mean of the distances from it.
    """

    metric: Metric

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Return which way is better, in Optuna's word."""
        return "maximize" if self.metric.sign() > 0 else "minimize"

    @property
    def curve(self) -> str | None:
        """Return the name of the curve that shows the metric during a training; None if it is not measured there."""
        return DURING_TRAINING.get(self.metric.name)

    @property
    def title(self) -> str:
        """Return what pages call it, with its unit."""
        return self.metric.heading if not isinstance(self.metric.better, float) else self.metric.label

    def score(self, report: Report) -> float | None:
        """Return a report's score; None if none of its pictures has the metric."""
        values = [value for one in report.per_image if (value := getattr(one, self.metric.name)) is not None]
        if not values:
            return None
        best = self.metric.better
        return fmean(abs(value - best) for value in values) if isinstance(best, float) else fmean(values)

    def reason(self, report: Report) -> str:
        """Return why a report has no score."""
        return report.reasons.get(self.metric.name, f"no picture has {self.metric.name}")

    def is_better(self, score: float, other: float) -> bool:
        """Return True if a score is better than another."""
        return self.metric.sign() * (score - other) > 0


def objective_of(name: str, config: Config) -> Objective:
    """Return the objective of a metric.

    Raises:
        UserError: there is no such metric, none of its values is better than another, or it cannot be measured here.
    """
    allowed = [metric.name for metric in COMPARED]
    if name not in allowed:
        if name in METRICS:
            what = "the table of metrics does not say which of its values is better"
        else:
            what = "no such metric"
        hint = did_you_mean(name, allowed) or f"use one of {', '.join(allowed)}"
        raise UserError(f"--metric {name!r}: {what}; {hint}")
    if name == "lpips" and OF_EVALUATION[LPIPS_FIELD].find(config.evaluation.lpips_weights, LPIPS_FIELD) is None:
        raise UserError("--metric lpips: VGG16's weights are missing; name their file in evaluation.lpips_weights")
    if name == "ms_ssim" and config.data.image_size < MS_SSIM_SMALLEST_SIDE:
        raise UserError(
            f"--metric ms_ssim: pictures of data.image_size {config.data.image_size} have none; it needs sides of "
            f"{MS_SSIM_SMALLEST_SIDE} pixels"
        )
    return Objective(METRICS[name])
