"""Encode a prepared set with a model: latents for what is trained next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pikavae import runs
from pikavae.config import Config, content_hash
from pikavae.evaluation.latent_set import encode_set
from pikavae.home import home
from pikavae.model.snapshot import read_snapshot
from pikavae.operations.models import RUN_MODEL, find_model
from pikavae.operations.pipeline import choose_device, prepare, use_threads


def encode(
    model: str,
    config: Config,
    out: Path | None,
    *,
    logvar: bool,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Encode both sides of the configured data with any model; goes on with, or finds, what was done before.

    Args:
        model: what `find_model` takes.
        config: data, `evaluation.batch_size`, device and threads.
        out: the folder for the latents; without one, a folder below the home, named by what it holds.
        logvar: store the posterior's log-variance as well.
        progress: told how many pictures are encoded, and of how many.

    Returns:
        The keys of `pikavae encode --json`.

    Raises:
        UserError: there is no such model, or `out` holds something else.
    """
    snapshot = find_model(model, config.registry.model_name)
    use_threads(config)
    device = choose_device(config)
    pictures = prepare(config).pictures
    provenance = {
        "model": runs.snapshot_digest(snapshot),
        "snapshot": snapshot_name(model, snapshot, config),
        "prepared_set": pictures.fingerprint,
    }
    done = encode_set(
        read_snapshot(snapshot),
        {"train": pictures.train, "validation": pictures.validation},
        (out or default_folder(provenance, config, logvar=logvar)).expanduser().absolute(),
        batch_size=config.evaluation.batch_size,
        device=device,
        logvar=logvar,
        provenance=provenance,
        tokenizer_folder=pictures.path / "tokenizer",
        progress=progress,
    )
    return {
        "path": str(done.path),
        "num_images": done.num_images,
        "scaling_factor": done.scaling_factor,
        "shift": done.shift,
    }


def snapshot_name(model: str, snapshot: Path, config: Config) -> str:
    """What a person calls the model, without the machine's paths."""
    if model.isdecimal():
        return f"{config.registry.model_name} version {model}"
    if RUN_MODEL.fullmatch(model):
        return f"run:{snapshot.parents[1].name}@{runs.step_of(snapshot)}"
    return model if model == "champion" else snapshot.resolve().name


def default_folder(provenance: Mapping[str, str], config: Config, *, logvar: bool) -> Path:
    """Where latents go that were given no folder: `latents/<hash of what they are made of>` below the home."""
    inputs = {name: provenance[name] for name in ("model", "prepared_set")}
    return (
        home()
        / "latents"
        / content_hash({**inputs, "logvar": logvar, "evaluation.batch_size": config.evaluation.batch_size})
    )
