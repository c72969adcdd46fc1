"""Finds parts of an evaluation set that may score unlike the whole: dark, flat, by a caption's word, by shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pikavae.data.page.word_counts import count_words, words_of
from pikavae.evaluation.measure.measurement import EvaluationSet, shown_of
from pikavae.evaluation.report.panels import to_uint8

DARK_BELOW = 64
"""The mean luma, of 255, below which a picture is dark."""
LUMA = (299, 587, 114)
"""The thousandths of red, green and blue in the luma (ITU-R BT.601)."""
MIN_COUNT = 5
MIN_SHARE = 0.05
"""A slice has at least `MIN_COUNT` pictures; a word makes a slice if at least this share of the captions have it."""
MAX_WORDS = 12


def is_dark(images: Tensor) -> Tensor:
    """Return True for each picture whose mean luma is under 64 of 255: (B, 3, H, W) uint8 -> (B,) bool.

    The sums are exact, in whole numbers.
    """
    sums = images.flatten(2).sum(dim=2, dtype=torch.int64)  # (B, 3)
    luma = (sums * torch.tensor(LUMA)).sum(dim=1)
    return luma < DARK_BELOW * sum(LUMA) * images.shape[2] * images.shape[3]


def is_flat(images: Tensor) -> Tensor:
    """Return True for each picture with one colour on more than half of its pixels: (B, 3, H, W) uint8 -> (B,) bool.

    A colour of more than half of the pixels is their median in any order of the colours.
    """
    red, green, blue = images.to(torch.int32).flatten(2).unbind(dim=1)  # (B, H W) each
    colours = (red << 16) | (green << 8) | blue
    median = colours.median(dim=1, keepdim=True).values
    return (colours == median).sum(dim=1) * 2 > colours.shape[1]


def caption_words(captions: Sequence[str]) -> list[str]:
    """List the words by which captions are sliced, the most frequent first, at most 12.

    A word counts once per caption, whatever its case. It occurs in at least five captions and at least 5 % of them, but
    not in all. English words without a meaning of their own are left out.
    """
    least = max(MIN_COUNT, math.ceil(MIN_SHARE * len(captions)))
    return [word for word, count in count_words(captions) if least <= count < len(captions)][:MAX_WORDS]


def slices_of(picture_set: EvaluationSet, batch_size: int) -> dict[str, list[bool]]:
    """Return the slices of at least five pictures: for each, True for every picture that belongs, in the set's order.

    The slices are `dark`, `flat`, `size WxH` if the set has pictures of several shapes, and `caption: WORD`.

    Args:
        picture_set: the evaluation set.
        batch_size: how many pictures are read at once.
    """
    dark, flat = [False] * len(picture_set), [False] * len(picture_set)
    shapes = [""] * len(picture_set)
    for indices in picture_set.batches(batch_size):
        pixels = to_uint8(shown_of(picture_set, indices))
        size = f"size {pixels.shape[3]}x{pixels.shape[2]}"
        for i, one_dark, one_flat in zip(indices, is_dark(pixels).tolist(), is_flat(pixels).tolist(), strict=True):
            dark[i], flat[i], shapes[i] = one_dark, one_flat, size
    found = {"dark": dark, "flat": flat}
    if len({*shapes}) > 1:
        found |= {shape: [one == shape for one in shapes] for shape in sorted({*shapes})}
    words = [words_of(caption) for caption in picture_set.captions]
    found |= {f"caption: {word}": [word in one for one in words] for word in caption_words(picture_set.captions)}
    return {name: mask for name, mask in found.items() if sum(mask) >= MIN_COUNT}
