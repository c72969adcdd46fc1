"""Encodes a prepared set into Parquet shards of latents that `datasets.load_dataset` reads.

train-00000-of-00003.parquet       a row for a picture: latent, logvar if requested, input_ids, caption, sha256, name
validation-00000-of-00001.parquet  the same for the validation pictures
tokenizer/                         the tokenizer that made the input_ids, if one was given
README.md                          what this is and how to load it; its header names the splits
latents.json                       scaling factor, statistics, origin, and the hash of every file; written last

A latent is the posterior's mean in float32, not sampled and not scaled; with `model.latent_norm`, it is packed and
normalised, as its diffusion model takes it (`model/latent_norm.py`).

On three trained models of 64 px, float16 changed only 0.7 to 0.9 % of the decoded 8-bit values by one step (85 to 87
dB). But its rounding reaches a third of the posterior's deviation, it ends at 65504, and it could not be compared with
the model's output bit by bit.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pikavae import __version__
from pikavae.config import content_hash, why_size_does_not_fit
from pikavae.data.prepared.dataset import PictureSet
from pikavae.data.side import Side
from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.evaluation.measure.latent_statistics import LatentStatistics
from pikavae.latents.card import card
from pikavae.latents.encoder import Precision, RowEncoder
from pikavae.latents.record import CODE, Distance, LatentRecord, LatentSettings
from pikavae.latents.shards import (
    COPIED,
    LatentShard,
    copied_columns,
    is_whole,
    plan_shards,
    settings_of,
    stored_latents,
    stored_rows,
    write_shard,
)
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32, prepare_for_use
from pikavae.model.posterior import DiagonalGaussian
from pikavae.model.sizes import Factors
from pikavae.workspace.files import exclusive, folder_atomically, sha256_of, write_atomically
from pikavae.workspace.provenance import code_of

Progress = Callable[[int, int | None], None]

RECORD_NAME, CARD_NAME, TOKENIZER_NAME, LOCK_NAME = "latents.json", "README.md", "tokenizer", ".latents.lock"
ROWS_PER_SHARD = 1024
SAMPLE = 16
NOT_IN_RESULT = frozenset(("snapshot", "computed_on", "torch", "pikavae", CODE, "code of pikavae/model"))
"""Settings that must stay equal until a set is finished, but that a finished set need not match."""


@dataclass(frozen=True)
class LatentSet:
    """Describes a finished set of latents.

    Attributes:
        path: its folder.
        num_images: rows of all splits together.
        scaling_factor: 1 / std over all numbers of the train split's latents, std^2 = mean((z - mean(z))^2): Rombach et
            al. 2022 (arXiv:2112.10752), appendix G, who use the first batch instead of the whole split.
        shift: mean(z). A trainer uses `latent * scaling_factor`, like Stable Diffusion, or
            `(latent - shift) * scaling_factor`, which also centres the latents.
        files: the SHA-256 of each shard and tokenizer file, by its path in the folder.
        std: the deviation of all numbers of the train split's latents.
        distance: how far the latents are from those in float32; None if they are in float32.
    """

    path: Path
    num_images: int
    scaling_factor: float
    shift: float
    files: Mapping[str, str]
    std: float = 0.0
    distance: Distance | None = None


def encode_set(
    model: AutoencoderKL,
    sides: Mapping[Side, PictureSet],
    folder: Path,
    *,
    batch_size: int,
    device: torch.device,
    logvar: bool,
    precision: Precision = "float32",
    provenance: Mapping[str, str],
    tokenizer_folder: Path | None,
    published: Factors | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress | None = None,
) -> LatentSet:
    """Encode every picture into `folder`, resume a set that was begun there, or return the finished set.

    On a CPU with one number of threads, a set that was interrupted and resumed has the same bytes as one that was not.
    Memory holds one shard at a time.

    Args:
        model: moved to `device` and to float32.
        sides: the pictures by split; the scaling factor is measured on `train`.
        folder: created if it does not exist.
        batch_size: how many pictures are encoded at once.
        device: where to compute.
        logvar: if True, also store the posterior's log-variance, so that latents can be sampled.
        precision: the format that the encoder computes in. The record of latents in `bf16` says how far they are from
            float32, measured on some of the pictures.
        provenance: names model and pictures: `model` (digest), `snapshot`, `prepared_set`. Every shard keeps it.
        tokenizer_folder: copied into the set.
        published: the scaling and shift factors that the weights were published with, by diffusers' names.
        rows_per_shard: rows of a shard; as many are lost at most if the process is killed.
        progress: called with how many pictures are done, and of how many.

    Raises:
        UserError: the folder holds something else, or latents of another model or setting; the model cannot encode
            pictures of this size; a side is empty. Nothing was written.
        DamagedFileError: the set was finished and then altered.
        PikavaeError: another process is writing there, a latent is not finite, or what was read back differs from what
            the model gives. The set remains unfinished, without `latents.json`.
    """
    _check(model, sides)
    encoder = RowEncoder(model, device, batch_size, precision)
    settings = _settings(encoder, sides, logvar, provenance, rows_per_shard)
    _refuse_other_content(folder, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}; name a folder that can be made") from None
    busy = f"--out {folder}: another process is writing latents there; wait for it or name another folder"
    with exclusive(folder / LOCK_NAME, busy=busy):
        _refuse_other_content(folder, settings)  # again, now that no other process writes
        if (folder / RECORD_NAME).is_file():
            return open_latent_set(folder)
        shards = plan_shards(folder, sides, rows_per_shard)
        _remove_leftovers(folder, shards)
        prepare_for_use(model, device)
        with torch.inference_mode(), exact_float32():
            _write_missing(encoder, sides, shards, settings, progress)
            statistics = _read_back(encoder, sides, shards, settings)
            distance = None if precision == "float32" else _distance(encoder, sides, shards)
        if tokenizer_folder is not None:
            with folder_atomically(folder / TOKENIZER_NAME) as temporary:
                shutil.copytree(tokenizer_folder, temporary, dirs_exist_ok=True)
        record = _record(folder, shards, settings, statistics, published or {}, distance)
        write_atomically(folder / CARD_NAME, card(record))
        write_atomically(folder / RECORD_NAME, record.to_json(indent=1))
    return _latent_set(folder, record)


def open_latent_set(folder: Path) -> LatentSet:
    """Open a finished set and check the recorded hashes of its files.

    Raises:
        UserError: there is no finished set.
        DamagedFileError: a file is missing or altered.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise UserError(f"{folder}: no finished set of latents, {RECORD_NAME} is missing")
    try:
        found = _latent_set(folder, LatentRecord.read(path))
    except DamagedFileError:
        raise DamagedFileError(f"{path}: altered since it was written; remove it and encode again") from None
    for name, expected in found.files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise DamagedFileError(
                f"{folder / name}: missing or altered since it was written; remove it and {RECORD_NAME}, then encode "
                f"again"
            )
    return found


def _latent_set(folder: Path, record: LatentRecord) -> LatentSet:
    count, files = sum(record.num_images.values()), record.files
    return LatentSet(folder, count, record.scaling_factor, record.shift, files, record.std, record.distance)


def _check(model: AutoencoderKL, sides: Mapping[Side, PictureSet]) -> None:
    for side, picture_set in sides.items():
        if len(picture_set) == 0:
            raise UserError(f"data.source: the {side} side holds no pictures; add pictures")
        if len(picture_set.shapes) > 1:
            raise UserError("data.crop buckets: latents are stored in one shape; set data.crop to center or random")
        if reason := why_size_does_not_fit(picture_set.image_size, model.config.size_step):
            raise UserError(reason)


def _settings(
    encoder: RowEncoder,
    sides: Mapping[Side, PictureSet],
    logvar: bool,
    provenance: Mapping[str, str],
    rows_per_shard: int,
) -> LatentSettings:
    """Return everything that decides the shards' bytes."""
    config, image_size = encoder.model.config, sides[Side.TRAIN].image_size
    length, cell = image_size // config.size_step, config.size_step // config.downsampling_factor
    return LatentSettings(
        **provenance,
        image_size=image_size,
        downsampling_factor=config.downsampling_factor,
        latent_shape=[cell**2 * config.latent_channels, length, length],
        normalised=config.latent_norm,
        logvar=logvar,
        precision=encoder.precision,
        num_images={str(side): len(picture_set) for side, picture_set in sides.items()},
        batch_size=encoder.batch_size,
        rows_per_shard=rows_per_shard,
        computed_on=encoder.computed_on,
        torch=str(torch.__version__),
        pikavae=__version__,
        code=content_hash(code_of("latents")),
    )


def _refuse_other_content(folder: Path, settings: LatentSettings) -> None:
    """Raise a UserError unless the folder is new, empty, or holds shards of these settings."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; name a folder")
    shards, wanted = sorted(folder.glob("*.parquet")), settings.content()
    ignored = NOT_IN_RESULT if (folder / RECORD_NAME).is_file() else frozenset()
    for path in shards:
        made = settings_of(path)
        if made is None:
            raise UserError(f"--out {folder}: holds {path.name}, which is not a shard of latents; name another folder")
        made = {"precision": "float32", "normalised": False, **made}  # which shards of earlier versions do not state
        differing = sorted(name for name in {*made, *wanted} - ignored if made.get(name) != wanted.get(name))
        if differing:
            listed = "; ".join(f"{name} is {made.get(name)!r}, not {wanted.get(name)!r}" for name in differing[:3])
            raise UserError(f"--out {folder}: holds other latents ({listed}); name another folder")
    if not shards and folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(f"--out {folder}: holds {others[0]!r}; name a new or an empty folder")


def _remove_leftovers(folder: Path, shards: list[LatentShard]) -> None:
    """Remove a killed run's temporary files, by their full names: the folder may hold hidden files of the user."""
    names = [shard.path.name for shard in shards] + [CARD_NAME, RECORD_NAME, TOKENIZER_NAME]
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{32}}(\.old)?\.tmp")
    for path in list(folder.iterdir()):
        if pattern.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_missing(
    encoder: RowEncoder,
    sides: Mapping[Side, PictureSet],
    shards: list[LatentShard],
    settings: LatentSettings,
    progress: Progress | None,
) -> None:
    """Write the shards that are missing or damaged."""
    done, total = 0, sum(map(len, sides.values()))
    for shard in shards:
        if is_whole(shard):
            done += len(shard)
            continue
        posteriors = []
        for posterior in encoder.posteriors(sides[shard.side], shard):
            posteriors.append(posterior)
            done += len(posterior.mean)
            if progress is not None:
                progress(done, total)
        latent = torch.cat([posterior.mode() for posterior in posteriors])
        logvar = torch.cat([posterior.logvar for posterior in posteriors]) if settings.logvar else None
        write_shard(shard, sides[shard.side], settings, latent, logvar)


def _read_back(
    encoder: RowEncoder, sides: Mapping[Side, PictureSet], shards: list[LatentShard], settings: LatentSettings
) -> LatentStatistics:
    """Read every shard through `datasets`, compare it with its prepared rows, and measure the train split.

    Raises:
        PikavaeError: a shard differs from the prepared set, or a sampled row differs from what the model gives.
    """
    statistics = LatentStatistics(settings.latent_shape[0])
    sample, before = _sample(sum(map(len, sides.values()))), 0
    for shard in shards:
        picture_set, start = sides[shard.side], shard.start
        for rows in stored_rows(shard):
            stop = start + len(rows)
            if stop > shard.stop or not rows.select(COPIED.names).equals(copied_columns(picture_set, start, stop)):
                raise PikavaeError(f"{shard.path}: holds other rows than the prepared set; remove it and encode again")
            stored = {name: stored_latents(rows, name) for name in ("latent", "logvar") if name in rows.column_names}
            if shard.side == Side.TRAIN:
                latent = stored["latent"]
                statistics.update(DiagonalGaussian(latent, torch.zeros_like(latent)))  # its KL is not used
            for index in range(start, stop):
                if before + index - shard.start in sample:
                    one = {name: values[index - start][None] for name, values in stored.items()}
                    _compare(encoder, picture_set, shard, index, one)
            start = stop
        if start != shard.stop:
            raise PikavaeError(f"{shard.path}: rows are missing; remove it and encode again")
        before += len(shard)
    return statistics


def _sample(count: int) -> set[int]:
    """Choose rows spread evenly over the whole set, including the first and the last."""
    return {round(i * (count - 1) / (SAMPLE - 1)) for i in range(SAMPLE)}


def _compare(
    encoder: RowEncoder, picture_set: PictureSet, shard: LatentShard, index: int, stored: Mapping[str, Tensor]
) -> None:
    """Encode the row's batch again and check that the stored row and its decoded picture are equal to the last bit."""
    posterior = encoder.posterior_of_row(picture_set, shard, index)
    fresh = {"latent": posterior.mode(), "logvar": posterior.logvar}
    same = all(torch.equal(values, fresh[name]) for name, values in stored.items())
    if not same or not torch.equal(encoder.decode(stored["latent"]), encoder.decode(fresh["latent"])):
        raise PikavaeError(
            f"{shard.path}: row {index - shard.start} is not the latent of its picture; remove it and encode again"
        )


def _distance(encoder: RowEncoder, sides: Mapping[Side, PictureSet], shards: list[LatentShard]) -> Distance:
    """Encode some pictures in float32 too, and measure how far the latents are from each other."""
    exact, sample, before = replace(encoder, precision="float32"), _sample(sum(map(len, sides.values()))), 0
    differences = []
    for shard in shards:
        for index in range(shard.start, shard.stop):
            if before + index - shard.start in sample:
                half, whole = (one.posterior_of_row(sides[shard.side], shard, index).mode() for one in (encoder, exact))
                differences.append((half - whole).double().flatten())
        before += len(shard)
    of_all = torch.cat(differences)
    return Distance(
        pictures=len(differences), largest=of_all.abs().max().item(), rms=of_all.square().mean().sqrt().item()
    )


def _record(
    folder: Path,
    shards: list[LatentShard],
    settings: LatentSettings,
    statistics: LatentStatistics,
    published: Factors,
    distance: Distance | None,
) -> LatentRecord:
    """Return the content of `latents.json`."""
    if statistics.std == 0.0:
        raise PikavaeError("all latents are equal, so they have no scaling factor; use another snapshot")
    tokenizer = sorted(path for path in (folder / TOKENIZER_NAME).rglob("*") if path.is_file())
    files = [*(shard.path for shard in shards), *tokenizer]
    came_with: dict[str, Any] = {f"published_{name}": value for name, value in published.items()}
    if distance is not None:
        came_with["distance"] = distance
    return LatentRecord(
        scaling_factor=statistics.scaling_factor,
        shift=statistics.mean,
        std=statistics.std,
        channel_means=statistics.channel_means.tolist(),
        channel_stds=statistics.channel_stds.tolist(),
        statistics="of the posterior's mean over the train split, population deviation; scaling_factor = 1 / std",
        **came_with,
        **settings.content(),
        files={path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    )
