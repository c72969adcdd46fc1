"""Reads and appends to production's ledger: one event a JSON line, each with the hash of the event before.

Whoever appends holds the lock of production. A line that a crash cut short is reported and dropped. A line that was
edited, removed or inserted breaks the chain. Only a head that is kept elsewhere shows that the end was cut off or that
the whole chain was rewritten.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pikavae.errors import DamagedFileError
from pikavae.tracker.tags import PREVIOUS
from pikavae.workspace import strict_json
from pikavae.workspace.disks import path_in_errors
from pikavae.workspace.files import make_folder, sync

logger = logging.getLogger(__name__)

BEGINNING = "0" * 64
"""The hash that the first event gives as that of the event before."""
Aliases = dict[str, int | None]
"""The production versions that have the aliases `champion` and `previous`."""
MOVES = ("promote", "rollback", "repair")
"""The actions that decide where the aliases belong. The others change no alias."""
ADDED_LATER = ("request", "overridden", "shown", "rules", "signed_by")
"""Fields that are written only if they are not empty, which keeps the hashes of older ledgers valid."""
NAMES_IN_FILE = {"digest": "store", "page_fields": "shown"}
"""The names that lines have for some of the fields."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Holds the content of an event. Version numbers are candidates' unless the field's name says production."""

    transaction: str
    """The id that an intent shares with the event that ends it."""
    action: Literal["request", "approve", "expire", "promote", "rollback", "repair", "rules", "sign"]
    """A `request` records what the gates said of a candidate. It, an `approve`, an `expire`, which closes a request
    that nobody approved in time, a `sign`, which is of a new signature, and `rules` are done at once and move nothing.
    A `repair` restored MLflow or the production store; its version is the champion, or the one that was made again.
    `rules` are about no version: theirs is 0."""
    state: Literal["intent", "done", "undone"]
    actor: str
    """Who did it, as `identity` says."""
    model: str
    """The registered model of the candidate."""
    version: int
    """The candidate that becomes champion or that is requested."""
    production_version: int | None
    """The candidate's version number in the production model; None if it has none."""
    champion_before: int | None
    champion_after: int | None
    previous_after: int | None
    aliases_before: Mapping[str, int | None]
    """Production versions by alias, `champion` and `previous`."""
    aliases_after: Mapping[str, int | None]
    fingerprint: str | None
    """Names the prepared set that the candidate was trained on."""
    evaluation_set: str | None
    commit: str | None
    dirty: str | None
    """A hash of the changes since that commit; empty if there are none."""
    run_id: str
    report: str | None
    snapshot: str | None
    """Digest of the snapshot's sizes and weights."""
    digest: str
    """Digest of the files, which is also the name of their folder in the production store. Its line says `store`."""
    manifest: Mapping[str, str]
    """The SHA-256 of each file by its path in the store's folder."""
    thresholds: Mapping[str, Any] | None
    """The policy that the gates used; None if no gates ran."""
    verdicts: Mapping[str, Any] | None
    """What the gates said; None if no gates ran."""
    approver: str | None
    """Who approved; None if nobody did or had to."""
    reason: str
    forced: bool
    """True if gates that failed were overridden."""
    request: str | None = None
    """The hash of the request that this event approves, closes or carries out."""
    overridden: list[str] = field(default_factory=list)
    """The gates that failed and were overridden."""
    page_fields: Mapping[str, Any] = field(default_factory=dict)
    """`tags`, `metrics` and `description` of the candidate, for the page of the production version. Its line says
    `shown`."""
    rules: Mapping[str, Any] = field(default_factory=dict)
    """The rules that are in force from then on, all of them; see `rules`."""
    signed_by: str = ""
    """The name of the key that signed the files, the SHA-256 of its public key; empty if none did."""


@dataclass(frozen=True, kw_only=True)
class Event(Entry):
    """Adds to an entry its place in the chain."""

    sequence: int
    """The number of its line, from 1."""
    time: str
    """UTC, ISO 8601."""
    previous: str
    """The hash of the event before."""
    hash: str
    """SHA-256 over the canonical JSON of all other fields."""

    @property
    def head(self) -> str:
        """Return `<sequence>:<hash>`, which is kept elsewhere for the ledger's last event."""
        return f"{self.sequence}:{self.hash}"

    def entry(self, **changes: Any) -> Entry:
        """Return the event's content with changes."""
        return Entry(**{field.name: getattr(self, field.name) for field in fields(Entry)} | changes)


def read(path: Path) -> list[Event]:
    """Verify the chain and return all whole events of the ledger; none if there is no file.

    A last line without an end was cut short by a crash. A warning names it, and it is left out.

    Raises:
        DamagedFileError: a line is not an event or does not fit the chain; the message has its number.
    """
    whole, torn = _lines(path)
    if torn:
        logger.warning("%s: line %d was cut short by a crash and does not count", path, len(whole) + 1)
    events = [_parse(line, f"{path}: line {number}") for number, line in enumerate(whole, 1)]
    verify_chain(events, where=str(path))
    kinds = get_type_hints(Event)
    for number, event in enumerate(events, 1):
        for name, kind in kinds.items():
            if not _is_of(getattr(event, name), kind):
                raise DamagedFileError(
                    f"{path}: line {number} is not an event ({NAMES_IN_FILE.get(name, name)} has the wrong type); "
                    f"restore the file from a backup"
                )
    return events


def is_torn(path: Path) -> bool:
    """Return True if the last line was cut short."""
    return bool(_lines(path)[1])


def drop_torn(path: Path) -> None:
    """Remove a last line that was cut short. The caller holds the lock."""
    whole, torn = _lines(path)
    if torn:
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in whole))
            os.fsync(file.fileno())


def of_production(events: Sequence[Event], number: int | None) -> Event | None:
    """Return the last event about this version of the production model, which names its candidate and its files."""
    return next(
        (event for event in reversed(events) if number is not None and event.production_version == number), None
    )


def expected_aliases(events: Sequence[Event]) -> Aliases:
    """Return where the aliases belong after the last move that ended."""
    nobody: Aliases = {"champion": None, PREVIOUS: None}
    for event in reversed(events):
        if event.action in MOVES and event.state != "intent":
            return {**nobody, **event.aliases_after}
    return nobody


def append(path: Path, entry: Entry) -> Event:
    """Append an event to the ledger and sync it to the disk. A last line that was cut short is dropped first.

    Raises:
        DamagedFileError: the ledger is not whole.
    """
    events = read(path)
    make_folder(path.parent)
    values = {
        "sequence": len(events) + 1,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **_to_line(entry),
        "previous": events[-1].hash if events else BEGINNING,
    }
    event = _from_line({**values, "hash": _hash(values)})
    drop_torn(path)
    with path_in_errors(path), path.open("ab") as file:
        file.write(_canonical(_to_line(event)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
    if not events:
        sync(path.parent.parent)
    return event


def verify_chain(events: Sequence[Event], where: str = "ledger") -> None:
    """Check each event's number, hash and link to the one before.

    Raises:
        DamagedFileError: a line was edited, removed or inserted; the message names the first.
    """
    before = BEGINNING
    for number, event in enumerate(events, 1):
        values = _to_line(event)
        if values.pop("hash") != _hash(values):
            raise DamagedFileError(f"{where}: line {number} was edited: its content does not have its hash")
        if event.sequence != number or event.previous != before:
            raise DamagedFileError(
                f"{where}: line {number} does not follow the one before: a line was edited, put in or taken out"
            )
        before = event.hash


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """Return the lines that have an end, without it, and the bytes after the last of them."""
    *whole, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return whole, torn


def _parse(line: bytes, where: str) -> Event:
    """Return the event of a line.

    Raises:
        DamagedFileError: the line is not an event, or is not written as `append` writes it.
    """
    try:
        event = _from_line(strict_json.parse(line))
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{where} is not an event ({error}); restore the file from a backup") from None
    if _canonical(_to_line(event)) != line:
        raise DamagedFileError(f"{where} was edited: it is not written as pikavae writes it")
    return event


def _is_of(value: Any, kind: Any) -> bool:
    """Return True if a JSON value has the type that a field is declared with."""
    origin, inside = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is UnionType:
        return any(_is_of(value, one) for one in inside)
    if origin is Literal:
        return value in inside
    if origin is list:
        return isinstance(value, list) and all(_is_of(one, inside[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_is_of(one, inside[1]) for one in value.values())
    return type(value) is kind


def as_json(entry: Entry) -> dict[str, Any]:
    """Return all fields of an entry or event, by their names in a line."""
    return {NAMES_IN_FILE.get(name, name): value for name, value in asdict(entry).items()}


def _to_line(entry: Entry) -> dict[str, Any]:
    """Return the fields of an entry or event that its line holds."""
    return {name: value for name, value in as_json(entry).items() if name not in ADDED_LATER or value}


def _from_line(values: Any) -> Event:
    """Return the event of a line's fields.

    Raises:
        TypeError: it is not an object, a field is missing, or there is no such field.
    """
    if not isinstance(values, dict):
        raise TypeError("no object")
    ours = {name: field for field, name in NAMES_IN_FILE.items()}
    fields_by_name: dict[str, Any] = {str(ours.get(name, name)): value for name, value in values.items()}
    return Event(**fields_by_name)


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(values)).hexdigest()


def _canonical(values: Mapping[str, Any]) -> bytes:
    """Return canonical JSON: sorted, ASCII and without a line end, whatever the texts hold."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
