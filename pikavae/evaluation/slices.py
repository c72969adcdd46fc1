"""Named parts of an evaluation set, in which one model may win that loses elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pikavae.data.page_numbers import frequent_words, words_of

if TYPE_CHECKING:
    from pikavae.evaluation.evaluate import EvaluationPictures

DARK_LUMA = 0.25
FLAT_SHARE = 0.5
LEAST_PICTURES = 5
LEAST_SHARE, MOST_SHARE = 0.05, 0.95
MOST_WORDS = 12


def slices_of(pictures: EvaluationPictures, batch_size: int) -> dict[str, list[int]]:
    """Parts of a set by name, as indices: dark, flat, by frequent words of the captions, by shape.

    A part has at least 5 pictures and not all of them; a word stands in 5 to 95 % of the captions. The name of a shape
    is `WIDTH x HEIGHT`.
    """
    dark, flat, shapes = set(), set(), dict[str, list[int]]()
    for indices in pictures.batches(batch_size):
        pixels = pictures.pixels(indices)
        dark |= {i for i, found in zip(indices, is_dark(pixels).tolist(), strict=True) if found}
        flat |= {i for i, found in zip(indices, is_flat(pixels).tolist(), strict=True) if found}
        shapes.setdefault(f"{pixels.shape[3]} x {pixels.shape[2]}", []).extend(indices)
    parts = {"dark": sorted(dark), "flat": sorted(flat), **_by_word(pictures.captions), **shapes}
    return {name: found for name, found in parts.items() if LEAST_PICTURES <= len(found) < len(pictures)}


def is_dark(pixels: Tensor) -> Tensor:
    """Whether the mean luma (Rec. 601) of pictures (B, 3, H, W) uint8 is under a quarter of white's: (B,) bool."""
    means = pixels.double().mean(dim=(2, 3)) / 255.0
    return means @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64) < DARK_LUMA


def is_flat(pixels: Tensor) -> Tensor:
    """Whether over half of the pixels of pictures (B, 3, H, W) uint8 have one colour: (B,) bool."""
    red, green, blue = pixels.flatten(2).int().unbind(1)
    colours = (red << 16 | green << 8 | blue).sort(dim=1).values
    # A colour of over half of the pixels is the middle one of all, in their order.
    middle = colours[:, colours.shape[1] // 2, None]
    return (colours == middle).double().mean(dim=1) > FLAT_SHARE


def _by_word(captions: Sequence[str]) -> Mapping[str, list[int]]:
    least, most = math.ceil(LEAST_SHARE * len(captions)), math.floor(MOST_SHARE * len(captions))
    counted = frequent_words(captions, len(captions))
    chosen = [word for word, count in counted if max(LEAST_PICTURES, least) <= count <= most][:MOST_WORDS]
    words = [words_of(caption) for caption in captions]
    return {f"caption: {word}": [i for i, found in enumerate(words) if word in found] for word in chosen}
