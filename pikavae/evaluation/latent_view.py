"""Latents that a person can look at: as colours, with noise on them, between two pictures, and of noise alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from pikavae.evaluation.components import Components, principal_components
from pikavae.evaluation.decoding import Decode, between, decode_each, noise_latents, pairs_of_one_shape
from pikavae.evaluation.latents import LatentStatistics
from pikavae.evaluation.measurement import Batch, Findings
from pikavae.evaluation.smoothness import Smoothness, smoothness
from pikavae.model.autoencoder import DiagonalGaussian

VIEWED_PICTURES = 8
"""The first pictures, whose latents are shown."""
NOISED_PICTURES = 4
"""The first of them, that noise is put on."""
WALKS, FRAMES = 2, 7
"""Pairs of pictures, and what is shown of the way from one to the other, both ends included."""
NOISE_PICTURES = 4
SEED = 0

PROTOCOL = {
    "smoothness": (
        f"mode + noise decoded, of the first {NOISED_PICTURES} pictures; noise of a share of each channel's deviation, "
        f"or of the posterior's own; PSNR against the mode decoded; gain: RMS change of the picture on [-1, 1], not "
        f"clamped, over RMS change of the latent / its deviation; means over these pictures; seed {SEED}"
    ),
    "component_shares": f"of the variance of the channels, over all positions of the first {VIEWED_PICTURES} pictures",
}


class Walk(NamedTuple):
    """From one of the viewed pictures to another: their indices, and (3, H, W) on the CPU for each frame."""

    first: int
    second: int
    frames: list[Tensor]


@dataclass(frozen=True)
class LatentView:
    """What is shown of the latents of the first pictures.

    Attributes:
        components: the latents as colours.
        smoothness: None where the latents do not vary, or are not finite.
        walks: on straight lines between the latents of pairs of one shape.
        noise: decoded noise of the latents' mean and deviation: (3, H, W) on the CPU; none where these are not finite.
    """

    components: Components
    smoothness: Smoothness | None
    walks: list[Walk]
    noise: list[Tensor]

    def numbers(self) -> dict[str, Any]:
        """For a report, as JSON values: a number that is not finite is None."""
        levels = [] if self.smoothness is None else self.smoothness.levels
        return {
            "component_shares": self.components.shares,
            "smoothness": [{name: _json_number(value) for name, value in level._asdict().items()} for level in levels],
        }


class LatentViewer:
    """Keeps the posteriors of the first pictures, and decodes what shows how their latents are laid out."""

    def __init__(self, decode: Decode, statistics: LatentStatistics, limit: int) -> None:
        """View at most `limit` pictures. `statistics` are of all pictures by the time that `result` is asked for."""
        self.decode = decode
        self.statistics = statistics
        self.limit = min(limit, VIEWED_PICTURES)
        self.view = LatentView(Components([], []), None, [], [])
        """Empty before `result` was asked for."""
        self._posteriors: dict[int, DiagonalGaussian] = {}

    def update(self, batch: Batch) -> None:
        """Keep what is among the first pictures, each alone: (1, Z, H/f, W/f)."""
        moments = zip(batch.posterior.mean, batch.posterior.logvar, strict=True)
        for index, (mean, logvar) in zip(batch.indices, moments, strict=True):
            if index < self.limit:
                self._posteriors[index] = DiagonalGaussian(mean[None].clone(), logvar[None].clone())

    def result(self) -> Findings:
        """The numbers of the view."""
        posteriors = [self._posteriors[index] for index in sorted(self._posteriors)]
        self.view = view_latents(self.decode, posteriors, self.statistics)
        return Findings(sections={"latent_view": self.view.numbers()}, protocol=PROTOCOL)


def view_latents(decode: Decode, posteriors: Sequence[DiagonalGaussian], statistics: LatentStatistics) -> LatentView:
    """Decode what shows how the latents of pictures are laid out.

    Args:
        decode: the decoder.
        posteriors: of at least one picture, each alone: (1, Z, H/f, W/f), on the decoder's device.
        statistics: of the whole set's latents.
    """
    modes = [posterior.mode() for posterior in posteriors]
    mean, std = statistics.mean, statistics.std
    finite = math.isfinite(mean) and math.isfinite(std)
    noised, noise = None, []
    if finite and std > 0.0:
        noised = smoothness(
            decode, posteriors[:NOISED_PICTURES], channel_stds=statistics.channel_stds, std=std, seed=SEED
        )
    if finite:
        drawn = noise_latents(modes[0].shape, NOISE_PICTURES, mean=mean, std=std, seed=SEED)
        noise = decode_each(decode, [one.to(modes[0]) for one in drawn])
    return LatentView(
        components=principal_components([mode[0] for mode in modes]),
        smoothness=noised,
        walks=[
            Walk(first, second, decode_each(decode, between(modes[first], modes[second], FRAMES)))
            for first, second in pairs_of_one_shape(modes, WALKS)
        ],
        noise=noise,
    )


def _json_number(value: float | str) -> float | str | None:
    return value if isinstance(value, str) or math.isfinite(value) else None
