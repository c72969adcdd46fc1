"""Studies whole pictures of a set that shows crops of them, which `data.crop native` makes."""

from __future__ import annotations

import torch
from torch import Tensor

from pikavae.data.prepared.dataset import to_float
from pikavae.evaluation.measure.measurement import EvaluationSet, Measured, Sample
from pikavae.evaluation.metrics.similarity import comparable, psnr_of_mse, ssim, ssim_window
from pikavae.evaluation.report.sections import WholePictures, finite
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.tiling import reconstruct_any_size, seams, tiles_of

STRIP_ROWS = 256
"""The rows that are measured at a time: in float64, the maps of a giant picture would not fit into memory."""
PROTOCOL = {
    "whole": "the first pictures of the set at their own resolution and in one piece, reconstructed in tiles; seams "
    "are the pixels that more than one tile makes",
}


def study_whole(
    model: AutoencoderKL,
    sample: Sample,  # noqa: ARG001 - it holds crops
    *,
    picture_set: EvaluationSet,
    count: int,
) -> Measured:
    """Compute field `whole` of a report: how whole pictures come out in tiles.

    Args:
        model: on the device where it computes; pictures stay on the CPU.
        sample: not used.
        picture_set: the evaluation set. Without whole pictures, nothing is measured.
        count: how many of the first pictures, at most.
    """
    factor, padding, tiles = model.config.downsampling_factor, model.config.padding, tiles_of(model.config)
    scores: list[tuple[float, float]] = []
    sums = torch.zeros(2, 2, dtype=torch.float64)  # of squared errors and of numbers, elsewhere and at seams
    largest = (0, 0)
    for index in range(min(count, len(picture_set))):
        pixels = picture_set.whole_pixels(index)
        if pixels is None:
            return Measured(whole=WholePictures())
        images = to_float(pixels[None])
        height, width = images.shape[2:]
        made = reconstruct_any_size(model, images, tiles)
        padded = (height + -height % factor, width + -width % factor)
        seam = seams(padded[0], padded[1], tiles, factor, padding)[:height, :width]
        of_picture = torch.zeros(2, 2, dtype=torch.float64)
        for top in range(0, height, STRIP_ROWS):
            rows = slice(top, top + STRIP_ROWS)
            one, other = comparable(made[:, :, rows], images[:, :, rows])
            squares = (one - other).square().sum(dim=(0, 1))  # (rows, W)
            for place, marks in enumerate((~seam[rows], seam[rows])):
                of_picture[place] += torch.stack([squares[marks].sum(), images.shape[1] * marks.sum()])
        sums += of_picture
        scores.append((psnr_of_mse(of_picture[:, 0].sum() / of_picture[:, 1].sum()).item(), _ssim(made, images)))
        largest = max(largest, (width, height), key=lambda size: size[0] * size[1])
    if not scores:
        return Measured(whole=WholePictures())
    decibels, structure = (torch.tensor(column, dtype=torch.float64) for column in zip(*scores, strict=True))
    elsewhere, at_seams = (sums[:, 0] / sums[:, 1]).sqrt().tolist()
    found = WholePictures(
        num_images=len(scores),
        largest_width=largest[0],
        largest_height=largest[1],
        tile=tiles.size,
        overlap=tiles.overlap,
        psnr=finite(decibels.mean().item()),
        psnr_min=finite(decibels.min().item()),
        ssim=finite(structure.mean().item()),
        rms_seams=finite(at_seams),
        rms_elsewhere=finite(elsewhere),
    )
    return Measured(whole=found, protocol=PROTOCOL)


def _ssim(made: Tensor, images: Tensor) -> float:
    """Compute `ssim` of one picture from strips that overlap by a window: the same windows, and their mean."""
    height, width = images.shape[2:]
    reach = ssim_window(height, width) - 1
    total, last = 0.0, height - reach
    for top in range(0, last, STRIP_ROWS):
        rows = slice(top, min(top + STRIP_ROWS, last) + reach)
        strip = ssim(made[:, :, rows], images[:, :, rows])
        total += strip.item() * (rows.stop - reach - rows.start)
    return total / last
