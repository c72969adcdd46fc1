"""What promotions that were killed had begun to make: parts of copies, and whole copies that never came into use.

The next promotion of the same version uses what is whole; `repair` removes it, when the candidate still has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.files import remove_path
from pikavae.registry import production_store, versions
from pikavae.registry.ledger import Event
from pikavae.registry.production_model import (
    CANDIDATE_MODEL_TAG,
    CANDIDATE_TAG,
    COPY_TAG,
    PRODUCTION_NAME,
    STORE_TAG,
    location_of,
    protected_runs,
    run_stage,
)
from pikavae.registry.store import delete_model
from pikavae.registry.versions import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Leftover:
    """Something that the ledger does not tell of."""

    what: str
    copy_of: str | None
    """The name that its bytes have in the production store; None for a part of a copy."""
    remove: Callable[[], None]


def find(client: MlflowClient, home: Path, events: Sequence[Event]) -> Iterator[Leftover]:
    """All of them; what somebody made by hand, and what has an alias, is none."""
    listed = versions.list_versions(client, PRODUCTION_NAME)
    told = {event.production_version for event in events}
    for made in listed:
        if made.version not in told and STORE_TAG in made.tags and not made.aliases:
            candidate = f"version {made.tags.get(CANDIDATE_TAG)} of {made.tags.get(CANDIDATE_MODEL_TAG)}"
            yield Leftover(
                f"{PRODUCTION_NAME} version {made.version} ({candidate})",
                production_store.digest_of(made.manifest),
                partial(_remove_version, client, made),
            )
    stores = {event.store for event in events if event.production_version is not None}
    runs_in_use = {made.run_id for made in listed}
    for run in protected_runs(client):
        if run.info.run_id not in runs_in_use and run.data.tags[COPY_TAG] not in stores:
            what = f"run {run.info.run_id} of {PRODUCTION_NAME}, which holds no version"
            yield Leftover(what, run.data.tags[COPY_TAG], partial(_remove_run, client, run.info.run_id))
    for path in sorted((home / "production" / "store").glob("*")):
        if path.suffix == ".tmp":
            yield Leftover(f"production/store/{path.name}", None, partial(remove_path, path))
        elif path.name not in stores and path.is_dir():
            yield Leftover(f"production/store/{path.name}", path.name, partial(production_store.remove, path))


def _remove_version(client: MlflowClient, made: Version) -> None:
    client.delete_model_version(PRODUCTION_NAME, str(made.version))
    if location_of(client, made) is not None:
        delete_model(client, made.model_id)
    if run_stage(client, made.run_id) == "active":
        client.delete_run(made.run_id)


def _remove_run(client: MlflowClient, run_id: str) -> None:
    experiment = client.get_run(run_id).info.experiment_id
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        delete_model(client, model.model_id)
    client.delete_run(run_id)
