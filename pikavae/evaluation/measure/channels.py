"""Measures each channel of pictures that are not RGB, whose mean could hide a bad one."""

from __future__ import annotations

from collections.abc import Sequence

from pikavae.data.pictures.form import RGBA, colours_of
from pikavae.evaluation.measure.measurement import Columns, Measured, MeasuredBatch
from pikavae.evaluation.metrics.appearance import colour_shift
from pikavae.evaluation.metrics.similarity import psnr, ssim
from pikavae.evaluation.report.sections import ChannelNumbers, finite

WORDS = "where a metric speaks of colours or of RGB, it is over all channels"
PREMULTIPLIED = "colours are multiplied by alpha, so that what is invisible has no error"


class ChannelScores:
    """Computes PSNR, SSIM and shift of each channel."""

    def __init__(self, num_images: int, channels: Sequence[str]) -> None:
        self._channels = channels
        self._scores = [Columns(num_images) for _ in channels]

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        shift = colour_shift(batch.reconstructions, batch.images).abs()
        for place, scores in enumerate(self._scores):
            made, truth = (x[:, place : place + 1] for x in (batch.reconstructions, batch.images))
            numbers = {"psnr": psnr(made, truth), "ssim": ssim(made, truth), "shift": shift[:, place]}
            scores.put(batch.indices, numbers)

    def result(self) -> Measured:
        """Return the means over the pictures."""
        found = {
            name: ChannelNumbers(**{key: finite(values.mean().item()) for key, values in scores.values.items()})
            for name, scores in zip(self._channels, self._scores, strict=True)
        }
        parts = [", ".join(self._channels), WORDS, *([PREMULTIPLIED] if tuple(self._channels) == RGBA else [])]
        protocol = {"channels": "; ".join(parts), "shown": colours_of(self._channels)}
        return Measured(channels=found, protocol=protocol)
