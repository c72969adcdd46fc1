"""Look into a model's latents: what lies between two pictures, what a posterior draws, what noise is decoded to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.evaluation.decoding import between, draws, noise_latents
from pikavae.files import write_atomically
from pikavae.model.autoencoder import AutoencoderKL, DiagonalGaussian
from pikavae.model.snapshot import read_snapshot
from pikavae.model.tiling import padded, tiled_decode, tiled_encode
from pikavae.operations.cards import newest_report
from pikavae.operations.models import check_pictures, find_model, png_bytes, read_picture
from pikavae.operations.pipeline import choose_device

LAST_SEED = 2**63 - 1


@torch.inference_mode()
def interpolate(model: str, first: Path, second: Path, out: Path, config: Config, *, frames: int) -> list[Path]:
    """Decode the straight line between the latents of two picture files of one size, of any height and width.

    The frames are PNG files in `out`, named by both pictures and their place on the line; the first and the last are
    the pictures' reconstructions.

    Raises:
        UserError: a file is not there or is no picture, the sizes differ, or `frames` is under 2.
    """
    if frames < 2:
        raise UserError(f"--frames {frames}: expected at least 2, since both ends are frames")
    targets = _numbered(out, f"{first.stem}-{second.stem}", frames)
    pictures = [read_picture(path) for path in (first, second)]
    sizes = [f"{picture.shape[3]}x{picture.shape[2]}" for picture in pictures]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"IMAGE {second}: {sizes[1]} pixels, and {first} has {sizes[0]}; scale or crop one to the other"
        )
    loaded = _loaded(model, config)
    start, end = (_encode(loaded, picture).mode() for picture in pictures)
    size = pictures[0].shape[2:]
    line = between(start, end, frames)
    return _write(targets, (_decode(loaded, latent, size) for latent in line))


@torch.inference_mode()
def sample(model: str, images: list[Path], out: Path, config: Config, *, count: int, seed: int) -> list[Path]:
    """Decode what is drawn: from the posteriors of picture files, or, without any, from noise.

    Drawn from a posterior, a picture is what training decodes, where `reconstruct` decodes the mode. Noise has the mean
    and deviation of the latents as the newest report of this home measured them, and the size of its pictures. Decoded
    it is no picture of the data: that takes a diffusion model, for which this noise is the beginning.

    Args:
        model: what `find_model` takes.
        images: picture files of any size.
        out: for PNG files, named by the picture, or `noise`, and a number.
        config: the device, and the registry.
        count: how many, of each picture or in all.
        seed: of the draws. The same seed gives the same ones, and more of them begin with the same ones.

    Raises:
        UserError: a file is not there or is no picture, two would have the same name in `out`, a number is out of
            bounds, or noise is asked of a model that was never measured.
    """
    if count < 1:
        raise UserError(f"--count {count}: expected at least 1")
    if not 0 <= seed <= LAST_SEED:
        raise UserError(f"--seed {seed}: expected a whole number from 0 to {LAST_SEED}")
    if not images:
        return _sample_noise(model, _numbered(out, "noise", count), config, seed=seed)
    targets = {path: _numbered(out, path.stem, count) for path in images}
    check_pictures(images, [target for several in targets.values() for target in several])
    loaded = _loaded(model, config)
    for path in images:
        picture = read_picture(path)
        latents = draws(_encode(loaded, picture), count, seed=seed)
        _write(targets[path], (_decode(loaded, latent, picture.shape[2:]) for latent in latents))
    return [target for path in images for target in targets[path]]


def _sample_noise(model: str, targets: list[Path], config: Config, *, seed: int) -> list[Path]:
    """Decoded noise of the latents' measured mean and deviation."""
    report = newest_report(find_model(model, config.registry.model_name))
    if report is None:
        raise UserError(
            f"sample {model}: its latents were never measured, so that noise like them is not known; "
            f"`pikavae evaluate {model}` measures them, or name pictures to draw from their posteriors"
        )
    mean, std = report.metrics["latent_mean"], report.metrics["latent_std"]
    if mean is None or std is None:
        raise UserError(f"sample {model}: no noise is like its latents: {report.reasons['latent_mean']}")
    loaded = _loaded(model, config)
    side = report.image_size // report.downsampling_factor
    shape = (1, loaded.config.latent_channels, side, side)
    size = torch.Size((report.image_size, report.image_size))
    noise = noise_latents(shape, len(targets), mean=mean, std=std, seed=seed)
    return _write(targets, (_decode(loaded, latent, size) for latent in noise))


def _loaded(model: str, config: Config) -> AutoencoderKL:
    return read_snapshot(find_model(model, config.registry.model_name)).to(choose_device(config))


def _encode(model: AutoencoderKL, picture: Tensor) -> DiagonalGaussian:
    """The posterior of a picture (1, 3, H, W) of any size."""
    return tiled_encode(model, padded(picture, model.config.downsampling_factor))


def _decode(model: AutoencoderKL, latent: Tensor, size: torch.Size) -> Tensor:
    """The picture (1, 3, H, W) of a latent, cropped to `size`."""
    return tiled_decode(model, latent)[:, :, : size[0], : size[1]]


def _numbered(out: Path, name: str, count: int) -> list[Path]:
    """`name-0.png` and on, with as many digits as the last has, so that names sort as they follow."""
    digits = len(str(count - 1))
    return [out / f"{name}-{number:0{digits}d}.png" for number in range(count)]


def _write(targets: list[Path], pictures: Iterable[Tensor]) -> list[Path]:
    """Write pictures (1, 3, H, W), one in memory at a time, and return where they went."""
    for target, picture in zip(targets, pictures, strict=True):
        write_atomically(target, png_bytes(picture))
    return targets
