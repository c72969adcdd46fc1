"""The numbers of the model's reconstructions: PSNR, SSIM, MS-SSIM and what `appearance.py` adds."""

from __future__ import annotations

import math

from torch import Tensor

from pikavae.evaluation.appearance import appearance, appearance_protocol
from pikavae.evaluation.measurement import Batch, Columns, Findings
from pikavae.evaluation.metrics import MS_SSIM_SMALLEST_SIDE, psnr_of_mse, ssim_and_ms_ssim

LACKING = {
    "ms_ssim": f"has both sides of at least {MS_SSIM_SMALLEST_SIDE} px, which its five scales need",
    "psnr_foreground": "shows more than a background of one colour",
    "flat_noise": "has a flat region",
    "high_frequency_ratio": "has high frequencies",
    "edge_error": "has an edge",
    "border_mse": "is larger than its border",
    "inside_mse": "is larger than its border",
}
PROTOCOL = {
    "psnr_pooled": "of the mean MSE over pictures",
    "ms_ssim": "Wang et al. 2003, bordering windows as in torchmetrics, on [0, 1]; negative contrasts count as 0",
}


class Scores:
    """Measures each reconstruction against its original, and the share of numbers that are not finite."""

    def __init__(self, num_images: int, factor: int) -> None:
        self.factor = factor
        self._scores = Columns(num_images)
        self._not_finite = 0
        self._count = 0

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        ssim, ms_ssim = ssim_and_ms_ssim(batch.reconstructions, batch.images)
        own = {
            "psnr": psnr_of_mse(batch.mse),
            "ssim": ssim,
            "mse": batch.mse,
            "ms_ssim": ms_ssim,
            **appearance(batch.reconstructions, batch.images, factor=self.factor),
        }
        self._scores.put(batch.indices, own)
        self._not_finite += int((~batch.reconstructions.isfinite()).sum())
        self._count += batch.reconstructions.numel()

    def result(self) -> Findings:
        """The scores, and what a mean hides."""
        psnr, mse = self._scores.values["psnr"], self._scores.values["mse"]
        return Findings(
            scores=self._scores.values,
            lacking=LACKING,
            metrics={
                "psnr_pooled": psnr_of_mse(mse.mean()).item(),
                "psnr_min": psnr.min().item(),
                "psnr_worst_tenth": worst_tenth(psnr),
                "non_finite_fraction": self._not_finite / self._count,
            },
            protocol={**PROTOCOL, **appearance_protocol()},
        )


def worst_tenth(psnr: Tensor) -> float:
    """The mean over the tenth of the pictures that has the lowest PSNR, rounded up: (N,); NaN is the lowest."""
    worst_first = psnr.nan_to_num(nan=-math.inf).argsort(stable=True)
    return psnr[worst_first[: math.ceil(len(psnr) / 10)]].mean().item()
