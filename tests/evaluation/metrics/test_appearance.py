import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import hann
from skimage.color import rgb2ycbcr
from skimage.filters import sobel_h, sobel_v
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor

from pikavae.evaluation.metrics.appearance import (
    LEVEL,
    appearance,
    border_and_inside_mse,
    colour_shift,
    edge_error,
    flat_noise,
    high_frequency_ratio,
    psnr_foreground,
)
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.metrics.similarity import psnr
from pikavae.evaluation.report.report import ImageScore
from tests.evaluation.metrics.test_similarity import drawn_pair, random_pair, real_pairs

FACTOR = 4
PAIRS = [lambda: random_pair(3, 3, 20, 27), lambda: random_pair(2, 3, 9, 9), drawn_pair, real_pairs]


def arrays(pair: tuple[Tensor, Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Reconstruction and original of each picture, (3, H, W) float64."""
    return [(y.double().numpy(), x.double().numpy()) for y, x in zip(*pair, strict=True)]


def grey(plane: np.ndarray) -> Tensor:
    """A plane (H, W) as a picture of three equal colours: (1, 3, H, W)."""
    return torch.from_numpy(plane)[None, None].expand(1, 3, *plane.shape)


def cosine(height: int, width: int, cycles_per_pixel: float, amplitude: float) -> Tensor:
    wave = amplitude * np.cos(2 * np.pi * cycles_per_pixel * np.arange(width))
    return grey(np.broadcast_to(wave, (height, width)).copy())


def step(height: float, *, side: int = 16) -> Tensor:
    """Left half 0, right half `height`."""
    plane = np.zeros((side, side))
    plane[:, side // 2 :] = height
    return grey(plane)


def reference_flat_noise(y: np.ndarray, x: np.ndarray) -> float:
    windows = [np.lib.stride_tricks.sliding_window_view(z, (7, 7), axis=(1, 2)) for z in (x, y - x)]
    flat = (np.ptp(windows[0], axis=(3, 4)) * 127.5 < 2.5).all(axis=0)
    variances = windows[1].var(axis=(3, 4), ddof=1)[:, flat]
    return float(np.sqrt(variances.mean())) if variances.size else math.nan


def reference_high_frequency_ratio(y: np.ndarray, x: np.ndarray) -> float:
    energies = []
    for picture in (y, x):
        luma = (rgb2ycbcr(0.5 * (picture + 1), channel_axis=0)[0] - 16) * 2 / 219 - 1  # scikit-image's is BT.601's Y'
        height, width = luma.shape
        spectrum = np.fft.fftshift(np.fft.fft2(luma * np.outer(hann(height, sym=False), hann(width, sym=False))))
        fy, fx = (np.fft.fftshift(np.fft.fftfreq(side)) for side in (height, width))
        energies.append((abs(spectrum) ** 2)[fy[:, None] ** 2 + fx**2 > 0.0625].sum())
    return float(energies[0] / energies[1])


def reference_edge_error(y: np.ndarray, x: np.ndarray) -> float:
    # scikit-image divides the kernel by 4; it repeats the border, where no gradient is taken here.
    steep = np.stack([np.hypot(sobel_h(plane), sobel_v(plane)) / 2 for plane in x]).max(axis=0) > 0.1
    steep[[0, -1]] = steep[:, [0, -1]] = False
    return float(abs(y - x)[:, steep].mean())


def reference_psnr_foreground(y: np.ndarray, x: np.ndarray) -> float:
    colours, counts = np.unique(x.reshape(3, -1), axis=1, return_counts=True)
    if counts.max() * 2 > x[0].size:
        kept = (abs(x - colours[:, counts.argmax(), None, None]) * 127.5 > 2.5).any(axis=0)
        x, y = x[:, kept], y[:, kept]
    return float(peak_signal_noise_ratio(x, y, data_range=2.0))


def reference_borders(y: np.ndarray, x: np.ndarray) -> list[float]:
    error = (y - x) ** 2
    inside = error[:, FACTOR:-FACTOR, FACTOR:-FACTOR]
    return [float((error.sum() - inside.sum()) / (error.size - inside.size)), float(inside.mean())]


@pytest.mark.parametrize("pair", PAIRS)
def test_the_numbers_agree_with_their_references(pair):
    reconstructions, images = pair()
    found = appearance(reconstructions, images, factor=FACTOR)
    references = {
        "psnr_foreground": reference_psnr_foreground,
        "colour_shift_red": lambda y, x: y[0].mean() - x[0].mean(),
        "colour_shift_green": lambda y, x: y[1].mean() - x[1].mean(),
        "colour_shift_blue": lambda y, x: y[2].mean() - x[2].mean(),
        "flat_noise": reference_flat_noise,
        "high_frequency_ratio": reference_high_frequency_ratio,
        "edge_error": reference_edge_error,
        "border_mse": lambda y, x: reference_borders(y, x)[0],
        "inside_mse": lambda y, x: reference_borders(y, x)[1],
    }
    assert found.keys() == references.keys()
    for name, reference in references.items():
        expected = [reference(y, x) for y, x in arrays((reconstructions, images))]
        assert found[name].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), name


def test_a_report_has_a_column_for_each_number():
    found = appearance(*random_pair(1, 3, 12, 12), factor=2)
    assert found.keys() <= {field.name for field in fields(ImageScore)}
    assert all(values.dtype == torch.float64 and values.shape == (1,) for values in found.values())
    assert not any(character.isdigit() for character in METRICS["border_mse"].protocol)  # the same at any factor


def test_equal_pictures_have_no_error():
    _, images = drawn_pair()
    found = {name: values.item() for name, values in appearance(images, images, factor=FACTOR).items()}
    assert found.pop("psnr_foreground") == 100.0
    assert found.pop("high_frequency_ratio") == 1.0
    assert set(found.values()) == {0.0}


def test_a_constant_picture_has_colour_noise_and_borders_only():
    images = torch.full((1, 3, 16, 16), 0.5, dtype=torch.float64)
    found = {name: values.item() for name, values in appearance(images - 0.25, images, factor=2).items()}
    assert {name for name, value in found.items() if math.isnan(value)} == {
        "psnr_foreground",
        "high_frequency_ratio",
        "edge_error",
    }
    assert [found[f"colour_shift_{name}"] for name in ("red", "green", "blue")] == [-0.25] * 3
    assert found["flat_noise"] == 0.0
    assert found["border_mse"] == found["inside_mse"] == 0.0625


def test_colour_shift_is_told_for_each_colour():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.float64)
    moved = images.clone()
    moved[1] += torch.tensor([0.5, 0.0, -0.25])[:, None, None]
    assert colour_shift(moved, images).tolist() == [[0.0, 0.0, 0.0], [0.5, 0.0, -0.25]]


def test_flat_noise_is_the_deviation_of_white_noise():
    images = torch.zeros(1, 3, 200, 200, dtype=torch.float64)
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert flat_noise(images + 0.3 + noise, images).item() == pytest.approx(0.1, rel=0.01)


def test_flat_noise_of_a_checkerboard():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    board = grey(0.2 * (-1.0) ** np.add.outer(np.arange(16), np.arange(16)))
    # 25 and 24 of the 49 pixels: sum of squares 49 a^2 - a^2 / 49, over 48.
    assert flat_noise(board, images).item() == pytest.approx(0.2 * math.sqrt(50 / 49), rel=1e-12)


def test_noise_beside_a_flat_region_is_not_flat_noise():
    images = step(1.0, side=24)  # windows that hold columns 11 and 12 are not flat
    noisy = images.clone()
    noisy[..., 11:13] -= 0.5
    assert flat_noise(noisy, images).item() > 0.0  # windows up to column 11 are flat and hold it
    images = images.clone()
    images[..., 8:16] += grey(0.3 * (-1.0) ** np.add.outer(np.arange(24), np.arange(8)))
    noisy = images.clone()
    noisy[..., 8:16] += 0.1 * torch.randn(1, 3, 24, 8, generator=torch.Generator().manual_seed(0)).double()
    assert flat_noise(noisy.clamp(-1, 1), images).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(("steps", "flat"), [(0, True), (2, True), (3, False)])
def test_two_steps_of_8_bits_are_flat(steps, flat):
    images = torch.zeros(1, 3, 16, 16)
    images[:, 1, ::2] = steps * 2 / 255
    assert flat_noise(images, images).isnan().item() is not flat


@pytest.mark.parametrize("colour", [0, 1, 2])
def test_a_region_is_flat_only_in_all_colours(colour):
    images = torch.zeros(1, 3, 7, 7)
    images[:, colour, 3, 3] = 1.0
    assert flat_noise(images, images).isnan().item()


def test_a_picture_under_the_window_has_no_flat_region():
    assert flat_noise(torch.zeros(2, 3, 6, 20), torch.zeros(2, 3, 6, 20)).isnan().all()


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.0, 2.0])
def test_high_frequency_ratio_is_the_square_of_the_waves_gain(gain):
    fine, coarse = cosine(32, 32, 3 / 8, 0.3), cosine(32, 32, 1 / 16, 0.4)
    assert high_frequency_ratio(coarse + gain * fine, coarse + fine).item() == pytest.approx(gain**2, abs=1e-9)


def test_half_of_the_nyquist_frequency_divides_the_bands():
    assert high_frequency_ratio(cosine(64, 64, 14 / 64, 0.5), cosine(64, 64, 14 / 64, 0.5)).isnan().item()
    assert high_frequency_ratio(cosine(64, 64, 18 / 64, 0.5), cosine(64, 64, 18 / 64, 0.5)).item() == 1.0


@pytest.mark.parametrize(("share", "defined"), [(0.9, False), (1.1, True)])
def test_high_frequencies_below_the_rounding_of_8_bits_are_none(share, defined):
    amplitude = share * math.sqrt(2) * (LEVEL / math.sqrt(12))  # a wave's deviation is its amplitude / sqrt 2
    wave = cosine(32, 48, 3 / 8, amplitude)
    assert high_frequency_ratio(wave, wave).isnan().item() is not defined


def test_blur_takes_high_frequencies_and_noise_gives_them():
    _, images = random_pair(1, 3, 40, 40)
    blurred = torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, 1.0, 1.0)))
    noisy = (0.5 * images) + 0.5 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    assert high_frequency_ratio(blurred, images).item() < 0.1
    assert high_frequency_ratio(noisy, 0.5 * images).item() > 1.5


def test_edge_error_is_taken_on_both_sides_of_a_step():
    images = step(0.5)
    inside, beside = images.clone(), images.clone()
    inside[..., 7:9] += 0.25
    beside[..., :7] += 0.25
    beside[..., 9:] -= 0.25
    assert edge_error(inside, images).item() == 0.25
    assert edge_error(beside, images).item() == 0.0


@pytest.mark.parametrize(("height", "edge"), [(0.19, False), (0.21, True)])
def test_a_step_of_a_tenth_of_the_range_is_an_edge(height, edge):
    images = step(height)
    assert edge_error(images, images).isnan().item() is not edge


def test_an_edge_of_one_colour_is_an_edge_of_all():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    images[:, 2, 8:] = 1.0
    wrong = images.clone()
    wrong[:, 0, 7:9] += 0.3
    assert edge_error(wrong, images).item() == pytest.approx(0.1)


def test_border_and_inside_are_told_apart():
    images = torch.zeros(1, 3, 12, 20, dtype=torch.float64)
    framed = images + 0.5
    framed[..., 4:-4, 4:-4] = 0.25
    assert border_and_inside_mse(framed, images, 4).tolist() == [[0.25, 0.0625]]


@pytest.mark.parametrize("side", [7, 8])
def test_a_frame_that_fills_the_picture_leaves_nothing_to_compare(side):
    assert border_and_inside_mse(torch.zeros(2, 3, side, 20), torch.zeros(2, 3, side, 20), 4).isnan().all()


def test_psnr_foreground_leaves_the_background_out():
    images = torch.ones(1, 3, 16, 16, dtype=torch.float64)
    images[..., 4:10, 4:10] = torch.linspace(-1, 0.8, 36, dtype=torch.float64).view(6, 6)
    shown = images.clone()
    shown[..., 4:10, 4:10] += 0.1
    assert psnr_foreground(shown, images).item() == pytest.approx(20 * math.log10(2 / 0.1))
    assert psnr(shown, images).item() == pytest.approx(20 * math.log10(2 / 0.1) + 10 * math.log10(256 / 36))
    noisy_background = torch.where(images == 1.0, 0.5, images)
    assert psnr_foreground(noisy_background, images).item() == 100.0


@pytest.mark.parametrize(("columns", "background"), [(8, False), (9, True)])
def test_a_background_is_over_half_of_the_picture(columns, background):
    generator = torch.Generator().manual_seed(0)
    images = 1.6 * torch.rand((1, 3, 16, 16), generator=generator) - 0.9
    images[..., :columns] = 1.0
    shown = (images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(-1, 1)
    rest = psnr(shown[..., columns:], images[..., columns:]) if background else psnr(shown, images)
    assert psnr_foreground(shown, images).item() == pytest.approx(rest.item(), rel=1e-12)


def test_a_background_may_vary_by_two_steps_of_8_bits():
    images = torch.ones(1, 3, 16, 16)
    images[..., ::2, :12] -= 2 * LEVEL
    images[..., 12:] = -0.5
    shown = images.clone()
    shown[..., 12:] += 0.1
    assert psnr_foreground(shown, images).item() == pytest.approx(20 * math.log10(2 / 0.1), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (5, 17), (31, 39)])
def test_a_number_that_is_not_finite_makes_its_own_picture_nan_only(value, place):
    reconstructions, images = (x.repeat(3, 1, 1, 1) for x in drawn_pair())
    reconstructions[1, 2, *place] = value
    for name, values in appearance(reconstructions, images, factor=FACTOR).items():
        assert values.isnan().tolist() == [False, True, False], name


def test_reconstructions_are_clamped():
    reconstructions, images = drawn_pair()
    wild = torch.where(images.abs() == 1.0, 3.0 * images, reconstructions)
    clamped = appearance(wild.clamp(-1, 1), images, factor=FACTOR)
    for name, values in appearance(wild, images, factor=FACTOR).items():
        assert torch.equal(values, clamped[name]), name


def test_the_numbers_are_float64_under_autocast_and_of_one_picture_alone():
    reconstructions, images = random_pair(3, 3, 20, 24)
    together = appearance(reconstructions, images, factor=FACTOR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone = [appearance(reconstructions[i, None], images[i, None], factor=FACTOR) for i in range(3)]
    for name, values in together.items():
        torch.testing.assert_close(torch.cat([one[name] for one in alone]), values, rtol=1e-12, atol=0, equal_nan=True)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"one shape \(B, 3, H, W\)"):
        appearance(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8), factor=2)
