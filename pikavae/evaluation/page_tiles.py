"""Pictures of a page: an original under what a model made of it with a slider between them, and the error below."""

from __future__ import annotations

import torch
from torch import Tensor

from pikavae.data.page_html import NAME_LENGTH, Html, picture_address, shortened, tag, together
from pikavae.evaluation.page_numbers import number
from pikavae.evaluation.panels import error_images, to_uint8
from pikavae.evaluation.shown import ShownPicture

SMALL_PICTURE = 64
"""Pixels: pictures up to this size are enlarged without smoothing."""


def tile(picture: ShownPicture, limit: int) -> Html:
    """A picture of a report: the slider, the error, and the words for both; each image of at most `limit` bytes."""
    name = shortened(picture.caption or picture.name, NAME_LENGTH)
    words = tag(
        "figcaption",
        tag("b", f"{number(picture.psnr, 2)} dB"),
        Html(" "),
        tag("bdi", name),
        title=shortened(picture.name, NAME_LENGTH),
    )
    return tag("figure", slider(picture.original, picture.reconstruction, name, limit), words)


def slider(original: Tensor, reconstruction: Tensor, name: str, limit: int) -> Html:
    """Original under reconstruction with a slider between them, and the error below.

    Args:
        original: (3, H, W) in [-1, 1], as is `reconstruction`, which may leave it.
        reconstruction: what a model made of it.
        name: what the pictures are called for who cannot see them.
        limit: bytes of each of the three images, about.
    """
    kind = "pixelated" if max(original.shape[1:]) <= SMALL_PICTURE else None
    first, second, wrong = (
        picture_address(image.permute(1, 2, 0).numpy(), limit)
        for image in to_uint8(torch.stack([original, reconstruction, error_images(reconstruction, original)]))
    )
    stack = tag(
        "div",
        tag("img", src=first, alt=f"{name}, original", class_=kind),
        tag("img", src=second, alt=f"{name}, reconstruction", class_=kind),
        tag("input", type="range", min=0, max=100, value=50, aria_label=f"{name}: share of the original that is shown"),
        class_="stack",
    )
    return together(stack, tag("img", src=wrong, alt=f"{name}, error", class_=kind))
