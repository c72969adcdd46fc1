"""Measures JPEG and WebP within the bytes of the latent: how good ordinary picture coding is at the same size."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pikavae.evaluation.measure.measurement import Columns, Measured, MeasuredBatch
from pikavae.evaluation.measure.posteriors import BYTES
from pikavae.evaluation.metrics.similarity import psnr, ssim
from pikavae.evaluation.report.panels import choose_evenly, to_uint8
from pikavae.evaluation.report.sections import Baseline

MOST_CODED = 64
"""The most pictures that are coded, evenly chosen from the set: each search for a quality takes a tenth of a second."""
CODECS: Mapping[str, Mapping[str, Any]] = {
    "jpeg": {"format": "JPEG", "optimize": True},
    "webp": {"format": "WEBP", "method": 4},
}
"""Each codec's settings for Pillow."""
LOWEST, HIGHEST = 1, 100
"""The range of qualities that is searched."""
PROTOCOL = {
    "codecs": "Pillow's JPEG (optimised tables, 4:2:0) and WebP (lossy, method 4) at the highest quality whose file is "
    f"not larger than the latent, found by bisection, else at the lowest; at most {MOST_CODED} pictures, evenly chosen",
}


class Codecs:
    """Measures pictures coded within the bytes of their latents."""

    def __init__(self, num_images: int) -> None:
        self.chosen = set(choose_evenly(num_images, MOST_CODED))
        self._scores = {codec: Columns(num_images) for codec in CODECS}

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        places = [place for place, index in enumerate(batch.indices) if index in self.chosen]
        if not places:
            return
        images = batch.images[places]
        limit = BYTES * batch.posterior.mean[0].numel()
        pixels = to_uint8(images).permute(0, 2, 3, 1).squeeze(-1).numpy()
        for codec in CODECS:
            files = [encode_within(Image.fromarray(one), codec, limit) for one in pixels]
            mode = "L" if images.shape[1] == 1 else "RGB"
            shown = torch.cat([decode_file(file, mode) for file in files]).to(images)
            sizes = torch.tensor([len(file) for file in files])
            scores = {"psnr": psnr(shown, images), "ssim": ssim(shown, images)}
            numbers = {**scores, "bytes": sizes, "too_large": sizes > limit}
            self._scores[codec].put([batch.indices[place] for place in places], numbers)

    def result(self) -> Measured:
        """Return for each codec the means, how many pictures were coded and how many did not fit."""
        found = {}
        for codec, scores in self._scores.items():
            of_chosen = {name: values[~values.isnan()] for name, values in scores.values.items()}
            found[codec] = Baseline(
                **{name: of_chosen[name].mean().item() for name in ("psnr", "ssim", "bytes")},
                too_large=of_chosen["too_large"].sum().item(),
                coded=float(len(self.chosen)),
            )
        return Measured(baselines=found, protocol=PROTOCOL)


def encode_within(picture: Image.Image, codec: str, limit: int) -> bytes:
    """Code the picture at the highest quality whose file has at most `limit` bytes, or at the lowest if none has.

    Bisection works because a file grows with its quality, apart from a few bytes between neighbours.
    """
    best = _save(picture, codec, LOWEST)
    fits, too_large = LOWEST, HIGHEST + 1
    while len(best) <= limit and too_large - fits > 1:
        middle = (fits + too_large) // 2
        candidate = _save(picture, codec, middle)
        if len(candidate) <= limit:
            fits, best = middle, candidate
        else:
            too_large = middle
    return best


def decode_file(file: bytes, mode: str = "RGB") -> Tensor:
    """Decode a file to its picture: (1, 3, H, W) float32 in [-1, 1], or (1, 1, H, W) in mode L."""
    pixels = np.atleast_3d(np.array(Image.open(io.BytesIO(file)).convert(mode)))  # (H, W, C)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def _save(picture: Image.Image, codec: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, quality=quality, **CODECS[codec])
    return buffer.getvalue()
