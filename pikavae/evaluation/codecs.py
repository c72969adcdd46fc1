"""JPEG and WebP with as many bytes as the latent has: what ordinary picture coding makes of the same size."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pikavae.evaluation.measurement import Batch, Columns, Findings
from pikavae.evaluation.metrics import psnr, ssim
from pikavae.evaluation.panels import choose_evenly, to_uint8
from pikavae.evaluation.posteriors import BYTES

MOST_CODED = 64
"""Pictures that are coded, evenly chosen from the set: the search for a quality takes a tenth of a second each."""
CODECS: Mapping[str, Mapping[str, Any]] = {
    "jpeg": {"format": "JPEG", "optimize": True},
    "webp": {"format": "WEBP", "method": 4},
}
"""Settings for Pillow."""
LOWEST, HIGHEST = 1, 100
"""Qualities."""
PROTOCOL = {
    "codecs": "Pillow's JPEG (optimised tables, 4:2:0) and WebP (lossy, method 4) at the highest quality whose file is "
    f"not larger than the latent, found by bisection, else at the lowest; at most {MOST_CODED} pictures, evenly chosen",
}


class Codecs:
    """Measures pictures that were coded within the bytes of their latents."""

    def __init__(self, num_images: int) -> None:
        self.chosen = set(choose_evenly(num_images, MOST_CODED))
        self._scores = {codec: Columns(num_images) for codec in CODECS}

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        places = [place for place, index in enumerate(batch.indices) if index in self.chosen]
        if not places:
            return
        images = batch.images[places]
        limit = BYTES * batch.posterior.mean[0].numel()
        pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
        for codec in CODECS:
            files = [coded(Image.fromarray(one), codec, limit) for one in pixels]
            shown = torch.cat([decoded(file) for file in files]).to(images)
            sizes = torch.tensor([len(file) for file in files])
            scores = {"psnr": psnr(shown, images), "ssim": ssim(shown, images)}
            numbers = {**scores, "bytes": sizes, "too_large": sizes > limit}
            self._scores[codec].put([batch.indices[place] for place in places], numbers)

    def result(self) -> Findings:
        """For each codec the means, and how many of how many pictures did not fit."""
        found = {}
        for codec, scores in self._scores.items():
            of_chosen = {name: values[~values.isnan()] for name, values in scores.values.items()}
            found[codec] = {
                **{name: of_chosen[name].mean().item() for name in ("psnr", "ssim", "bytes")},
                "too_large": of_chosen["too_large"].sum().item(),
                "coded": float(len(self.chosen)),
            }
        return Findings(sections={"baselines": found}, protocol=PROTOCOL)


def coded(picture: Image.Image, codec: str, limit: int) -> bytes:
    """The picture at the highest quality whose file has at most `limit` bytes; at the lowest where none has.

    Bisection: a file grows with its quality, but for a few bytes between neighbours.
    """
    best = _saved(picture, codec, LOWEST)
    fits, too_large = LOWEST, HIGHEST + 1
    while len(best) <= limit and too_large - fits > 1:
        middle = (fits + too_large) // 2
        candidate = _saved(picture, codec, middle)
        if len(candidate) <= limit:
            fits, best = middle, candidate
        else:
            too_large = middle
    return best


def decoded(file: bytes) -> Tensor:
    """A file's picture: (1, 3, H, W) float32 in [-1, 1]."""
    pixels = np.array(Image.open(io.BytesIO(file)).convert("RGB"))  # (H, W, 3)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def _saved(picture: Image.Image, codec: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, quality=quality, **CODECS[codec])
    return buffer.getvalue()
