import pytest
import torch

from pikavae.evaluation.slices import is_dark, is_flat, slices_of
from tests.evaluation.test_evaluate import Pictures, pictures


def plain(*colour, side=8):
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, side, side).clone()


@pytest.mark.parametrize(
    ("colour", "dark"),
    [((0, 0, 0), True), ((63, 63, 63), True), ((64, 64, 64), False), ((0, 0, 255), True), ((255, 0, 0), False)],
)
def test_dark_is_under_a_quarter_of_whites_luma(colour, dark):
    assert is_dark(plain(*colour)[None]).tolist() == [dark]


def test_flat_is_over_half_of_one_colour():
    half = plain(9, 8, 7)
    half[:, :4] = torch.arange(96, dtype=torch.uint8).reshape(3, 4, 8)
    more = half.clone()
    more[:, 3, 7] = torch.tensor([9, 8, 7], dtype=torch.uint8)
    noise = torch.arange(192, dtype=torch.uint8).reshape(3, 8, 8)
    assert is_flat(torch.stack([half, more, noise, plain(0, 0, 0)])).tolist() == [False, True, False, True]


def test_parts_have_five_pictures_and_not_all(monkeypatch):
    given = pictures(10)
    given.content[:5] = 0
    captions = [f"red {'cat' if i % 2 else 'dog'} {'bird' if i < 4 else ''}" for i in range(10)]
    monkeypatch.setattr(Pictures, "captions", property(lambda _: captions))
    parts = slices_of(given, 3)
    assert parts == {
        "dark": [0, 1, 2, 3, 4],
        "flat": [0, 1, 2, 3, 4],
        "caption: cat": [1, 3, 5, 7, 9],
        "caption: dog": [0, 2, 4, 6, 8],
    }  # `red` is everywhere, `bird` in four
