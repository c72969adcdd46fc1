"""Measures reconstructions that need no model; a trained model must be better."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from pikavae.data.prepared.dataset import HALVES
from pikavae.evaluation.measure.measurement import Columns, EvaluationSet, Measured, MeasuredBatch
from pikavae.evaluation.measure.posteriors import BYTES
from pikavae.evaluation.metrics.similarity import psnr, psnr_of_mse, ssim
from pikavae.evaluation.report.sections import Baseline

ORIGINAL_BAR_MSE = 0.045
"""The original tutorial calls a model good when the MSE on [-1, 1], summed over 200 pictures, is under 9."""


def mean_colour(batches: Iterable[Tensor]) -> Tensor:
    """Return the mean colour of batches (B, C, H, W) uint8 or uint16: (C,) float64 in [-1, 1]."""
    total, count, half = torch.zeros(1, dtype=torch.int64), 0, 1.0  # sums of integers are exact, whatever the batches
    for pixels in batches:
        total = total + pixels.sum(dim=(0, 2, 3), dtype=torch.int64)
        count, half = count + pixels.shape[0] * pixels.shape[2] * pixels.shape[3], HALVES[pixels.dtype]
    return total.double() / count / half - 1.0


def constant(images: Tensor, colour: Tensor) -> Tensor:
    """Replace each picture by one colour (C,), the whole set's mean, in the shape and dtype of `images`."""
    return colour.to(images)[None, :, None, None].expand_as(images)


def bicubic(images: Tensor, factor: int) -> Tensor:
    """Scale pictures (B, C, H, W) down to the latent's H/factor x W/factor and back, by Pillow's BICUBIC.

    `antialias` selects Pillow's kernel (Keys 1981, a = -0.5, widened when scaling down); torch's own has a = -0.75.
    The result is float32 and may leave [-1, 1] at edges.
    """
    height, width = images.shape[2:]
    small = F.interpolate(images, size=(height // factor, width // factor), mode="bicubic", antialias=True)
    return F.interpolate(small, size=(height, width), mode="bicubic", antialias=True)


def original_bar() -> float:
    """Return the PSNR in dB of the original tutorial's bar for "good": 19.49."""
    return psnr_of_mse(torch.tensor(ORIGINAL_BAR_MSE, dtype=torch.float64)).item()


class Baselines:
    """Measures baselines on the same pictures, on the CPU, so that they do not depend on where the model runs."""

    def __init__(self, picture_set: EvaluationSet, factor: int, batch_size: int) -> None:
        self.factor = factor
        self.num_images = len(picture_set)
        self.colour = mean_colour(picture_set.pixels(indices) for indices in picture_set.batches(batch_size))
        self._scores = {name: Columns(len(picture_set)) for name in ("bicubic", "constant")}
        self._pixels = 0

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        images = batch.images.cpu()
        made = {"bicubic": bicubic(images, self.factor), "constant": constant(images, self.colour)}
        for name, baseline in made.items():
            shown = baseline.to(batch.images.device)
            scores = {"psnr": psnr(shown, batch.images), "ssim": ssim(shown, batch.images)}
            self._scores[name].put(batch.indices, scores)
        self._pixels += images[:, 0].numel()

    def result(self) -> Measured:
        """Return the means, and bicubic's PSNR of each picture."""
        pixel = len(self.colour) * BYTES
        sizes = {"bicubic": pixel * self._pixels / self.factor**2 / self.num_images, "constant": float(pixel)}
        means = {
            baseline: Baseline(
                **{name: values.mean().item() for name, values in scores.values.items()}, bytes=sizes[baseline]
            )
            for baseline, scores in self._scores.items()
        }
        bar = Baseline(psnr=original_bar(), ssim=None, bytes=None)
        return Measured(
            columns={"bicubic_psnr": self._scores["bicubic"].values["psnr"]},
            baselines={**means, "original_bar": bar},
        )
