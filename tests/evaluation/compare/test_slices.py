"""Parts of a set, by pixels that are counted here one by one and by captions."""

from collections import Counter

import numpy as np
import pytest
import torch

from pikavae.data.page.word_counts import words_of
from pikavae.evaluation.compare.slices import caption_words, is_dark, is_flat, slices_of
from tests.support.pictures import picture_set


def noise(count, height=6, width=5, high=256):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, high, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def test_dark_pictures_are_those_of_a_low_mean_luma():
    grey = torch.tensor([63, 64], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 4, 7)
    assert is_dark(grey).tolist() == [True, False]
    pure = torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    for colour in range(3):
        pure[colour, colour] = 255
    assert is_dark(pure).tolist() == [False, False, True]  # lumas of 76.2, 149.7 and 29.1
    many = noise(200, high=140)
    luma = many.double().mean(dim=(2, 3)) @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    assert 0 < (luma < 64).sum() < 200
    assert is_dark(many).tolist() == (luma < 64).tolist()


def test_flat_pictures_are_those_that_one_colour_fills_by_more_than_half():
    pictures = torch.cat([noise(300, 3, 3, high=2), noise(1)[:, :, :3, :3]])
    counted = [Counter(map(tuple, one.flatten(1).T.tolist())).most_common(1)[0][1] for one in pictures]
    expected = [most * 2 > 9 for most in counted]
    assert {True, False} == {*expected}
    assert is_flat(pictures).tolist() == expected
    halves = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    halves[0, :, 0] = 9
    assert is_flat(halves).tolist() == [False]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A cat on the mat, and a CAT!", {"cat", "mat"}),
        ("a light-bellied king's-fish, no. 12", {"light-bellied", "king's-fish"}),
        ("", set()),
        ("in the of 3 4_5", set()),
        ("Größe über кот 猫", {"größe", "über", "кот", "猫"}),
    ],
)
def test_words_say_what_a_picture_shows(caption, words):
    assert words_of(caption) == {word.casefold() for word in words}


def test_words_make_a_slice_where_they_are_frequent_but_not_everywhere():
    captions = ["the sprite of a cat cat"] * 6 + ["the sprite of a dog"] * 5 + ["the sprite of a bird"] * 4
    assert caption_words(captions) == ["cat", "dog"]
    many = [*(["a cat"] * 9), *(["a dog"] * 10), *(["nothing"] * 181)]
    assert caption_words(many) == ["nothing", "dog"]
    assert len(caption_words([f"{'ab'[i % 2]}{chr(97 + j)}" for j in range(20) for i in range(10)])) <= 12
    assert caption_words([]) == []


def test_the_slices_of_a_set_are_in_its_order(tmp_path):
    bright, dark = (torch.full((8, 12, 3), value, dtype=torch.uint8) for value in (200, 10))
    varied = (torch.arange(8 * 12 * 3).reshape(8, 12, 3) % 251).to(torch.uint8)
    tall = varied.transpose(0, 1)
    pictures = [bright, varied, tall, dark, tall, dark, bright] * 3
    captions = ["red hat", "red hat", "hat", "red hat", "red hat", "red hat", ""] * 3
    given = picture_set(tmp_path, [one.numpy() for one in pictures], captions=captions, image_size=8)
    expected = {
        "dark": [3, 5],
        "flat": [0, 3, 5, 6],
        "size 12x8": [0, 1, 3, 5, 6],
        "size 8x12": [2, 4],
        "caption: hat": [0, 1, 2, 3, 4, 5],
        "caption: red": [0, 1, 3, 4, 5],
    }
    for size in (1, 2, 16):
        found = slices_of(given, size)
        assert {name: [i for i, one in enumerate(mask[:7]) if one] for name, mask in found.items()} == expected
        assert all(mask[:7] * 3 == mask for mask in found.values())


@pytest.mark.parametrize(("count", "expected"), [(0, {}), (4, {}), (5, {"flat": 5})])
def test_a_slice_has_at_least_five_pictures(tmp_path, count, expected):
    varied = (torch.arange(8 * 8 * 3).reshape(8, 8, 3) % 251).to(torch.uint8).numpy()
    found = slices_of(picture_set(tmp_path, [np.full_like(varied, 200)] * count + [varied] * 6), 4)
    assert {name: sum(mask) for name, mask in found.items()} == expected
