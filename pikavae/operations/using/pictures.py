"""Make pictures and latents with a model: reconstruct, interpolate, sample, encode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pikavae.config import Config, content_hash
from pikavae.data.pictures.form import PixelForm
from pikavae.data.side import Side
from pikavae.errors import UserError
from pikavae.evaluation.studies.decoding import between, draws, noise_latents
from pikavae.latents.encode import encode_set
from pikavae.latents.encoder import Precision
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import prepare_for_use
from pikavae.model.posterior import DiagonalGaussian
from pikavae.model.sizes import CONFIG_NAME, scaling_in
from pikavae.model.tiling import pad, reconstruct_any_size, tiled_decode, tiled_encode
from pikavae.operations.resolving.resolve import ResolvedModel
from pikavae.operations.running.pipeline import prepare
from pikavae.operations.stages.describing import has_the_latents_of_others, newest_report
from pikavae.operations.stages.runtime import choose_device, use_threads
from pikavae.operations.using.picture_files import find_pictures, is_file_name, name_targets
from pikavae.operations.using.picture_formats import form_of, picture_bytes, read_picture, suffixes_for
from pikavae.tracker.client import Workspace
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import write_atomically
from pikavae.workspace.records import read_object

LAST_SEED = 2**63 - 1


def reconstruct(model: ResolvedModel, images: list[Path], out: Path, config: Config) -> list[Path]:
    """Encode and decode picture files at their own size, and write files of the same stem to `out`.

    They are PNG files, or arrays (.npy) where PNG cannot hold the model's pictures, as `picture_formats` says.

    For a folder, all its pictures are used and keep their paths below it. A single picture may be written to the file
    that `out` names.

    Sides that the downsampling factor does not divide are padded and cropped back. Large pictures are processed in
    overlapping tiles, which bounds the memory.

    Raises:
        UserError: a file is not there or is no picture, or two files would have the same name in `out`.
    """
    loaded = _load(model, config)
    form = form_of(model.folder)
    given = find_pictures(images, arrays=not form.is_plain)
    targets = name_targets(out, [picture.name for picture in given], suffixes_for(form))
    check_pictures([picture.path for picture in given], targets, form)
    for picture, target in zip(given, targets, strict=True):
        made = reconstruct_any_size(loaded, read_picture(picture.path, form))
        write_atomically(target, picture_bytes(made, form, target.suffix.lower()))
    return targets


def check_pictures(images: list[Path], targets: list[Path], form: PixelForm) -> None:
    """Check that all picture files can be read and that no target overwrites one. One picture is in memory at a time.

    Raises:
        UserError: a file cannot be read, or would be overwritten.
    """
    given = {path.resolve() for path in images}
    if lost := [target for target in targets if target.resolve() in given]:
        raise UserError(f"--out {lost[0].parent}: {lost[0].name} there is one of the pictures; name another folder")
    for path in images:
        read_picture(path, form)


def encode(
    workspace: Workspace,
    model: ResolvedModel,
    config: Config,
    out: Path | None,
    *,
    logvar: bool,
    precision: Precision = "float32",
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Encode both sides of the configured data with any model; resume or reuse earlier work.

    Args:
        workspace: the state folder and its store.
        model: the model.
        config: data, `evaluation.batch_size`, device and threads.
        out: the folder for the latents; by default a folder below the home, named by its inputs.
        logvar: store the posterior's log-variance as well.
        precision: the format that the encoder computes in.
        progress: called with the number of encoded pictures, and the total.

    Returns:
        The keys of `pikavae encode --json`.

    Raises:
        UserError: there is no such model, or `out` holds something else.
    """
    if out is not None and is_file_name(out):
        raise UserError(f"--out {out}: the name of a file, and latents are several files; name a folder")
    use_threads(config)
    device = choose_device(config)
    prepared_set = prepare(workspace, config).prepared_set
    provenance = {
        "model": model.digest,
        "snapshot": snapshot_name(model),
        "prepared_set": prepared_set.fingerprint,
    }
    is_published = has_the_latents_of_others(model.folder)
    published = scaling_in(read_object(model.folder / CONFIG_NAME)) if is_published else None
    done = encode_set(
        read_snapshot(model.folder),
        {Side.TRAIN: prepared_set.train, Side.VALIDATION: prepared_set.validation},
        (out or default_folder(workspace, provenance, config, logvar=logvar, precision=precision)).absolute(),
        batch_size=config.evaluation.batch_size,
        device=device,
        logvar=logvar,
        precision=precision,
        provenance=provenance,
        tokenizer_folder=prepared_set.path / "tokenizer",
        published=published,
        progress=progress,
    )
    return {
        "path": str(done.path),
        "num_images": done.num_images,
        "scaling_factor": done.scaling_factor,
        "shift": done.shift,
        **({"distance": f"{precision}: {done.distance.describe(done.std)}"} if done.distance else {}),
    }


def snapshot_name(model: ResolvedModel) -> str:
    """Return a model's name for a person, without the machine's paths."""
    if model.run is not None:
        return f"run:{model.run.run_id}@{runs.step_of(model.folder)}"
    return model.title if model.version is not None else model.folder.resolve().name


def default_folder(
    workspace: Workspace,
    provenance: Mapping[str, str],
    config: Config,
    *,
    logvar: bool,
    precision: Precision = "float32",
) -> Path:
    """Return the default folder for latents: `latents/<hash of their inputs>` below the home."""
    inputs: dict[str, Any] = {name: provenance[name] for name in ("model", "prepared_set")}
    inputs |= {"logvar": logvar, "evaluation.batch_size": config.evaluation.batch_size}
    if precision != "float32":
        inputs["precision"] = precision
    return workspace.home / "latents" / content_hash(inputs)


@torch.inference_mode()
def interpolate(
    model: ResolvedModel, first: Path, second: Path, out: Path, config: Config, *, frames: int
) -> list[Path]:
    """Decode the straight line between the latents of two picture files of equal size, of any height and width.

    The frames are written to `out` as `reconstruct` does, named by both pictures and their place on the line. The first
    and the last are the pictures' reconstructions.

    Raises:
        UserError: a file does not exist or is not a picture, the sizes differ, or `frames` is under 2.
    """
    if frames < 2:
        raise UserError(f"--frames {frames}: expected at least 2, since both ends are frames")
    form = form_of(model.folder)
    targets = name_targets(out, _number_names(f"{first.stem}-{second.stem}", frames), suffixes_for(form))
    pictures = [read_picture(path, form) for path in (first, second)]
    sizes = [f"{picture.shape[3]}x{picture.shape[2]}" for picture in pictures]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"IMAGE {second}: {sizes[1]} pixels, and {first} has {sizes[0]}; scale or crop one to the other"
        )
    loaded = _load(model, config)
    start, end = (_encode(loaded, picture).mode() for picture in pictures)
    size = pictures[0].shape[2:]
    line = between(start, end, frames)
    return _write(targets, (_decode(loaded, latent, size) for latent in line), form)


@torch.inference_mode()
def sample(
    workspace: Workspace, model: ResolvedModel, images: list[Path], out: Path, config: Config, *, count: int, seed: int
) -> list[Path]:
    """Decode random latents, drawn from the posteriors of picture files or, without files, from noise.

    Training decodes draws from a posterior; `reconstruct` decodes its mode. Noise has the mean and deviation of the
    latents that this home's newest report measured, and the size of the report's pictures. Decoded noise does not look
    like the data: a diffusion model turns such noise into latents of pictures.

    Args:
        workspace: the state folder and its store.
        model: the model.
        images: picture files of any size.
        out: the folder for the pictures, named by the picture, or `noise`, and a number.
        config: the device, and the registry.
        count: how many pictures to write, for each file or in all.
        seed: the seed of the draws. Equal seeds give equal draws; a larger `count` begins with the same ones.

    Raises:
        UserError: a file does not exist or is not a picture, two would have the same name in `out`, a number is out of
            bounds, or noise is requested from a model that was never measured.
    """
    if count < 1:
        raise UserError(f"--count {count}: expected at least 1")
    if not 0 <= seed <= LAST_SEED:
        raise UserError(f"--seed {seed}: expected a whole number from 0 to {LAST_SEED}")
    form = form_of(model.folder)
    if not images:
        targets = name_targets(out, _number_names("noise", count), suffixes_for(form))
        return _sample_noise(workspace, model, targets, config, form, seed=seed)
    given = find_pictures(images, arrays=not form.is_plain)
    names = [name for picture in given for name in _number_names(picture.name, count)]
    targets = name_targets(out, names, suffixes_for(form))
    check_pictures([picture.path for picture in given], targets, form)
    loaded = _load(model, config)
    for place, named in enumerate(given):
        picture = read_picture(named.path, form)
        latents = draws(_encode(loaded, picture), count, seed=seed)
        own = targets[place * count : (place + 1) * count]
        _write(own, (_decode(loaded, latent, picture.shape[2:]) for latent in latents), form)
    return targets


def _sample_noise(
    workspace: Workspace, model: ResolvedModel, targets: list[Path], config: Config, form: PixelForm, *, seed: int
) -> list[Path]:
    """Decode noise of the latents' measured mean and deviation, and write the pictures."""
    report = newest_report(workspace, model.folder)
    if report is None:
        raise UserError(
            f"sample {model.name}: its latents were never measured, so that noise like them is not known; "
            f"`pikavae evaluate {model.name}` measures them, or name pictures to draw from their posteriors"
        )
    mean, std = report.metrics["latent_mean"], report.metrics["latent_std"]
    if mean is None or std is None:
        raise UserError(f"sample {model.name}: no noise is like its latents: {report.reasons['latent_mean']}")
    loaded = _load(model, config)
    side = report.image_size // report.downsampling_factor
    shape = (1, loaded.config.latent_channels, side, side)
    size = torch.Size((report.image_size, report.image_size))
    noise = noise_latents(shape, len(targets), mean=mean, std=std, seed=seed)
    return _write(targets, (_decode(loaded, latent, size) for latent in noise), form)


def _load(model: ResolvedModel, config: Config) -> AutoencoderKL:
    return prepare_for_use(read_snapshot(model.folder), choose_device(config))


def _encode(model: AutoencoderKL, picture: Tensor) -> DiagonalGaussian:
    """Return the posterior of a picture (1, C, H, W) of any size."""
    return tiled_encode(model, pad(picture, model.config.downsampling_factor))


def _decode(model: AutoencoderKL, latent: Tensor, size: torch.Size) -> Tensor:
    """Return the picture (1, C, H, W) of a latent, cropped to `size`."""
    return tiled_decode(model, latent)[:, :, : size[0], : size[1]]


def _number_names(name: str, count: int) -> list[str]:
    """Return `name-0`, `name-1` and so on, padded with zeros so that they sort in order."""
    digits = len(str(count - 1))
    return [f"{name}-{number:0{digits}d}" for number in range(count)]


def _write(targets: list[Path], pictures: Iterable[Tensor], form: PixelForm) -> list[Path]:
    """Write pictures (1, C, H, W), one in memory at a time, and return their paths."""
    for target, picture in zip(targets, pictures, strict=True):
        write_atomically(target, picture_bytes(picture, form, target.suffix.lower()))
    return targets
