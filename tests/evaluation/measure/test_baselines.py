import math

import numpy as np
import pytest
import torch
from PIL import Image

from pikavae.evaluation.measure.baselines import bicubic, constant, mean_colour, original_bar


def pillow_bicubic(images: torch.Tensor, factor: int) -> torch.Tensor:
    """Down and back by Pillow, in 32-bit float."""
    height, width = images.shape[2:]
    out = torch.empty_like(images)
    for picture, result in zip(images, out, strict=True):
        for channel, plane in enumerate(picture):
            small = Image.fromarray(plane.numpy()).resize((width // factor, height // factor), Image.Resampling.BICUBIC)
            result[channel] = torch.from_numpy(np.array(small.resize((width, height), Image.Resampling.BICUBIC)))
    return out


@pytest.mark.parametrize(("factor", "size"), [(2, (16, 24)), (4, (32, 32)), (8, (64, 40)), (1, (9, 9))])
def test_bicubic_is_pillows(factor, size):
    images = torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.testing.assert_close(bicubic(images, factor), pillow_bicubic(images, factor), rtol=0, atol=2e-6)


def test_mean_colour_is_exact_over_batches_of_any_size():
    pixels = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    expected = pixels.double().mean(dim=(0, 2, 3)) / 127.5 - 1
    for size in (1, 3, 7):
        torch.testing.assert_close(mean_colour(pixels.split(size)), expected, rtol=0, atol=1e-12)


def test_constant_puts_one_colour_in_place_of_each_picture():
    images = torch.rand(2, 3, 4, 5)
    flat = constant(images, torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64))
    assert flat.shape == images.shape
    assert flat.dtype == images.dtype
    assert flat.permute(1, 0, 2, 3).flatten(1).unique(dim=1).tolist() == [[0.5], [-0.25], [1.0]]


def test_the_originals_bar_is_a_sum_of_nine_over_two_hundred_pictures():
    assert original_bar() == pytest.approx(10 * math.log10(4 / (9 / 200)))
    assert round(original_bar(), 2) == 19.49
