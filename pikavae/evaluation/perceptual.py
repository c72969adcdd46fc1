"""LPIPS of each reconstruction: how far it is from its original in the features of VGG16."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pikavae.evaluation.measurement import Batch, Columns, Findings
from pikavae.features.lpips import LPIPS, SMALLEST_SIDE
from pikavae.features.weights import LPIPS_FIELD, VGG16

LACKING = {"lpips": f"has both sides of at least {SMALLEST_SIDE} px, which VGG16 needs"}


class Perceptual:
    """Measures LPIPS where VGG16's weights are there, and says what is missing where they are not."""

    def __init__(self, num_images: int, weights: str | None, device: torch.device) -> None:
        """Read the weights.

        Args:
            num_images: of the set.
            weights: the file that `evaluation.lpips_weights` names; without it, the one in torch's cache.
            device: where to compute.

        Raises:
            UserError: the named file is not there, or a file holds something else.
        """
        path = VGG16.find(weights, LPIPS_FIELD)
        self._network = LPIPS(path, LPIPS_FIELD).to(device) if path else None
        self._described = VGG16.described(path) if path else ""
        self._scores = Columns(num_images)

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        if self._network is not None:
            self._scores.put(batch.indices, {"lpips": self._distances(self._network, batch)})

    def _distances(self, network: LPIPS, batch: Batch) -> Tensor:
        """(B,), NaN for small pictures and for reconstructions that are not finite."""
        if min(batch.images.shape[-2:]) < SMALLEST_SIDE:
            return torch.full_like(batch.mse, math.nan)
        shown = batch.reconstructions.float().clamp(-1.0, 1.0)
        # One by one: so the batch's size decides neither the numbers nor the memory.
        pairs = zip(shown, batch.images, strict=True)
        distances = torch.cat([network(reconstruction[None], image[None]) for reconstruction, image in pairs])
        return distances.masked_fill(batch.mse.isnan(), math.nan)

    def result(self) -> Findings:
        """LPIPS of each picture."""
        if self._network is None:
            return Findings(metrics={"lpips": math.nan}, reasons={"lpips": VGG16.absence(LPIPS_FIELD)})
        return Findings(
            scores=self._scores.values,
            lacking=LACKING,
            protocol={
                "lpips": f"Zhang et al. 2018, version 0.1, {self._described}; float32, neither resized nor rounded"
            },
        )
