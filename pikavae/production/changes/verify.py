"""Compares ledger, bytes, production versions and aliases, and lists each disagreement with its remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pikavae.errors import DamagedFileError
from pikavae.production.changes import anchor, signatures
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.changes.moves import aliases_of, hold_lock, open_move
from pikavae.production.changes.signatures import events_in_use
from pikavae.production.packages import leftovers
from pikavae.production.packages import store as production_store
from pikavae.production.packages.leftovers import hashes_at, whole_copy
from pikavae.production.packages.model import (
    PRODUCTION_NAME,
    Origin,
    altered_tags,
    description_of,
    location_of,
    production_tags,
    run_stage,
)
from pikavae.production.packages.signing import trusted_keys
from pikavae.production.record import ledger, statuses
from pikavae.production.record.ledger import Event, expected_aliases
from pikavae.production.record.rules import broken_rule
from pikavae.registry import versions
from pikavae.registry.package import COMPILED
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.tags import METRICS_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient

REPAIR = "`pikavae models repair`"


@dataclass(frozen=True)
class Disagreement:
    """Describes one thing that is not as the ledger has it."""

    about: Literal[
        "ledger", "head", "move", "experiment", "alias", "version", "page", "store", "leftover", "rules", "signature"
    ]
    what: str
    """Says what is wrong, where, and how to fix it."""
    repairable: bool = True
    """True if `repair` fixes it."""


@dataclass(frozen=True)
class Verified:
    """Holds the disagreements found, and how much was checked."""

    num_events: int
    head: str | None
    """Sequence and hash of the ledger's last event, worth noting elsewhere."""
    num_folders: int
    """Folders of the production store whose every byte was read."""
    disagreements: list[Disagreement]
    num_signed: int = 0
    """How many of champion and previous have a signature that was checked against the trusted keys."""


def verify_production(workspace: Workspace, *, every: bool = False) -> Verified:
    """Compare ledger, production store and MLflow without changing anything. It waits for a running promotion.

    Args:
        workspace: the state folder and its store.
        every: read the stored files of all versions that were ever champion, not only those of champion and previous,
            and download the files that a server has of these two.
    """
    with hold_lock(workspace):
        return compare_with_ledger(workspace, every=every)


def compare_with_ledger(workspace: Workspace, *, every: bool) -> Verified:
    """Do what `verify_production` does. The caller holds the lock."""
    client = workspace.client
    path = ledger_path(workspace.home)
    try:
        events = ledger.read(path)
    except DamagedFileError as error:
        # A ledger that is not whole cannot decide anything.
        return Verified(0, None, 0, [Disagreement("ledger", f"{error}; restore the file from a backup", False)])
    found = []
    if ledger.is_torn(path):
        what = f"{path}: line {len(events) + 1} was cut short by a crash; {REPAIR} takes it away"
        found.append(Disagreement("ledger", what))
    found += _check_head(workspace, events)
    listed = versions.list_versions(client, PRODUCTION_NAME)
    intent = open_move(events)
    if intent is not None:
        what = f"line {intent.sequence}: {intent.action} of version {intent.version} was cut short; {REPAIR} ends it"
        found.append(Disagreement("move", what))
    else:
        found += _check_aliases(events, listed)
    in_use = events_in_use(events)
    folders = {event.digest: event for event in (events if every else in_use.values()) if event.production_version}
    damaged = {
        store: f"{complaint} ({_name_candidate(event)})"
        for store, event in folders.items()
        if (
            complaint := production_store.damage(
                production_store.folder_of(workspace.home, event.manifest), event.manifest
            )
        )
    }
    for alias, event in in_use.items():
        found += _check_version(workspace, alias, events, listed, every=every, stored=event.digest not in damaged)
    for store, complaint in damaged.items():
        found.append(_check_production_store(client, folders[store], complaint))
    if intent is None:
        found += _check_candidates(client, events)
    found += _check_rules(events)
    found += [Disagreement("signature", what, fixed) for what, fixed in signatures.complaints(workspace, events)]
    found += [
        Disagreement(
            "leftover", f"{left.what}: of a promotion that was cut short; {REPAIR} removes it, if another copy is whole"
        )
        for left in leftovers.find(workspace, events)
    ]
    unsigned = sum(one.about == "signature" for one in found)
    num_signed = len(in_use) - unsigned if trusted_keys() else 0
    return Verified(len(events), events[-1].head if events else None, len(folders), found, num_signed)


def found_files(client: MlflowClient, made: Version, *, download: bool) -> dict[str, str] | None:
    """Return the SHA-256 of the files that MLflow has of a production version.

    Returns:
        None if MLflow no longer has its logged model. For files on a server, the version's own manifest without
        reading them, unless `download` is set.
    """
    location = location_of(client, made)
    if location is None:
        return None
    return hashes_at(client, location) if download or local_folder(location) is not None else dict(made.manifest)


def altered_page(client: MlflowClient, made: Version, events: Sequence[Event], event: Event) -> list[str]:
    """Name the parts of a production version's page that are not as the ledger has them."""
    tags, description = page_of(events, event)
    altered = sorted(altered_tags(made, tags))
    return altered if description in {None, description_of(client, made)} else [*altered, "the description"]


def page_of(events: Sequence[Event], event: Event) -> tuple[dict[str, str], str | None]:
    """Return the tags and description that the ledger has of a production version; earlier releases kept fewer."""
    origin = Origin.of_event(event)
    tags = {**origin.page_tags(), **production_tags(events, event.production_version)}
    if event.page_fields:
        return tags, origin.description
    del tags[METRICS_TAG]
    return tags, None


def _check_head(workspace: Workspace, events: Sequence[Event]) -> Iterator[Disagreement]:
    if complaint := anchor.disagreement(workspace, events):
        yield Disagreement("head", complaint, repairable=False)
    elif events and anchor.read(workspace.client) != events[-1].head:
        yield Disagreement("head", f"line {len(events)} of the ledger is not noted in MLflow; {REPAIR} notes it")
    if anchor.is_deleted(workspace.client):
        yield Disagreement("experiment", f"experiment {PRODUCTION_NAME!r} was deleted in MLflow; {REPAIR} restores it")


def _check_aliases(events: Sequence[Event], listed: Sequence[Version]) -> Iterator[Disagreement]:
    there = {made.version for made in listed}
    found = aliases_of(listed)
    for alias, number in expected_aliases(events).items():
        event = ledger.of_production(events, number)
        if found[alias] == number or (number is not None and number not in there):
            continue  # `_check_version` reports that the version is gone
        now = "nobody has it" if found[alias] is None else f"production version {found[alias]} has it"
        due = "nobody" if event is None else f"production version {number} ({_name_candidate(event)})"
        yield Disagreement(
            "alias", f"alias {alias!r}: {now} in MLflow, and {due} by the ledger; {REPAIR} moves it back"
        )


def _check_version(
    workspace: Workspace,
    alias: str,
    events: Sequence[Event],
    listed: Sequence[Version],
    *,
    every: bool,
    stored: bool,
) -> Iterator[Disagreement]:
    """Yield what is wrong with a production version in MLflow; `stored` is True if the store has its bytes."""
    client = workspace.client
    event = events_in_use(events)[alias]
    what = f"{PRODUCTION_NAME} version {event.production_version} ({alias}, {_name_candidate(event)})"
    if stored:
        remedy = f"{REPAIR} makes it again from the production store"
    else:
        folder = production_store.folder_of(workspace.home, event.manifest)
        remedy = f"and {folder} has it no more: restore that folder from a backup, or promote the version again"
    made = next((made for made in listed if made.version == event.production_version), None)
    if made is None:
        yield Disagreement("version", f"{what}: deleted in MLflow; {remedy}", stored)
        return
    found = found_files(client, made, download=every)
    files = None if found is None else {name: digest for name, digest in found.items() if digest != COMPILED}
    if found is not None and (compiled := sorted(name for name, digest in found.items() if digest == COMPILED)):
        yield _report_compiled_code(what, compiled)
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


def _report_compiled_code(what: str, names: Sequence[str]) -> Disagreement:
    """Report compiled code beside the code of a version, which Python would run whatever the source says."""
    listed = production_store.differing(dict.fromkeys(names, COMPILED), {})
    told = f"{what}: compiled code that does not belong to it would run instead of its source: {listed}"
    return Disagreement("version", f"{told}; {REPAIR} removes it")


def _check_production_store(client: MlflowClient, event: Event, complaint: str) -> Disagreement:
    if whole_copy(client, event) is not None:
        return Disagreement("store", f"{complaint}; {REPAIR} copies it from MLflow")
    remedy = "MLflow has no whole copy either: restore it from a backup, or promote the version again"
    return Disagreement("store", f"{complaint}; {remedy}", repairable=False)


def _check_candidates(client: MlflowClient, events: Sequence[Event]) -> Iterator[Disagreement]:
    stale = sorted({(version.name, version.version) for version, _, _ in statuses.stale_tags(client, events)})
    for name, number in stale:
        what = f"version {number} of {name}: its page in MLflow does not show its status"
        yield Disagreement("page", f"{what}; {REPAIR} puts it back")


def _check_rules(events: Sequence[Event]) -> Iterator[Disagreement]:
    """Yield each version in use that became champion against the rules, as by a program that passes them over."""
    for alias, event in events_in_use(events).items():
        promotion = next(
            (
                earlier
                for earlier in reversed(events)
                if (earlier.action, earlier.state) == ("promote", "done")
                and (earlier.model, earlier.version, earlier.digest) == (event.model, event.version, event.digest)
            ),
            None,
        )
        if promotion is None:
            continue
        request = next((earlier for earlier in events if earlier.hash == promotion.request), None)
        approval = None if request is None else statuses.approval_of(events, request)
        if why := broken_rule(events, request, approval, before=promotion.sequence):
            what = f"{alias}, {_name_candidate(event)}: line {promotion.sequence} promoted it against the rules: {why}"
            yield Disagreement("rules", f"{what}; roll it back, or ask for it again and approve it", repairable=False)


def _name_candidate(event: Event) -> str:
    return f"version {event.version} of {event.model}"
