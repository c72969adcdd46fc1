"""Latents for what comes next: a prepared set encoded into Parquet shards that `datasets.load_dataset` reads.

train-00000-of-00003.parquet       a row for a picture: latent, logvar where asked for, input_ids, caption, sha256, name
validation-00000-of-00001.parquet  the same for the validation pictures
tokenizer/                         the tokenizer that made the input_ids, where one was given
README.md                          what this is and how to load it; its header names the splits
latents.json                       scaling factor, statistics, origin, and the hash of every file; written last

A latent is the posterior's mean in float32, neither sampled nor scaled. On three trained models of 64 px, float16
changed 0.7 to 0.9 % of the decoded 8-bit values by one step (85 to 87 dB): little, but its rounding reaches a third of
the posterior's deviation, it ends at 65504, and it could not be compared with the model's output bit by bit.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pikavae import __version__
from pikavae.data.dataset import PictureSet
from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.evaluation.evaluate import exact_float32
from pikavae.evaluation.latent_card import card
from pikavae.evaluation.latent_encoder import Encoder
from pikavae.evaluation.latent_shards import (
    CARRIED,
    Settings,
    Shard,
    carried,
    is_whole,
    plan_shards,
    settings_of,
    stored_latents,
    stored_rows,
    write_shard,
)
from pikavae.evaluation.latents import LatentStatistics
from pikavae.files import exclusive, folder_atomically, sha256_of, write_atomically
from pikavae.model.autoencoder import AutoencoderKL, DiagonalGaussian
from pikavae.versions import code_version

Progress = Callable[[int, int | None], None]

RECORD_NAME, CARD_NAME, TOKENIZER_NAME, LOCK_NAME = "latents.json", "README.md", "tokenizer", ".latents.lock"
ROWS_PER_SHARD = 1024
SAMPLE = 16
NOT_IN_RESULT = frozenset(("snapshot", "computed_on", "torch", "pikavae", "code of pikavae/model"))
"""Settings that a set keeps to while it is made, so that it is of one piece, but that a finished one need not match."""


@dataclass(frozen=True)
class LatentSet:
    """A finished set of latents.

    Attributes:
        path: its folder.
        num_images: rows of all splits together.
        scaling_factor: 1 / std over all numbers of the train split's latents, std^2 = mean((z - mean(z))^2): Rombach et
            al. 2022 (arXiv:2112.10752), appendix G, who take it of the first batch instead of the whole split.
        shift: mean(z). A trainer takes `latent * scaling_factor`, as Stable Diffusion does, or
            `(latent - shift) * scaling_factor`, which is centred as well.
        files: the SHA-256 of each shard and tokenizer file, by its path in the folder.
    """

    path: Path
    num_images: int
    scaling_factor: float
    shift: float
    files: Mapping[str, str]


def encode_set(
    model: AutoencoderKL,
    sides: Mapping[str, PictureSet],
    folder: Path,
    *,
    batch_size: int,
    device: torch.device,
    logvar: bool,
    provenance: Mapping[str, str],
    tokenizer_folder: Path | None,
    rows_per_shard: int = ROWS_PER_SHARD,
    progress: Progress | None = None,
) -> LatentSet:
    """Encode every picture into `folder`, go on with a set that was begun there, or find it finished.

    On a CPU at one number of threads, a set that was broken off and gone on with has the bytes of an undisturbed one.
    Memory holds one shard at a time.

    Args:
        model: moved to `device` and to float32.
        sides: the pictures by split; the scaling factor is measured on `train`.
        folder: made when it is not there.
        batch_size: pictures encoded at once.
        device: where to compute.
        logvar: store the posterior's log-variance as well, so that latents can be sampled.
        provenance: what names model and pictures: `model` (digest), `snapshot`, `prepared_set`. Kept in every shard.
        tokenizer_folder: copied into the set.
        rows_per_shard: what is lost at most when the process is killed.
        progress: told how many pictures are done, and of how many.

    Raises:
        UserError: the folder holds something else, or latents of another model or setting; the model cannot take
            pictures of this size; a side is empty. Nothing was written.
        DamagedFileError: the set was finished and then altered.
        PikavaeError: another process is writing there, a latent is not finite, or what was read back is not what the
            model gives. The set is left unfinished, without `latents.json`.
    """
    _check(model, sides)
    encoder = Encoder(model, device, batch_size)
    settings = _settings(encoder, sides, logvar, provenance, rows_per_shard)
    _refuse_other_content(folder, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}; name a folder that can be made") from None
    busy = f"--out {folder}: another process is writing latents there; wait for it or name another folder"
    with exclusive(folder / LOCK_NAME, busy=busy):
        _refuse_other_content(folder, settings)  # once more, now that nobody else writes
        if (folder / RECORD_NAME).is_file():
            return open_latent_set(folder)
        shards = plan_shards(folder, sides, rows_per_shard)
        _remove_leftovers(folder, shards)
        model.to(device, torch.float32)
        with torch.inference_mode(), exact_float32():
            _write_missing(encoder, sides, shards, settings, progress)
            statistics = _read_back(encoder, sides, shards)
        if tokenizer_folder is not None:
            with folder_atomically(folder / TOKENIZER_NAME) as temporary:
                shutil.copytree(tokenizer_folder, temporary, dirs_exist_ok=True)
        record = _record(folder, shards, settings, statistics)
        write_atomically(folder / CARD_NAME, card(record))
        write_atomically(folder / RECORD_NAME, json.dumps(record, indent=1) + "\n")
    return _latent_set(folder, record)


def open_latent_set(folder: Path) -> LatentSet:
    """A finished set whose files have the hashes that were recorded.

    Raises:
        UserError: there is no finished set.
        DamagedFileError: a file is missing or altered.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise UserError(f"{folder}: no finished set of latents, {RECORD_NAME} is missing")
    try:
        found = _latent_set(folder, json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFileError(f"{path}: altered since it was written; remove it and encode again") from None
    for name, expected in found.files.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            raise DamagedFileError(
                f"{folder / name}: missing or altered since it was written; remove it and {RECORD_NAME}, then encode "
                f"again"
            )
    return found


def _latent_set(folder: Path, record: Mapping[str, Any]) -> LatentSet:
    num_images = sum(record["num_images"].values())
    return LatentSet(folder, num_images, record["scaling_factor"], record["shift"], dict(record["files"]))


def _check(model: AutoencoderKL, sides: Mapping[str, PictureSet]) -> None:
    factor = model.config.downsampling_factor
    for side, pictures in sides.items():
        size = pictures.image_size
        if len(pictures) == 0:
            raise UserError(f"data.source: the {side} side holds no pictures; add pictures")
        if len(pictures.shapes) > 1:
            raise UserError("data.crop buckets: latents are stored in one shape; set data.crop to center or random")
        if size % factor:
            below = max(factor, size - size % factor)
            raise UserError(
                f"data.image_size {size} is not a multiple of the model's downsampling factor {factor}: "
                f"use {below} or {below + factor}"
            )


def _settings(
    encoder: Encoder,
    sides: Mapping[str, PictureSet],
    logvar: bool,
    provenance: Mapping[str, str],
    rows_per_shard: int,
) -> Settings:
    """All that decides the bytes of the shards, each of which carries it."""
    config, image_size = encoder.model.config, sides["train"].image_size
    side = image_size // config.downsampling_factor
    return {
        **provenance,
        "image_size": image_size,
        "downsampling_factor": config.downsampling_factor,
        "latent_shape": [config.latent_channels, side, side],
        "logvar": logvar,
        "num_images": {name: len(pictures) for name, pictures in sides.items()},
        "batch_size": encoder.batch_size,
        "rows_per_shard": rows_per_shard,
        "computed_on": encoder.computed_on,
        "torch": str(torch.__version__),
        "pikavae": __version__,
        "code of pikavae/model": code_version("model"),
    }


def _refuse_other_content(folder: Path, settings: Settings) -> None:
    """Raise a UserError unless the folder is new, empty, or holds shards of these settings."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; name a folder")
    shards = sorted(folder.glob("*.parquet"))
    ignored = NOT_IN_RESULT if (folder / RECORD_NAME).is_file() else frozenset()
    for path in shards:
        made = settings_of(path)
        if made is None:
            raise UserError(f"--out {folder}: holds {path.name}, which is no shard of latents; name another folder")
        differing = sorted(name for name in {*made, *settings} - ignored if made.get(name) != settings.get(name))
        if differing:
            listed = "; ".join(f"{name} is {made.get(name)!r}, not {settings.get(name)!r}" for name in differing[:3])
            raise UserError(f"--out {folder}: holds other latents ({listed}); name another folder")
    if not shards and folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise UserError(f"--out {folder}: holds {others[0]!r}; name a new or an empty folder")


def _remove_leftovers(folder: Path, shards: list[Shard]) -> None:
    """Remove the temporary files of a killed run, by their full names: the folder may hold hidden files of the user."""
    names = [shard.path.name for shard in shards] + [CARD_NAME, RECORD_NAME, TOKENIZER_NAME]
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[0-9a-f]{{32}}(\.old)?\.tmp")
    for path in list(folder.iterdir()):
        if pattern.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_missing(
    encoder: Encoder,
    sides: Mapping[str, PictureSet],
    shards: list[Shard],
    settings: Settings,
    progress: Progress | None,
) -> None:
    """Write the shards that are not there yet."""
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
        logvar = torch.cat([posterior.logvar for posterior in posteriors]) if settings["logvar"] else None
        write_shard(shard, sides[shard.side], settings, latent, logvar)


def _read_back(encoder: Encoder, sides: Mapping[str, PictureSet], shards: list[Shard]) -> LatentStatistics:
    """Read every shard through `datasets`, compare it with what it was made of, and measure the train split.

    Raises:
        PikavaeError: a shard holds other rows than the prepared set, or a sampled row is not what the model gives.
    """
    statistics = LatentStatistics(encoder.model.config.latent_channels)
    sample, before = _sample(sum(map(len, sides.values()))), 0
    for shard in shards:
        pictures, start = sides[shard.side], shard.start
        for rows in stored_rows(shard):
            stop = start + len(rows)
            if stop > shard.stop or not rows.select(CARRIED.names).equals(carried(pictures, start, stop)):
                raise PikavaeError(f"{shard.path}: holds other rows than the prepared set; remove it and encode again")
            stored = {name: stored_latents(rows, name) for name in ("latent", "logvar") if name in rows.column_names}
            if shard.side == "train":
                latent = stored["latent"]
                statistics.update(DiagonalGaussian(latent, torch.zeros_like(latent)))  # its KL is not asked for
            for index in range(start, stop):
                if before + index - shard.start in sample:
                    one = {name: values[index - start][None] for name, values in stored.items()}
                    _compare(encoder, pictures, shard, index, one)
            start = stop
        if start != shard.stop:
            raise PikavaeError(f"{shard.path}: rows are missing; remove it and encode again")
        before += len(shard)
    return statistics


def _sample(count: int) -> set[int]:
    """Rows spread evenly over the whole set, the first and the last among them."""
    return {round(i * (count - 1) / (SAMPLE - 1)) for i in range(SAMPLE)}


def _compare(encoder: Encoder, pictures: PictureSet, shard: Shard, index: int, stored: Mapping[str, Tensor]) -> None:
    """Encode the row's batch again: what is stored must be that, and decode to the same picture, to the last bit."""
    posterior = encoder.posterior_of_row(pictures, shard, index)
    fresh = {"latent": posterior.mode(), "logvar": posterior.logvar}
    same = all(torch.equal(values, fresh[name]) for name, values in stored.items())
    if not same or not torch.equal(encoder.decode(stored["latent"]), encoder.decode(fresh["latent"])):
        raise PikavaeError(
            f"{shard.path}: row {index - shard.start} is not what the model makes of its picture; remove it and encode "
            f"again"
        )


def _record(folder: Path, shards: list[Shard], settings: Settings, statistics: LatentStatistics) -> dict[str, Any]:
    """The content of `latents.json`."""
    if statistics.std == 0.0:
        raise PikavaeError("all latents are equal, so that there is no scaling factor; use another snapshot")
    tokenizer = sorted(path for path in (folder / TOKENIZER_NAME).rglob("*") if path.is_file())
    files = [*(shard.path for shard in shards), *tokenizer]
    return {
        "scaling_factor": statistics.scaling_factor,
        "shift": statistics.mean,
        "std": statistics.std,
        "channel_means": statistics.channel_means.tolist(),
        "channel_stds": statistics.channel_stds.tolist(),
        "statistics": "of the posterior's mean over the train split, population deviation; scaling_factor = 1 / std",
        **settings,
        "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files},
    }
