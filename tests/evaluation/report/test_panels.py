import math

import numpy as np
import pytest
import torch
from PIL import Image

from pikavae.evaluation.report.panels import INK, PAPER, choose_evenly, error_images, filmstrip, panel, to_uint8


def flat(value: float, count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.full((count, 3, side, side), value)


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of an image from left to right in its middle line, each once in a stretch, without the paper."""
    line = np.asarray(image)[image.height - 20]
    return [tuple(map(int, x)) for i, x in enumerate(line) if (i == 0 or tuple(x) != tuple(line[i - 1]))]


def test_bytes_are_clamped_rounded_and_black_for_nan():
    values = torch.tensor([-2.0, -1.0, -0.997, 0.0, 0.0039, 1.0, 7.0, math.inf, math.nan])
    images = values.view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert to_uint8(images)[0, 0, 0].tolist() == [0, 0, 0, 128, 128, 255, 255, 255, 0]
    assert to_uint8(images).dtype == torch.uint8


def test_bytes_of_8_bit_pictures_are_the_same_again():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_uint8(pixels.float() / 127.5 - 1), pixels)


def test_errors_are_four_times_as_strong_and_black_where_there_is_none():
    errors = error_images(torch.tensor([0.5, 0.6, 0.5, -9.0, math.nan]), torch.tensor([0.5, 0.5, 0.7, 1.0, 0.0]))
    torch.testing.assert_close(errors, torch.tensor([-1.0, -0.6, -0.2, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("side", "cell"), [(8, 96), (32, 96), (48, 96), (56, 112), (64, 128), (65, 65), (256, 256), (512, 256)]
)
def test_cells_have_a_size_that_a_person_can_see(side, cell):
    image = panel([("", flat(0.0, 3, side)), ("", flat(0.0, 3, side))])
    assert image.size == (4 + 3 * (cell + 4), 4 + 2 * (cell + 4))


def test_a_panel_shows_each_pixel_where_it_belongs():
    images = torch.rand((2, 3, 48, 48), generator=torch.Generator().manual_seed(0)) * 2 - 1
    shown = np.asarray(panel([("", images), ("", -images)]))
    expected = to_uint8(-images)[1].permute(1, 2, 0).numpy()
    top, left = 4 + 96 + 4, 4 + 96 + 4
    assert np.array_equal(shown[top : top + 96 : 2, left : left + 96 : 2], expected)
    assert np.array_equal(shown[top + 1 : top + 96 : 2, left + 1 : left + 96 : 2], expected)


def test_labels_and_captions_are_written_beside_the_pictures_and_not_into_them():
    plain = panel([("", flat(1.0)), ("", flat(1.0))])
    image = panel([("original", flat(1.0)), ("reconstruction", flat(1.0))], [["cat"], ["a caption " * 5000, "20 dB"]])
    assert image.width > plain.width
    assert image.height == plain.height + 2 * 18
    pixels = np.asarray(image)
    for part in (pixels[:40], pixels[40:140, :90], pixels[140:, :90]):
        assert (part == INK).all(axis=2).any()
    assert (pixels[40 : 40 + 96, -100:-4] == 255).all()
    assert (pixels[:, -4:] == PAPER).all()  # the long caption was cut


def test_a_panel_of_many_pictures_goes_on_below():
    eight, nine = (panel([("original", flat(0.0, count))], [["x"]] * count) for count in (8, 9))
    assert nine.width == eight.width
    assert nine.height == 2 * eight.height


def test_a_filmstrip_shows_steps_in_order_and_the_originals_last():
    image = filmstrip([(200, flat(0.2)), (0, flat(0.0)), (1000, flat(0.6))], flat(1.0))
    assert [colour for colour in colours(image) if colour != PAPER] == [
        (128, 128, 128),
        (153, 153, 153),
        (204, 204, 204),
        (255, 255, 255),
    ]
    assert image.size == (4 + 4 * (96 + 4), 4 + 18 + 2 * (96 + 4))
    assert (np.asarray(image)[:20] == INK).all(axis=2).any()


@pytest.mark.parametrize("count", [16, 17, 100])
def test_a_filmstrip_shows_at_most_sixteen_moments(count):
    image = filmstrip([(step, flat(step / 100, 1)) for step in range(count)], flat(1.0, 1))
    shown = [colour for colour in colours(image) if colour != PAPER]
    assert len(shown) == 17
    assert shown[0] == (128, 128, 128)
    assert shown[-2] == tuple(to_uint8(flat((count - 1) / 100, 1))[0, :, 0, 0].tolist())


def test_moments_are_evenly_chosen_with_the_first_and_the_last():
    assert choose_evenly(3, 16) == [0, 1, 2]
    assert choose_evenly(0, 16) == []
    for count in (17, 31, 1000):
        chosen = choose_evenly(count, 16)
        gaps = np.diff(chosen)
        assert (chosen[0], chosen[-1], len(set(chosen))) == (0, count - 1, 16)
        assert gaps.max() - gaps.min() <= 1


def test_a_filmstrip_takes_the_pictures_that_all_moments_have():
    image = filmstrip([(0, flat(0.0, 4)), (10, flat(0.1, 2))], flat(1.0, 3))
    assert image.height == 4 + 18 + 2 * (96 + 4)


def test_a_filmstrip_of_large_pictures_is_averaged_down():
    board = (torch.arange(256)[:, None] + torch.arange(256)) % 2 * 2.0 - 1.0
    image = filmstrip([], board.expand(1, 3, 256, 256))
    assert image.size == (4 + 128 + 4, 4 + 18 + 128 + 4)
    assert (np.asarray(image)[22:150, 4:132] == 128).all()
