"""How a model does at other sizes than the one that its pictures were prepared at, and what tiles change.

A convolution is of no size, but norms and attention see the whole picture, and a model has learnt what pictures of its
training size look like.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pikavae.evaluation.baselines import bicubic
from pikavae.evaluation.measurement import Findings, Sample
from pikavae.evaluation.metrics import comparable, psnr, psnr_of_mse, ssim
from pikavae.evaluation.scores import worst_tenth
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.tiling import TILES, Tiles, reconstruct_any_size, seams

Pair = tuple[Tensor, Tensor]
"""A picture (1, 3, H, W) in [-1, 1] and its reconstruction, not clamped."""
MOST_SIZED = 8
"""Pictures that are measured at each size, at most."""
MOST_TILED = 2
"""Pictures that are reconstructed in tiles as well, which takes several times as long, at most."""
PROTOCOL = {
    "sizes": f"the first {MOST_SIZED} of the studied pictures, scaled from the prepared pixels by bicubic with "
    f"antialiasing (as Pillow), clamped, sides rounded to the nearest multiples of the downsampling factor",
    "tiled": f"the first {MOST_TILED} of them at the largest size, in tiles of half of it that overlap by a quarter, "
    f"against the same model on the whole; seams are the pixels that more than one tile makes",
}


def study_sizes(model: AutoencoderKL, sample: Sample, *, image_size: int, others: Sequence[int] | None) -> Findings:
    """Field `sizes` of a report.

    It has `num_images`, `by_size` (a list of what `at_size` returns, from the smallest) and `tiled` (what `in_tiles`
    returns; None where no size is of a megapixel or less).

    Args:
        model: on the sample's device.
        sample: its first pictures are used.
        image_size: of the pictures as they were prepared.
        others: the other sizes; by default those of `default_sizes`. Where there is none, nothing is measured.
    """
    factor = model.config.downsampling_factor
    wanted = {nearest(size, factor) for size in (default_sizes(image_size) if others is None else others)}
    few = replace(sample, images=sample.images[:MOST_SIZED], reconstructions=sample.reconstructions[:MOST_SIZED])
    by_size, tiled = [], None
    for size in sorted({image_size, *wanted}) if wanted else []:
        pairs = reconstructed(model, few, size, image_size)
        by_size.append(at_size(pairs, size, factor))
        if size <= TILES.size:
            tiled = partial(in_tiles, model, pairs[:MOST_TILED], size)
    return Findings(
        sections={
            "sizes": {
                "num_images": len(few.images),
                "by_size": by_size,
                "tiled": tiled() if tiled else None,
            }
        },
        protocol=PROTOCOL,
    )


def default_sizes(image_size: int) -> list[int]:
    """Half and twice the size of the prepared pictures, but no size above a megapixel."""
    return [size for size in (image_size // 2, 2 * image_size) if size <= TILES.size]


def nearest(size: int, factor: int) -> int:
    """The multiple of the downsampling factor that is nearest to `size`, from two on: one cell has no deviation."""
    return factor * max(2, round(size / factor))


def reconstructed(model: AutoencoderKL, sample: Sample, size: int, image_size: int) -> list[Pair]:
    """Each picture, scaled as if it had been prepared at `size`, and the model's reconstruction of it, on the CPU.

    The reconstruction is of the whole up to the size of `TILES`, whatever the picture's shape, and above it in tiles.
    """
    if size == image_size:
        return list(zip(sample.images, sample.reconstructions, strict=True))
    factor, pairs = model.config.downsampling_factor, []
    for images in sample.images:
        sides = [nearest(round(side * size / image_size), factor) for side in images.shape[2:]]
        scaled = F.interpolate(images, size=sides, mode="bicubic", antialias=True).clamp(-1.0, 1.0)
        tiles = Tiles(max(sides), 0) if size <= TILES.size else TILES
        pairs.append((scaled, reconstruct_any_size(model, scaled, tiles)))
    return pairs


def at_size(pairs: Sequence[Pair], size: int, factor: int) -> dict[str, Any]:
    """Pictures of one size and their reconstructions by a model of this downsampling factor.

    Returns:
        JSON values, None where one is not finite: `size`, means of `psnr` and `ssim`, `psnr_worst_tenth`, and
        `bicubic_psnr`, what plain scaling to the latent's size and back gives: pictures are not as hard at every size.
    """
    own, structure, plain = [], [], []
    for images, made in pairs:
        own.append(psnr(made, images))
        structure.append(ssim(made, images))
        plain.append(psnr(bicubic(images, factor), images))
    numbers = {
        "psnr": torch.cat(own).mean().item(),
        "ssim": torch.cat(structure).mean().item(),
        "psnr_worst_tenth": worst_tenth(torch.cat(own)),
        "bicubic_psnr": torch.cat(plain).mean().item(),
    }
    return {"size": size, **_finite(numbers)}


def in_tiles(model: AutoencoderKL, pairs: Sequence[Pair], size: int) -> dict[str, Any]:
    """What tiles change: pictures of a size in tiles of half of it, against the model's reconstructions of the whole.

    Returns:
        JSON values, numbers None where they are not finite or there is no such pixel: `num_images`, `size`, `tile` and
        `overlap` in pixels; means of `psnr_whole` and `psnr_tiled` against the originals; of the tiled against the
        whole, `psnr_to_whole` and `psnr_to_whole_min`, and on [-1, 1] `max_difference`, `rms_seams` (of the pixels that
        more than one tile makes) and `rms_elsewhere`.
    """
    factor = model.config.downsampling_factor
    side = max(size // 2 // factor, 2) * factor
    tiles = Tiles(side, side // 4 // factor * factor)
    against: dict[str, list[Tensor]] = {"psnr_whole": [], "psnr_tiled": [], "psnr_to_whole": []}
    inside: list[Tensor] = []
    outside: list[Tensor] = []
    for images, whole in pairs:
        tiled = reconstruct_any_size(model, images, tiles)
        one, other = comparable(tiled, whole.clamp(-1.0, 1.0))
        errors, seam = (one - other)[0], seams(images.shape[2], images.shape[3], tiles, factor)
        against["psnr_whole"].append(psnr(whole, images))
        against["psnr_tiled"].append(psnr(tiled, images))
        against["psnr_to_whole"].append(psnr_of_mse(errors.square().mean())[None])
        inside.append(errors[:, seam].flatten())
        outside.append(errors[:, ~seam].flatten())
    scores = {name: torch.cat(values) for name, values in against.items()}
    seam_errors, other_errors = torch.cat(inside), torch.cat(outside)
    numbers = {
        **{name: values.mean().item() for name, values in scores.items()},
        "psnr_to_whole_min": scores["psnr_to_whole"].min().item(),
        "max_difference": torch.cat([seam_errors, other_errors]).abs().max().item(),
        "rms_seams": seam_errors.square().mean().sqrt().item(),
        "rms_elsewhere": other_errors.square().mean().sqrt().item(),
    }
    return {
        "num_images": len(pairs),
        "size": size,
        "tile": tiles.size,
        "overlap": tiles.overlap,
        **_finite(numbers),
    }


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
