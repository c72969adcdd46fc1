"""What is measured of a picture, and how pictures are recognised in another set."""

import numpy as np
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.drift.pictures import KnownPictures, chosen, count_alike, every_picture
from pikavae.data.drift.quantities import measure_quantities
from pikavae.data.prepare import prepare


def make(folder, pictures, **settings):
    folder.mkdir()
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    config = DataConfig(source=str(folder), image_size=16, validation_fraction=0.3, workers=1, **settings)
    return prepare(config, folder.parent / "prepared")[0]


def soft(seed):
    colours = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(colours).resize((24, 16), Image.Resampling.BICUBIC))


def shade(pixels):
    return np.maximum(pixels, 1) - 1


def test_pictures_whose_numbers_are_known(tmp_path):
    board = np.indices((16, 16)).sum(0) % 2 * 255
    pictures = {
        "board": np.repeat(board[..., None], 3, axis=2).astype(np.uint8),
        "red": np.full((32, 16, 3), (255, 0, 0), np.uint8),
        "white": np.full((16, 16, 3), 255, np.uint8),
    }
    every = every_picture(make(tmp_path / "known", pictures, near_duplicate_distance=None))
    found = measure_quantities(every)
    place = {name.removesuffix(".png"): i for i, name in enumerate(every.names)}
    expected = {
        "brightness": {"board": 0.5, "red": 0.299, "white": 1},
        "saturation": {"board": 0, "red": 1, "white": 0},
        "white": {"board": 0.5, "red": 0, "white": 1},
        "detail": {"board": 1, "red": 0, "white": 0},
        "shorter_side": {"board": 16, "red": 16, "white": 16},
        "ratio": {"board": 1, "red": 0.5, "white": 1},
        "alike": dict.fromkeys(pictures, 0),
    }
    measured = {quantity: {name: found[quantity][i] for name, i in place.items()} for quantity in expected}
    assert measured == {quantity: pytest.approx(values, abs=1e-6) for quantity, values in expected.items()}


def test_equal_pictures_count_once_and_alike_ones_are_found_within_a_set_and_across(tmp_path):
    known = make(tmp_path / "known", {f"k{i}": soft(i) for i in range(8)})
    shaded = {f"shade{i}": shade(soft(i)) for i in (0, 1, 2)}
    others = {f"new{i}": soft(100 + i) for i in range(4)} | {"twin": shade(soft(103))}
    fresh = make(tmp_path / "fresh", {**shaded, **others, "copy": soft(100), "known": soft(5)})
    pictures = every_picture(fresh)
    assert len(pictures) == 9  # of ten: a copy
    is_known = KnownPictures.of(every_picture(known)).has(pictures)
    assert [name for name, one in zip(pictures.names, is_known, strict=True) if one] == ["known.png"]
    rest = chosen(fresh, pictures, ~is_known)
    assert len(rest) == 8
    assert rest.pixels([0]).shape == (1, 3, 16, 16)
    assert count_alike(fresh, rest, known, every_picture(known), 4) == 3
    assert measure_quantities(every_picture(known))["alike"].sum() == 0
    assert measure_quantities(rest)["alike"].sum() == 2
