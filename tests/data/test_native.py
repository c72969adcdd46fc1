"""`data.crop native`: pictures are stored whole, at their own resolution, and training sees squares of them."""

import numpy as np
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.pictures.geometry import to_shorter
from pikavae.data.prepare import prepare
from pikavae.data.prepared.augment import window_at
from pikavae.data.shards.make import Recipe

SIZE = 16
SIZES = {
    "wide.png": (90, 40),
    "high.png": (20, 130),
    "square.png": (64, 64),
    "small.png": (12, 9),
    "exact.png": (16, 16),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number, (name, size) in enumerate(SIZES.items()):
        noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def made(folder, root, **settings):
    given = {"crop": "native", "validation_fraction": 0.4, "near_duplicate_distance": None, "workers": 1, **settings}
    config = DataConfig(source=str(folder), image_size=SIZE, **given)
    return prepare(config, root)[0]


def by_name(prepared):
    return {
        name: (side.stored_pixels(i), side.pixels([i])[0].permute(1, 2, 0).numpy())
        for side in (prepared.train, prepared.validation)
        for i, name in enumerate(side.names)
    }


def test_a_picture_is_stored_as_it_is_and_shown_by_its_centre(folder, tmp_path):
    prepared = made(folder, tmp_path / "prepared")
    found = by_name(prepared)
    assert found.keys() == SIZES.keys()
    for name, (stored, shown) in found.items():
        image = Image.open(folder / name)
        expected = np.asarray(image if name != "small.png" else to_shorter(image, SIZE))
        np.testing.assert_array_equal(stored, expected)
        top, left = (expected.shape[0] - SIZE) // 2, (expected.shape[1] - SIZE) // 2
        np.testing.assert_array_equal(shown, expected[top : top + SIZE, left : left + SIZE])
    words = " ".join((prepared.path / "page.html").read_text().split())
    assert "Pictures are stored whole, at their own resolution." in words
    assert "centre square" not in words


def test_a_picture_is_on_the_side_that_it_has_with_other_crops(folder, tmp_path):
    """Its identity is that of the whole picture."""
    sides = [made(folder, tmp_path / crop, crop=crop).validation for crop in ("native", "center", "random")]
    assert [side.names for side in sides] == [sides[0].names] * 3
    assert [side.identities for side in sides] == [sides[0].identities] * 3


def test_every_place_of_a_picture_comes_to_training(folder, tmp_path):
    side = made(folder, tmp_path / "prepared").train
    index = max(range(len(side)), key=lambda i: min(side.stored_shape(i)))
    height, width = side.stored_shape(index)
    seen = np.zeros((height, width), bool)
    for position in range(400):
        window = window_at(position, (height, width), (SIZE, SIZE), seed=0, flip=False)
        seen[window.slices((SIZE, SIZE))] = True
    assert seen.mean() > 0.95


def test_few_giant_pictures_share_a_shard():
    counts = {
        crop: [Recipe.of(DataConfig(crop=crop, image_size=size)).chunk_size for size in (64, 512, 4096)]
        for crop in ("center", "native")
    }
    assert counts == {"center": [256, 85, 1], "native": [8, 8, 1]}


def test_a_picture_that_is_too_large_is_set_aside_by_the_name_of_the_setting(folder, tmp_path):
    prepared = made(folder, tmp_path / "prepared", max_pixels=3600, max_unreadable_fraction=0.5)
    reasons = {item.name: item.reason for item in prepared.record.quarantined}
    assert reasons == {"square.png": "more than 3,600 pixels, the limit of data.max_pixels"}
