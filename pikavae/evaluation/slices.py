"""Parts of an evaluation set that may fare otherwise than the whole: dark, flat, by a caption's word, by shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pikavae.data.words import count_words, words_of
from pikavae.evaluation.measurement import EvaluationPictures

DARK_BELOW = 64
"""The mean luma, of 255, below which a picture is dark."""
LUMA = (299, 587, 114)
"""The thousandths of red, green and blue in the luma (ITU-R BT.601)."""
MIN_COUNT = 5
MIN_SHARE = 0.05
"""A slice has at least as many pictures; a word makes one where at least this share of the captions have it."""
MAX_WORDS = 12


def is_dark(pictures: Tensor) -> Tensor:
    """Whether each picture's mean luma is under 64 of 255: (B, 3, H, W) uint8 -> (B,) bool. Exact, in whole numbers."""
    sums = pictures.flatten(2).sum(dim=2, dtype=torch.int64)  # (B, 3)
    luma = (sums * torch.tensor(LUMA)).sum(dim=1)
    return luma < DARK_BELOW * sum(LUMA) * pictures.shape[2] * pictures.shape[3]


def is_flat(pictures: Tensor) -> Tensor:
    """Whether more than half of each picture's pixels are of exactly one colour: (B, 3, H, W) uint8 -> (B,) bool.

    A colour that more than half of the pixels have is their median in any order of the colours.
    """
    red, green, blue = pictures.to(torch.int32).flatten(2).unbind(dim=1)  # (B, H W) each
    colours = (red << 16) | (green << 8) | blue
    median = colours.median(dim=1, keepdim=True).values
    return (colours == median).sum(dim=1) * 2 > colours.shape[1]


def caption_words(captions: Sequence[str]) -> list[str]:
    """The words by which captions are sliced, the most frequent first, at most 12.

    A word is counted once a caption, in whatever case. It is in at least five captions, in at least 5 % of them, and
    not in all; English words without a meaning of their own are none.
    """
    least = max(MIN_COUNT, math.ceil(MIN_SHARE * len(captions)))
    return [word for word, count in count_words(captions) if least <= count < len(captions)][:MAX_WORDS]


def slices_of(pictures: EvaluationPictures, batch_size: int) -> dict[str, list[bool]]:
    """For each slice of at least five pictures, whether each of the pictures belongs to it, in the set's order.

    They are `dark`, `flat`, `size WxH` where there are pictures of several shapes, and `caption: WORD`.

    Args:
        pictures: the evaluation set.
        batch_size: pictures looked at once.
    """
    dark, flat = [False] * len(pictures), [False] * len(pictures)
    shapes = [""] * len(pictures)
    for indices in pictures.batches(batch_size):
        pixels = pictures.pixels(indices)
        size = f"size {pixels.shape[3]}x{pixels.shape[2]}"
        for i, one_dark, one_flat in zip(indices, is_dark(pixels).tolist(), is_flat(pixels).tolist(), strict=True):
            dark[i], flat[i], shapes[i] = one_dark, one_flat, size
    found = {"dark": dark, "flat": flat}
    if len({*shapes}) > 1:
        found |= {shape: [one == shape for one in shapes] for shape in sorted({*shapes})}
    words = [words_of(caption) for caption in pictures.captions]
    found |= {f"caption: {word}": [word in one for one in words] for word in caption_words(pictures.captions)}
    return {name: mask for name, mask in found.items() if sum(mask) >= MIN_COUNT}
