"""Studies a model at other sizes than that of its prepared pictures, and the effect of tiles.

Convolutions work at any size, but norms and attention see the whole picture, and a model has learnt what pictures of
its training size look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from pikavae.evaluation.measure.baselines import bicubic
from pikavae.evaluation.measure.measurement import Measured, Sample
from pikavae.evaluation.measure.scores import worst_tenth_psnr
from pikavae.evaluation.metrics.similarity import comparable, psnr, psnr_of_mse, ssim
from pikavae.evaluation.report.sections import OtherSizes, SizeNumbers, TilingNumbers, finite
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.tiling import TILES, Tiles, reconstruct_any_size, seams, tiles_of

Pair = tuple[Tensor, Tensor]
"""A picture (1, 3, H, W) in [-1, 1] and its reconstruction, not clamped."""
MOST_SIZED = 8
"""The most pictures that are measured at each size."""
MOST_TILED = 2
"""The most pictures that are also reconstructed in tiles, which takes several times as long."""
PROTOCOL = {
    "sizes": f"the first {MOST_SIZED} of the studied pictures, scaled from the prepared pixels by bicubic with "
    f"antialiasing (as Pillow), clamped, sides rounded to the nearest multiples of the downsampling factor",
    "tiled": f"the first {MOST_TILED} of them at the largest size, in tiles of half of it that overlap by a quarter, "
    f"against the same model on the whole; seams are the pixels that more than one tile makes",
}


def study_sizes(model: AutoencoderKL, sample: Sample, *, image_size: int, others: Sequence[int] | None) -> Measured:
    """Compute field `sizes` of a report: the results of `at_size` and of `in_tiles`.

    Args:
        model: on the sample's device.
        sample: its first pictures are used.
        image_size: the size of the prepared pictures.
        others: the other sizes; by default those of `default_sizes`. Without other sizes, nothing is measured.
    """
    factor = model.config.downsampling_factor
    wanted = {nearest(size, factor) for size in (default_sizes(image_size) if others is None else others)}
    few = replace(sample, images=sample.images[:MOST_SIZED], reconstructions=sample.reconstructions[:MOST_SIZED])
    by_size, tiled = [], None
    for size in sorted({image_size, *wanted}) if wanted else []:
        pairs = reconstruct_at(model, few, size, image_size)
        by_size.append(at_size(pairs, size, factor))
        if size <= TILES.size:
            tiled = partial(in_tiles, model, pairs[:MOST_TILED], size)
    found = OtherSizes(num_images=len(few.images), by_size=by_size, tiled=tiled() if tiled else None)
    return Measured(sizes=found, protocol=PROTOCOL)


def default_sizes(image_size: int) -> list[int]:
    """Return half and twice the size of the prepared pictures, without sizes above a megapixel."""
    return [size for size in (image_size // 2, 2 * image_size) if size <= TILES.size]


def nearest(size: int, factor: int) -> int:
    """Round `size` to a multiple of the downsampling factor, at least two cells: one cell has no deviation."""
    return factor * max(2, round(size / factor))


def reconstruct_at(model: AutoencoderKL, sample: Sample, size: int, image_size: int) -> list[Pair]:
    """Scale each picture as if it was prepared at `size`, and reconstruct it with the model, on the CPU.

    Up to the size of `TILES` the picture is reconstructed whole, whatever its shape, and above it in tiles.
    """
    if size == image_size:
        return list(zip(sample.images, sample.reconstructions, strict=True))
    factor, pairs = model.config.downsampling_factor, []
    for images in sample.images:
        sides = [nearest(round(side * size / image_size), factor) for side in images.shape[2:]]
        scaled = F.interpolate(images, size=sides, mode="bicubic", antialias=True).clamp(-1.0, 1.0)
        tiles = Tiles(max(sides), 0) if size <= TILES.size else tiles_of(model.config)
        pairs.append((scaled, reconstruct_any_size(model, scaled, tiles)))
    return pairs


def at_size(pairs: Sequence[Pair], size: int, factor: int) -> SizeNumbers:
    """Measure pictures of one size and their reconstructions by a model of this downsampling factor."""
    own, structure, plain = [], [], []
    for images, made in pairs:
        own.append(psnr(made, images))
        structure.append(ssim(made, images))
        plain.append(psnr(bicubic(images, factor), images))
    return SizeNumbers(
        size=size,
        psnr=finite(torch.cat(own).mean().item()),
        ssim=finite(torch.cat(structure).mean().item()),
        psnr_worst_tenth=finite(worst_tenth_psnr(torch.cat(own))),
        bicubic_psnr=finite(torch.cat(plain).mean().item()),
    )


def in_tiles(model: AutoencoderKL, pairs: Sequence[Pair], size: int) -> TilingNumbers:
    """Compare pictures of a size reconstructed in tiles of half of it with the model's reconstructions of the whole."""
    factor = model.config.downsampling_factor
    side = max(size // 2 // factor, 2) * factor
    tiles = Tiles(side, side // 4 // factor * factor)
    against: dict[str, list[Tensor]] = {"psnr_whole": [], "psnr_tiled": [], "psnr_to_whole": []}
    inside: list[Tensor] = []
    outside: list[Tensor] = []
    for images, whole in pairs:
        tiled = reconstruct_any_size(model, images, tiles)
        one, other = comparable(tiled, whole.clamp(-1.0, 1.0))
        seam = seams(images.shape[2], images.shape[3], tiles, factor, model.config.padding)
        errors = (one - other)[0]
        against["psnr_whole"].append(psnr(whole, images))
        against["psnr_tiled"].append(psnr(tiled, images))
        against["psnr_to_whole"].append(psnr_of_mse(errors.square().mean())[None])
        inside.append(errors[:, seam].flatten())
        outside.append(errors[:, ~seam].flatten())
    scores = {name: torch.cat(values) for name, values in against.items()}
    seam_errors, other_errors = torch.cat(inside), torch.cat(outside)
    return TilingNumbers(
        num_images=len(pairs),
        size=size,
        tile=tiles.size,
        overlap=tiles.overlap,
        psnr_whole=finite(scores["psnr_whole"].mean().item()),
        psnr_tiled=finite(scores["psnr_tiled"].mean().item()),
        psnr_to_whole=finite(scores["psnr_to_whole"].mean().item()),
        psnr_to_whole_min=finite(scores["psnr_to_whole"].min().item()),
        max_difference=finite(torch.cat([seam_errors, other_errors]).abs().max().item()),
        rms_seams=finite(seam_errors.square().mean().sqrt().item()),
        rms_elsewhere=finite(other_errors.square().mean().sqrt().item()),
    )
