"""Encodes tensors as images of a page."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pikavae.evaluation.report.panels import error_images, to_uint8
from pikavae.html.images import PageImage, page_image


def encoders(limit: int) -> dict[str, Callable[..., PageImage]]:
    """Return what templates call to show pictures (3, H, W) in about [-1, 1] in at most about `limit` bytes each.

    `encode` shows a picture; `encode_error` shows the error of a reconstruction against its original.
    """

    def encode(image: Tensor) -> PageImage:
        return page_image(to_uint8(image[None])[0].permute(1, 2, 0).numpy(), limit)

    def encode_error(reconstruction: Tensor, original: Tensor) -> PageImage:
        return encode(error_images(reconstruction[None], original[None])[0])

    return {"encode": encode, "encode_error": encode_error}
