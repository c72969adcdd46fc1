"""Whether ledger, bytes, production versions and aliases agree: everything that does not, each with what mends it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pikavae.errors import DamagedFileError
from pikavae.registry import anchor, ledger, leftovers, production_store, standings, versions
from pikavae.registry.anchor import ledger_path
from pikavae.registry.copies import hashes_at, whole_copy
from pikavae.registry.ledger import Event, standing
from pikavae.registry.production_model import (
    PRODUCTION_NAME,
    Source,
    altered_tags,
    description_of,
    location_of,
    production_tags,
    run_stage,
)
from pikavae.registry.store import local_folder
from pikavae.registry.transactions import aliases_of, unfinished
from pikavae.registry.versions import METRICS_TAG, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPAIR = "`pikavae models repair`"


@dataclass(frozen=True)
class Disagreement:
    """Something that is not as the ledger has it."""

    about: Literal["ledger", "head", "move", "experiment", "alias", "version", "page", "store", "leftover"]
    what: str
    """For a person: what is wrong and where, and what to do where `repair` cannot mend it."""
    repairable: bool = True
    """Whether `repair` mends it."""


@dataclass(frozen=True)
class Verified:
    """What was found, and how much was looked at."""

    num_events: int
    head: str | None
    """Sequence and hash of the ledger's last event: worth noting elsewhere."""
    num_folders: int
    """Folders of the production store whose every byte was read."""
    disagreements: list[Disagreement]


def verify(client: MlflowClient, home: Path, *, every: bool = False) -> Verified:
    """Compare ledger, production store and MLflow. The caller holds the lock; nothing is changed.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        every: read the files of all versions that ever were champion, not those of champion and previous alone, and
            what a server has of these two.
    """
    path = ledger_path(home)
    try:
        events = ledger.read(path)
    except DamagedFileError as error:
        # Nothing can be judged by a ledger that is not whole.
        return Verified(0, None, 0, [Disagreement("ledger", f"{error}; restore the file from a backup", False)])
    found = []
    if ledger.is_torn(path):
        what = f"{path}: line {len(events) + 1} was cut short by a crash; {REPAIR} takes it away"
        found.append(Disagreement("ledger", what))
    found += _head(client, home, events)
    listed = versions.list_versions(client, PRODUCTION_NAME)
    intent = unfinished(events)
    if intent is not None:
        what = f"line {intent.sequence}: {intent.action} of version {intent.version} was cut short; {REPAIR} ends it"
        found.append(Disagreement("move", what))
    else:
        found += _aliases(events, listed)
    in_use = in_place(events)
    folders = {event.store: event for event in (events if every else in_use.values()) if event.production_version}
    damaged = {
        store: f"{complaint} ({_candidate(event)})"
        for store, event in folders.items()
        if (complaint := production_store.damage(production_store.folder_of(home, event.manifest), event.manifest))
    }
    for alias, event in in_use.items():
        found += _version(client, home, alias, events, listed, every=every, stored=event.store not in damaged)
    for store, complaint in damaged.items():
        found.append(_store(client, folders[store], complaint))
    if intent is None:
        found += _candidates(client, events)
    found += [
        Disagreement(
            "leftover", f"{left.what}: of a promotion that was cut short; {REPAIR} removes it, if another copy is whole"
        )
        for left in leftovers.find(client, home, events)
    ]
    return Verified(len(events), events[-1].head if events else None, len(folders), found)


def in_place(events: Sequence[Event]) -> dict[str, Event]:
    """What the ledger has of the production versions that the aliases belong to, by alias."""
    found = {alias: ledger.of_production(events, number) for alias, number in standing(events).items()}
    return {alias: event for alias, event in found.items() if event is not None}


def found_files(client: MlflowClient, made: Version, *, download: bool) -> dict[str, str] | None:
    """The SHA-256 of the files that MLflow has of a production version.

    Returns:
        None when MLflow has its logged model no more; the version's own manifest, unread, for a server's files unless
        `download` is set.
    """
    location = location_of(client, made)
    if location is None:
        return None
    return hashes_at(client, location) if download or local_folder(location) is not None else dict(made.manifest)


def altered_page(client: MlflowClient, made: Version, events: Sequence[Event], event: Event) -> list[str]:
    """What of a production version's page is not as the ledger has it."""
    tags, description = page_of(events, event)
    altered = sorted(altered_tags(made, tags))
    return altered if description in {None, description_of(client, made)} else [*altered, "the description"]


def page_of(events: Sequence[Event], event: Event) -> tuple[dict[str, str], str | None]:
    """The tags and description of a production version by the ledger; an earlier release kept less of them."""
    source = Source.of_event(event)
    tags = {**source.page_tags(), **production_tags(events, event.production_version)}
    if event.shown:
        return tags, source.description
    del tags[METRICS_TAG]
    return tags, None


def _head(client: MlflowClient, home: Path, events: Sequence[Event]) -> Iterator[Disagreement]:
    if complaint := anchor.disagreement(client, home, events):
        yield Disagreement("head", complaint, repairable=False)
    elif events and anchor.read(client) != events[-1].head:
        yield Disagreement("head", f"MLflow was not told of line {len(events)} of the ledger; {REPAIR} tells it")
    if anchor.is_deleted(client):
        yield Disagreement("experiment", f"experiment {PRODUCTION_NAME!r} was deleted in MLflow; {REPAIR} restores it")


def _aliases(events: Sequence[Event], listed: Sequence[Version]) -> Iterator[Disagreement]:
    there = {made.version for made in listed}
    found = aliases_of(listed)
    for alias, number in standing(events).items():
        event = ledger.of_production(events, number)
        if found[alias] == number or (number is not None and number not in there):
            continue  # that the version is gone is told elsewhere
        now = "nobody has it" if found[alias] is None else f"production version {found[alias]} has it"
        due = "nobody" if event is None else f"production version {number} ({_candidate(event)})"
        yield Disagreement(
            "alias", f"alias {alias!r}: {now} in MLflow, and {due} by the ledger; {REPAIR} moves it back"
        )


def _version(
    client: MlflowClient,
    home: Path,
    alias: str,
    events: Sequence[Event],
    listed: Sequence[Version],
    *,
    every: bool,
    stored: bool,
) -> Iterator[Disagreement]:
    """What is wrong with a production version in MLflow; `stored` says whether the production store has its bytes."""
    event = in_place(events)[alias]
    what = f"{PRODUCTION_NAME} version {event.production_version} ({alias}, {_candidate(event)})"
    if stored:
        remedy = f"{REPAIR} makes it again from the production store"
    else:
        folder = production_store.folder_of(home, event.manifest)
        remedy = f"and {folder} has it no more: restore that folder from a backup, or promote the version again"
    made = next((made for made in listed if made.version == event.production_version), None)
    if made is None:
        yield Disagreement("version", f"{what}: deleted in MLflow; {remedy}", stored)
        return
    files = found_files(client, made, download=every)
    if files is None:
        yield Disagreement("version", f"{what}: its files were deleted in MLflow; {remedy}", stored)
    elif files != event.manifest:
        differing = production_store.differing(files, event.manifest)
        yield Disagreement("version", f"{what}: its files in MLflow were altered: {differing}; {remedy}", stored)
    if run_stage(client, made.run_id) == "deleted":
        yield Disagreement(
            "version", f"{what}: the run that holds its files was deleted in MLflow; {REPAIR} restores it"
        )
    if altered := altered_page(client, made, events, event):
        yield Disagreement("page", f"{what}: altered in MLflow: {', '.join(altered)}; {REPAIR} puts it back")


def _store(client: MlflowClient, event: Event, complaint: str) -> Disagreement:
    if whole_copy(client, event) is not None:
        return Disagreement("store", f"{complaint}; {REPAIR} copies it from MLflow")
    remedy = "MLflow has no whole copy either: restore it from a backup, or promote the version again"
    return Disagreement("store", f"{complaint}; {remedy}", repairable=False)


def _candidates(client: MlflowClient, events: Sequence[Event]) -> Iterator[Disagreement]:
    stale = sorted({(version.name, version.version) for version, _, _ in standings.stale_tags(client, events)})
    for name, number in stale:
        what = f"version {number} of {name}: its page in MLflow does not show its standing"
        yield Disagreement("page", f"{what}; {REPAIR} puts it back")


def _candidate(event: Event) -> str:
    return f"version {event.version} of {event.model}"
