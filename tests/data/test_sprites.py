"""The drawn pictures: repeatable, varied, hard enough to be worth reconstructing, and truly captioned."""

import numpy as np
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.sprites.draw import draw_sprite
from pikavae.data.sprites.figures import FIGURES
from pikavae.data.sprites.parts import COLOURS

COUNT = DataConfig().sprites_count


@pytest.fixture(scope="module")
def sprites():
    return [draw_sprite(0, index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def pictures(sprites):
    """(N, 64, 64, 3) in [0, 1], scaled as preparation does."""
    return np.stack([np.asarray(s.image.resize((64, 64), Image.Resampling.BILINEAR)) for s in sprites]) / 255.0


def mean_psnr(errors):
    return float((10 * np.log10(1 / (errors**2).mean(axis=(1, 2, 3)))).mean())


def test_a_sprite_is_a_function_of_seed_and_index(sprites):
    assert draw_sprite(0, 5).image.tobytes() == sprites[5].image.tobytes()
    assert draw_sprite(1, 5).image.tobytes() != sprites[5].image.tobytes()
    assert (sprites[5].image.mode, sprites[5].image.size) == ("RGB", (128, 128))


def test_there_are_at_least_600_and_no_two_are_alike_but_for_hue_or_a_flip(sprites):
    assert COUNT >= 600
    grey = np.stack([np.asarray(s.image.resize((32, 32)).convert("L"), np.float64) for s in sprites])
    rows, flipped = grey.reshape(COUNT, -1), grey[:, :, ::-1].reshape(COUNT, -1)
    for other in (rows, flipped):
        squares = (rows**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * rows @ other.T
        rmse = np.sqrt(np.maximum(squares, 0) / rows.shape[1])
        np.fill_diagonal(rmse, np.inf)
        assert rmse.min() >= 8.0


def test_a_constant_picture_scores_at_most_13_db(pictures):
    assert mean_psnr(pictures - pictures.mean(axis=(0, 1, 2))) <= 13.0
    assert mean_psnr(pictures - pictures.mean(axis=(1, 2), keepdims=True)) <= 13.0


def test_an_eighth_of_the_size_scores_at_most_20_db(pictures):
    def there_and_back(picture):
        small = Image.fromarray((picture * 255).astype(np.uint8)).resize((8, 8), Image.Resampling.BICUBIC)
        return np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC)) / 255.0

    assert mean_psnr(pictures - np.stack([there_and_back(picture) for picture in pictures])) <= 20.0


def test_captions_name_figure_and_colours_and_differ(sprites):
    captions = [sprite.caption for sprite in sprites]
    assert len(set(captions)) > 0.99 * COUNT
    assert all(any(figure in caption for figure in FIGURES) for caption in captions)
    assert all(sum(colour in caption for colour in COLOURS) >= 2 for caption in captions)
    assert max(len(caption.split()) for caption in captions) <= 30


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1), (0, 0, 4)])
def test_impossible_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="expected"):
        draw_sprite(*arguments)
