"""Measures each picture: all metrics that need no network's weights, and LPIPS."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pikavae.config import CHANNELS
from pikavae.data.pictures.form import RGB
from pikavae.data.prepared.shown import as_rgb, describe_rgb, why_no_rgb
from pikavae.evaluation.measure.measurement import Columns, Measured, MeasuredBatch
from pikavae.evaluation.metrics.definitions import COMPUTED
from pikavae.evaluation.metrics.similarity import psnr_of_mse
from pikavae.features.lpips import LPIPS, SMALLEST_SIDE
from pikavae.features.published import LPIPS_FIELD, VGG16


class Scores:
    """Computes the metrics of each picture, and the share of the reconstructions' numbers that are not finite."""

    def __init__(self, num_images: int) -> None:
        self._scores = Columns(num_images)
        self._not_finite = 0
        self._count = 0

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        for compute in dict.fromkeys(metric.compute for metric in COMPUTED):
            if compute is not None:
                self._scores.put(batch.indices, compute(batch))
        self._not_finite += int((~batch.reconstructions.isfinite()).sum())
        self._count += batch.reconstructions.numel()

    def result(self) -> Measured:
        """Return the scores, and the numbers that a mean hides."""
        psnr, mse = self._scores.values["psnr"], self._scores.values["mse"]
        return Measured(
            scores=self._scores.values,
            metrics={
                "psnr_pooled": psnr_of_mse(mse.mean()).item(),
                "psnr_min": psnr.min().item(),
                "psnr_worst_tenth": worst_tenth_psnr(psnr),
                "non_finite_fraction": self._not_finite / self._count,
            },
        )


def worst_tenth_psnr(psnr: Tensor) -> float:
    """Return the mean of PSNR (N,) over its lowest tenth, rounded up; NaN is the lowest."""
    worst_first = psnr.nan_to_num(nan=-math.inf).argsort(stable=True)
    return psnr[worst_first[: math.ceil(len(psnr) / 10)]].mean().item()


class Perceptual:
    """Measures LPIPS with VGG16's weights, or reports what is missing without them."""

    def __init__(
        self, num_images: int, weights: str | None, device: torch.device, channels: Sequence[str] = RGB
    ) -> None:
        """Read the weights, unless the pictures' channels are no colours.

        Args:
            num_images: the number of pictures in the set.
            weights: the file that `evaluation.lpips_weights` names; if None, the file in torch's cache.
            device: where to compute.
            channels: the names of a picture's channels.

        Raises:
            UserError: the named file is missing, or a file holds something else.
        """
        self._is_defined, self._seen = tuple(channels) in CHANNELS.values(), describe_rgb(channels)
        self._why_not = VGG16.absence(LPIPS_FIELD) if self._is_defined else why_no_rgb(channels)
        path = VGG16.find(weights, LPIPS_FIELD) if self._is_defined else None
        self._network = LPIPS(path, LPIPS_FIELD).to(device) if path else None
        self._described = VGG16.describe(path) if path else ""
        self._scores = Columns(num_images)

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        if self._network is not None:
            self._scores.put(batch.indices, {"lpips": self._distances(self._network, batch)})

    def _distances(self, network: LPIPS, batch: MeasuredBatch) -> Tensor:
        """Return LPIPS of each picture (B,), NaN for small pictures and for reconstructions that are not finite."""
        if min(batch.images.shape[-2:]) < SMALLEST_SIDE:
            return torch.full_like(batch.mse, math.nan)
        made, truth = (
            as_rgb(images, batch.channels) for images in (batch.reconstructions.float().clamp(-1.0, 1.0), batch.images)
        )
        assert made is not None, batch.channels
        assert truth is not None, batch.channels
        # One pair at a time: the batch's size then decides neither the numbers nor the memory.
        pairs = zip(made, truth, strict=True)
        distances = torch.cat([network(reconstruction[None], image[None]) for reconstruction, image in pairs])
        return distances.masked_fill(batch.mse.isnan(), math.nan)

    def result(self) -> Measured:
        """Return LPIPS of each picture, or why there is none."""
        if self._network is None:
            return Measured(metrics={"lpips": math.nan}, reasons={"lpips": self._why_not})
        words = f"Zhang et al. 2018, version 0.1, {self._described}; float32, neither resized nor rounded"
        return Measured(
            scores=self._scores.values, protocol={"lpips": f"{words}, {self._seen}" if self._seen else words}
        )
