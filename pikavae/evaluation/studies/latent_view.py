"""Makes latents visible: as colours, with noise added, between two pictures, and of noise alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from pikavae.data.pictures.form import RGB
from pikavae.data.prepared.shown import shown
from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.evaluation.measure.measurement import Measured, MeasuredBatch
from pikavae.evaluation.report.sections import LatentViewNumbers
from pikavae.evaluation.studies.decoding import Decode, between, decode_each, noise_latents, pairs_of_one_shape
from pikavae.evaluation.studies.smoothness import Smoothness, smoothness
from pikavae.model.posterior import DiagonalGaussian

VIEWED_PICTURES = 8
"""How many of the first pictures have their latents shown."""
NOISED_PICTURES = 4
"""How many of the viewed pictures get noise."""
WALKS, FRAMES = 2, 7
"""The number of pairs of pictures, and of frames on the way from one to the other, both ends included."""
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

COLOURS = 3
DEVIATIONS_SHOWN = 2.5
"""A component that is this many of its deviations from its mean is shown as black or as full colour."""
NO_VARIANCE = 1e-12
"""A variance below this share of the latents' mean square is only float32's rounding."""


class Walk(NamedTuple):
    """Holds the way from one viewed picture to another: their indices, and (C, H, W) on the CPU for each frame."""

    first: int
    second: int
    frames: list[Tensor]


@dataclass(frozen=True)
class LatentView:
    """Holds what is shown of the latents of the first pictures.

    Attributes:
        components: the latents as colours.
        smoothness: None if the latents do not vary or are not finite.
        walks: on straight lines between the latents of pairs of one shape.
        noise: decoded noise of the latents' mean and deviation: (C, H, W) on the CPU; empty if these are not finite.
    """

    components: Components
    smoothness: Smoothness | None
    walks: list[Walk]
    noise: list[Tensor]

    def seen(self, channels: Sequence[str]) -> LatentView:
        """Return the view with its decoded pictures, of these channels, as people see them: (3, H, W) each."""

        def see(pictures: Sequence[Tensor]) -> list[Tensor]:
            return [shown(picture[None], channels)[0] for picture in pictures]

        walks = [walk._replace(frames=see(walk.frames)) for walk in self.walks]
        noised = self.smoothness and replace(self.smoothness, examples=see(self.smoothness.examples))
        return LatentView(self.components, noised, walks, see(self.noise))

    def numbers(self) -> LatentViewNumbers:
        """Return the numbers for a report."""
        levels = [] if self.smoothness is None else self.smoothness.levels
        return LatentViewNumbers(component_shares=self.components.shares, smoothness=levels)


class LatentViewer:
    """Keeps the posteriors of the first pictures, and decodes pictures that show how their latents are laid out."""

    def __init__(self, decode: Decode, statistics: LatentStatistics, limit: int, channels: Sequence[str] = RGB) -> None:
        """View at most `limit` pictures, of these channels. `statistics` must cover all pictures before `result`."""
        self.decode, self.channels = decode, channels
        self.statistics = statistics
        self.limit = min(limit, VIEWED_PICTURES)
        self.view = LatentView(Components([], []), None, [], [])
        """The view, empty until `result` is called."""
        self._posteriors: dict[int, DiagonalGaussian] = {}

    def update(self, batch: MeasuredBatch) -> None:
        """Keep the posteriors of the first pictures, one each: (1, Z, H/f, W/f)."""
        moments = zip(batch.posterior.mean, batch.posterior.logvar, strict=True)
        for index, (mean, logvar) in zip(batch.indices, moments, strict=True):
            if index < self.limit:
                self._posteriors[index] = DiagonalGaussian(mean[None].clone(), logvar[None].clone())

    def result(self) -> Measured:
        """Decode the view and return its numbers."""
        posteriors = [self._posteriors[index] for index in sorted(self._posteriors)]
        self.view = view_latents(self.decode, posteriors, self.statistics).seen(self.channels)
        return Measured(latent_view=self.view.numbers(), protocol=PROTOCOL)


def view_latents(decode: Decode, posteriors: Sequence[DiagonalGaussian], statistics: LatentStatistics) -> LatentView:
    """Decode pictures that show how the latents of pictures are laid out.

    Args:
        decode: the decoder.
        posteriors: at least one, each of one picture: (1, Z, H/f, W/f), on the decoder's device.
        statistics: statistics of the whole set's latents.
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


@dataclass(frozen=True)
class Components:
    """Shows latents as pictures.

    Attributes:
        images: (3, h, w) float32 in [-1, 1] for each latent, or NaN if the latent is not finite.
        shares: the parts of the variance that the components explain, from the largest down: at most three, and fewer
            if the latent has fewer channels; none if the latents do not vary, or none is finite.
    """

    images: list[Tensor]
    shares: list[float]


def principal_components(latents: Sequence[Tensor]) -> Components:
    """Show latents (Z, h, w), of one Z, by the principal components of their channels over all positions.

    A component's largest loading is positive and mid grey is its mean. The same latents therefore give the same bytes.
    Each component is scaled by its own deviation; the shares show how much it counts. The components become red, green
    and blue. A single channel becomes grey; with two channels, blue remains in the middle.

    Latents that are not finite do not change the components of the others.
    """
    flat = [latent.cpu().double().flatten(1) for latent in latents]  # (Z, h*w) each
    finite = [values for values in flat if bool(values.isfinite().all())]
    if not finite:
        return Components([_to_colours(torch.full_like(latent, torch.nan)) for latent in latents], [])
    positions = torch.cat(finite, dim=1)  # (Z, P)
    mean = positions.mean(dim=1, keepdim=True)
    variances, axes = torch.linalg.eigh((positions - mean) @ (positions - mean).T / positions.shape[1])
    variances, axes = variances.flip(0)[:COLOURS], axes.flip(1)[:, :COLOURS]  # (K,), (Z, K), the largest first
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    total = (positions - mean).square().mean(dim=1).sum().item()
    varies = variances > NO_VARIANCE * positions.square().mean(dim=1).sum()
    scale = torch.where(varies, largest.sign() / (DEVIATIONS_SHOWN * variances.abs().sqrt()), 0.0).flatten()
    shown = [scale[:, None] * (axes.T @ (values - mean)) for values in flat]  # (K, h*w) each
    images = [_to_colours(one.unflatten(1, latent.shape[1:])) for one, latent in zip(shown, latents, strict=True)]
    return Components(images, [value / total for value in variances[varies].tolist()])


def _to_colours(components: Tensor) -> Tensor:
    """Turn at most three of the components (K, h, w) into a picture (3, h, w) float32 in [-1, 1]."""
    shown = components[:COLOURS].clamp(-1.0, 1.0).float()
    if len(shown) == 1:
        return shown.expand(COLOURS, -1, -1)
    return torch.cat([shown, torch.zeros_like(shown[: COLOURS - len(shown)])])
