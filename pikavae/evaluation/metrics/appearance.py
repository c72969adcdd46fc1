"""Measures what people see in a reconstruction and PSNR hides: colour, noise, sharpness, edges, borders, foreground.

The functions are pure and return one float64 number for each picture. Pictures have the range [-1, 1]; reconstructions
are clamped to it (`similarity.comparable`). If a reconstruction has a number that is not finite, all its results are
NaN. A result is also NaN if the original lacks what a function measures; the function's docstring says when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pikavae.evaluation.metrics.similarity import comparable, psnr_of_mse

LEVEL = 2.0 / 255.0
"""One step of 8-bit pictures on [-1, 1]."""
FLAT_RANGE = 2.5 * LEVEL
"""Colours that differ by at most two steps, as JPEG leaves them, are one flat colour; half a step absorbs rounding."""
FLAT_STEPS = (1, 2, 3)
FLAT_WINDOW = 1 + sum(FLAT_STEPS)
EDGE_GRADIENT = 0.1
"""The gradient of an edge, on [-1, 1] per pixel: the least that a sharp step of a tenth of the range has."""
HIGH_FREQUENCY = 0.25
"""Cycles per pixel above which a frequency is high: half of the Nyquist frequency."""
HIGH_FREQUENCY_FLOOR = LEVEL / math.sqrt(12.0)
"""The deviation of rounding to 8 bits: an original with less in the band has no high frequencies of its own."""
COLOURS = ("red", "green", "blue")
LUMA = (0.299, 0.587, 0.114)
"""The weights of gamma-encoded R, G, B in the luma (ITU-R BT.601)."""


def colour_shift(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Measure how much too bright each colour is: mean of the reconstruction minus mean of the original, on [-1, 1].

    Args:
        reconstructions: (B, C, H, W) of any floating dtype; clamped here.
        images: the same shape, in [-1, 1].

    Returns:
        (B, C) float64 for each channel.

    Raises:
        ValueError: the shapes differ.
    """
    shown, truth = comparable(reconstructions, images)
    shift = (shown - truth).mean(dim=(2, 3))
    return shift.masked_fill(shift.isnan().any(dim=1, keepdim=True), math.nan)


def flat_noise(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Measure the noise in regions of one flat colour: the standard deviation of the error, on [-1, 1].

    A window of 7 x 7 px is flat if no colour of the original varies by more than two steps of 8 bits. Each colour of a
    flat window has the error's sample variance s^2 = sum((e - mean(e))^2) / 48. The result is the root of the mean s^2
    over flat windows and colours. For white noise it is the noise's deviation. A wrong but even colour adds nothing
    (`colour_shift` measures it). Arguments and errors are those of `colour_shift`.

    Returns:
        (B,) float64; NaN for an original without a flat window.
    """
    shown, truth = comparable(reconstructions, images)
    if min(truth.shape[-2:]) < FLAT_WINDOW:
        return torch.full_like(truth[:, 0, 0, 0], math.nan)
    short = truth.float()  # half the bytes, and 8-bit pictures lose nothing
    spread = _window_max(short) + _window_max(-short)  # (B, C, H - 6, W - 6), the largest minus the smallest
    flat = (spread <= FLAT_RANGE).all(dim=1, keepdim=True)
    error = shown - truth
    error = error - error.mean(dim=(2, 3), keepdim=True)  # leaves more digits for the deviation
    variance = (_window_mean(error.square()) - _window_mean(error).square()).clamp(min=0.0)
    size = FLAT_WINDOW**2
    return (_mean_where(flat, variance) * size / (size - 1)).sqrt()


def high_frequency_ratio(reconstructions: Tensor, images: Tensor, channels: Sequence[str] = COLOURS) -> Tensor:
    """Divide the reconstruction's high-frequency energy by the original's: under 1 is blurred, over 1 is noisy.

    Without red, green and blue among the `channels`, the mean of the channels takes the place of luma.

    The energy is sum |FFT(w * luma)|^2 over the frequencies with sqrt(fx^2 + fy^2) > 1/4 cycle per pixel, half of the
    Nyquist frequency. The Hann window w (Harris 1978) excludes the jump from each border to the opposite one.
    Arguments and errors are those of `colour_shift`.

    Returns:
        (B,) float64; NaN if the original's deviation in the band is below that of rounding to 8 bits.
    """
    shown, truth = comparable(reconstructions, images)
    energy, own = (_high_frequency_energy(one, luma_weights(channels)) for one in (shown, truth))
    return (energy / own).masked_fill(own < HIGH_FREQUENCY_FLOOR**2, math.nan)


def edge_error(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Measure the mean absolute error on the original's edges, over pixels and colours, on [-1, 1].

    A pixel is on an edge if the Sobel gradient of any colour, sqrt(gx^2 + gy^2) / 8 per pixel, is above 0.1: a sharp
    step of height h has h / 2 on either side. Pixels on the border have no gradient. Arguments and errors are those of
    `colour_shift`.

    Returns:
        (B,) float64; NaN for an original without an edge.
    """
    shown, truth = comparable(reconstructions, images)
    edges = (_squared_gradient(truth) > EDGE_GRADIENT**2).any(dim=1, keepdim=True)
    return _mean_where(F.pad(edges, (1, 1, 1, 1)), (shown - truth).abs())


def border_and_inside_mse(reconstructions: Tensor, images: Tensor, width: int) -> Tensor:
    """Measure the mean squared error on the frame of the outer `width` pixels, and inside it, on [-1, 1].

    Args:
        reconstructions: (B, C, H, W) of any floating dtype; clamped here.
        images: the same shape, in [-1, 1].
        width: of the frame, in pixels; the model's downsampling factor gives those of the latent's outermost positions.

    Returns:
        (B, 2) float64; NaN for pictures that the frame fills.

    Raises:
        ValueError: the shapes differ.
    """
    shown, truth = comparable(reconstructions, images)
    error = (shown - truth).square()
    inside = error[..., width:-width, width:-width]
    if inside.numel() == 0:
        return torch.full_like(error[:, :2, 0, 0], math.nan)
    sides = error[..., width:-width, :width], error[..., width:-width, -width:]
    frame = torch.stack([x.sum(dim=(1, 2, 3)) for x in (error[..., :width, :], error[..., -width:, :], *sides)]).sum(0)
    border = frame / (error[0].numel() - inside[0].numel())
    # A number that is not finite in one part makes both parts NaN.
    return torch.stack([border + 0.0 * inside.sum(dim=(1, 2, 3)), inside.mean(dim=(1, 2, 3)) + 0.0 * frame], dim=1)


def psnr_foreground(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Compute PSNR in dB over the pixels that are not background, if one flat colour fills over half of the original.

    The background is the pixels within two steps of 8 bits of the median colour, if they are more than half: then each
    colour's median is the background's. Without a background all pixels count, and the result is `similarity.psnr`.
    Arguments and errors are those of `colour_shift`.

    Returns:
        (B,) float64, at most 100; NaN for an original that is all background.
    """
    shown, truth = comparable(reconstructions, images)
    median = truth.float().flatten(2).median(dim=2).values[..., None, None]
    background = ((truth - median).abs() <= FLAT_RANGE).all(dim=1, keepdim=True)
    share = background.double().mean(dim=(1, 2, 3), keepdim=True)
    return psnr_of_mse(_mean_where(~background | (share <= 0.5), (shown - truth).square()))


def luma_weights(channels: Sequence[str]) -> list[float]:
    """Return the weight of each channel in the luma: those of R, G, B, or equal ones if not all three are there."""
    if all(colour in channels for colour in COLOURS):
        return [LUMA[COLOURS.index(name)] if name in COLOURS else 0.0 for name in channels]
    return [1.0 / len(channels)] * len(channels)


def appearance(
    reconstructions: Tensor, images: Tensor, *, factor: int, channels: Sequence[str] = COLOURS
) -> dict[str, Tensor]:
    """Compute all of this module's numbers, (B,) float64 each, by their names in a report.

    Args:
        reconstructions: (B, C, H, W) of any floating dtype; clamped here.
        images: the same shape, in [-1, 1].
        factor: the model's downsampling factor.
        channels: the names of the channels; a shift of red, green or blue without such a channel is NaN.

    Raises:
        ValueError: the shapes differ.
    """
    shifts = dict(zip(channels, colour_shift(reconstructions, images).unbind(dim=1), strict=True))
    absent = torch.full_like(shifts[channels[0]], math.nan)
    red, green, blue = (shifts.get(name, absent) for name in COLOURS)
    border, inside = border_and_inside_mse(reconstructions, images, factor).unbind(dim=1)
    return {
        "psnr_foreground": psnr_foreground(reconstructions, images),
        "colour_shift_red": red,
        "colour_shift_green": green,
        "colour_shift_blue": blue,
        "flat_noise": flat_noise(reconstructions, images),
        "high_frequency_ratio": high_frequency_ratio(reconstructions, images, channels),
        "edge_error": edge_error(reconstructions, images),
        "border_mse": border,
        "inside_mse": inside,
    }


def _mean_where(mask: Tensor, values: Tensor) -> Tensor:
    """Average values (B, C, h, w) where the mask (B, 1, h, w) is set: (B,), NaN for a picture without a set position.

    A NaN anywhere in a picture, inside the mask or not, makes its mean NaN.
    """
    return (values * mask).sum(dim=(1, 2, 3)) / (mask.sum(dim=(1, 2, 3)) * values.shape[1])


def _window_max(x: Tensor) -> Tensor:
    """Return the maximum of each window of 7 x 7: (B, C, H, W) to (B, C, H - 6, W - 6)."""
    # The maximum of two neighbours, then of two pairs, then of two fours, which may overlap: cheaper than pooling.
    for dim in (-2, -1):
        for step in FLAT_STEPS:
            size = x.shape[dim] - step
            x = torch.maximum(x.narrow(dim, 0, size), x.narrow(dim, step, size))
    return x


def _window_mean(x: Tensor) -> Tensor:
    """Return the mean of each window of 7 x 7, in the shapes of `_window_max`; two passes cost less than one."""
    return F.avg_pool2d(F.avg_pool2d(x, (FLAT_WINDOW, 1), stride=1), (1, FLAT_WINDOW), stride=1)


def _high_frequency_energy(images: Tensor, weights: Sequence[float]) -> Tensor:
    """Compute the mean square of the windowed luma's part above `HIGH_FREQUENCY`: (B, C, H, W) to (B,)."""
    height, width = images.shape[-2:]
    luma = (images * images.new_tensor(weights).view(-1, 1, 1)).sum(dim=1)
    down, across = (torch.hann_window(side, dtype=images.dtype, device=images.device) for side in (height, width))
    window = down[:, None] * across
    power = torch.fft.fft2(luma * window).abs().square()  # (B, H, W)
    fy, fx = (torch.fft.fftfreq(side, dtype=images.dtype, device=images.device) for side in (height, width))
    band = torch.hypot(fy[:, None], fx) > HIGH_FREQUENCY
    # Parseval's theorem: the sum over frequencies is H W times the sum over pixels.
    energy: Tensor = (power * band).sum(dim=(1, 2)) / (height * width * window.square().sum())
    return energy


def _squared_gradient(images: Tensor) -> Tensor:
    """Compute the squared Sobel gradient of each pixel and colour: (B, C, H, W) to (B, C, H - 2, W - 2)."""
    across = images[..., :-2, :] + 2.0 * images[..., 1:-1, :] + images[..., 2:, :]
    down = images[..., :-2] + 2.0 * images[..., 1:-1] + images[..., 2:]
    gx, gy = across[..., 2:] - across[..., :-2], down[..., 2:, :] - down[..., :-2, :]
    return (gx * gx + gy * gy) / 64.0
