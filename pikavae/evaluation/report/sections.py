"""Defines the sections of a report as records: what stands in `report.json`, field by field.

A number that is not finite is None. A field that an earlier version did not write has a default, so that every report
can be read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from pikavae.workspace.records import Record

Numbers = Sequence[float | None]


class Baseline(Record):
    """Holds means over the pictures of reconstructions that need no model.

    Attributes:
        psnr: in dB.
        ssim: None if only a PSNR is known.
        bytes: of a picture.
        too_large: how many files are larger than the latent at the lowest quality; of codecs only.
        coded: how many pictures were coded; of codecs only.
    """

    psnr: float | None
    ssim: float | None
    bytes: float | None = None
    too_large: float | None = None
    coded: float | None = None


class ChannelNumbers(Record):
    """Holds the scores of one channel, means over the pictures.

    Attributes:
        psnr: in dB.
        ssim: of this channel alone.
        shift: the mean of the reconstruction minus that of the original, on [-1, 1], absolute value.
    """

    psnr: float | None
    ssim: float | None
    shift: float | None


class LatentNumbers(Record):
    """Holds statistics of the posteriors' modes.

    Attributes:
        channel_means: the mean of each channel, over pictures and positions.
        channel_stds: the deviation of each channel.
        unit_variances: the variance of each channel over pictures, mean over positions.
        non_finite_fraction: the share of the posteriors' numbers that are not finite.
        bytes: of a picture's latent in half precision.
    """

    channel_means: Numbers
    channel_stds: Numbers
    unit_variances: Numbers = ()
    non_finite_fraction: float
    bytes: float | None = None


class NoiseLevel(Record):
    """Holds the effect of noise of one size on latents, mean over pictures; None if a picture is not finite.

    Attributes:
        noise: a share of each channel's deviation, or `posterior`: the noise that training adds.
        latent_change: root mean square of the latent's change, in deviations of the latents.
        psnr: in dB, of the decoded picture against the one without noise, both clamped to [-1, 1].
        gain: root mean square of the picture's change on [-1, 1], not clamped, over `latent_change`: how much the
            decoder amplifies an error, a lower bound of its Lipschitz constant. None if the latent did not change.
    """

    noise: float | Literal["posterior"]
    latent_change: float | None
    psnr: float | None
    gain: float | None


class LatentViewNumbers(Record):
    """Holds numbers of the latents of the first pictures.

    Attributes:
        component_shares: the parts of the variance that the principal components explain, the largest first.
        smoothness: the effect of each noise; empty if latents do not vary.
    """

    component_shares: Sequence[float] = ()
    smoothness: Sequence[NoiseLevel] = ()


class HalfPrecision(Record):
    """Holds what a half format costs a model, on a few pictures.

    Attributes:
        num_images: how many pictures were tried.
        native: True if the device computed in the format itself.
        psnr: in dB, against the originals, mean.
        psnr_min: of the worst picture.
        psnr_in_float32: of the same pictures in float32, mean.
        psnr_to_float32: against the float32 reconstructions, mean.
        psnr_to_float32_min: of the farthest picture.
        max_difference: from the float32 reconstructions, on [-1, 1].
        latents_non_finite: the share of the latents' numbers that are not finite.
        pictures_non_finite: the share of the pictures' numbers that are not finite.
        peak: the largest magnitude inside the model in float32; None if it is not finite, or for a format with the
            range of float32.
        peak_layer: the layer with this peak.
        beyond: the peak of each layer that goes beyond the format's largest number, None if it is not finite.
        verdict: `fail` if the format is not to be used.
        reason: why, in words.
    """

    num_images: int
    native: bool
    psnr: float | None
    psnr_min: float | None
    psnr_in_float32: float | None
    psnr_to_float32: float | None
    psnr_to_float32_min: float | None
    max_difference: float | None
    latents_non_finite: float
    pictures_non_finite: float
    peak: float | None = None
    peak_layer: str | None = None
    beyond: Mapping[str, float | None] = Field(default_factory=dict)
    verdict: Literal["pass", "fail"]
    reason: str


class SizeNumbers(Record):
    """Holds the scores of pictures at one size.

    Attributes:
        size: in pixels.
        psnr: in dB, mean.
        ssim: mean.
        psnr_worst_tenth: the mean over the worst tenth of the pictures.
        bicubic_psnr: of plain scaling to the latent's size and back, because pictures are not equally hard at every
            size.
    """

    size: int
    psnr: float | None
    ssim: float | None
    psnr_worst_tenth: float | None
    bicubic_psnr: float | None


class TilingNumbers(Record):
    """Compares pictures that were reconstructed in tiles with the same model's reconstructions of the whole.

    Attributes:
        num_images: how many pictures.
        size: of the pictures, in pixels.
        tile: of a tile, in pixels.
        overlap: of two tiles, in pixels.
        psnr_whole: of the whole against the originals, mean.
        psnr_tiled: of the tiled against the originals, mean.
        psnr_to_whole: of the tiled against the whole, mean.
        psnr_to_whole_min: of the farthest picture.
        max_difference: of the tiled from the whole, on [-1, 1].
        rms_seams: over the pixels that more than one tile makes; None if there are none.
        rms_elsewhere: over the other pixels.
    """

    num_images: int
    size: int
    tile: int
    overlap: int
    psnr_whole: float | None
    psnr_tiled: float | None
    psnr_to_whole: float | None
    psnr_to_whole_min: float | None
    max_difference: float | None
    rms_seams: float | None
    rms_elsewhere: float | None


class OtherSizes(Record):
    """Holds a few pictures at other sizes and in tiles.

    Attributes:
        num_images: how many pictures.
        by_size: the scores at each size, from the smallest; empty if no other size was measured.
        tiled: None if no size is a megapixel or less.
    """

    num_images: int = 0
    by_size: Sequence[SizeNumbers] = ()
    tiled: TilingNumbers | None = None


class WholePictures(Record):
    """Holds whole pictures at their own resolution, reconstructed in tiles, where the set shows crops of them.

    Attributes:
        num_images: how many pictures; 0 if none was measured.
        largest_width: of the largest picture, in pixels.
        largest_height: of the same picture.
        tile: of a tile, in pixels.
        overlap: of two tiles, in pixels.
        psnr: in dB, mean over the pictures.
        psnr_min: of the worst picture.
        ssim: mean over the pictures.
        rms_seams: root mean square of the error against the original, on [-1, 1], over the pixels that more than one
            tile makes; None if there are none.
        rms_elsewhere: over the other pixels.
    """

    num_images: int = 0
    largest_width: int = 0
    largest_height: int = 0
    tile: int = 0
    overlap: int = 0
    psnr: float | None = None
    psnr_min: float | None = None
    ssim: float | None = None
    rms_seams: float | None = None
    rms_elsewhere: float | None = None


def finite(value: float) -> float | None:
    """Return the number as JSON holds it: None if it is not finite."""
    return value if math.isfinite(value) else None
