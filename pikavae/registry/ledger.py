"""The ledger of production: an append-only file of events, one JSON line each, that carries the hash of the one before.

Whoever appends holds the lock of production. A line that a crash cut short is told and dropped; a line that was edited,
taken out or put in breaks the chain. That a tail was cut off, or the whole chain rewritten, shows only against a head
that is kept elsewhere.
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
from typing import Any, Literal

from pikavae.errors import DamagedFileError
from pikavae.files import sync

logger = logging.getLogger(__name__)

BEGINNING = "0" * 64
"""What the first event names as the hash before it."""
PREVIOUS = "previous"
"""The alias of the version that a rollback goes back to."""
Aliases = dict[str, int | None]
"""The production versions that have the aliases `champion` and `previous`."""
MOVES = ("promote", "rollback", "repair")
"""The actions that say where the aliases are; the others leave them."""
ADDED_LATER = ("request", "overridden", "shown")
"""Fields that are written only where they say something, so that a ledger of before keeps its hashes."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an event says. Versions are candidates, but where the field says production."""

    transaction: str
    """The id that an intent shares with the event that ends it."""
    action: Literal["request", "approve", "promote", "rollback", "repair"]
    """A `request` tells what the gates said of a candidate; it and an `approve` are done at once and move nothing.
    A `repair` put MLflow or the production store back; its version is the champion, or the one that was made again."""
    state: Literal["intent", "done", "undone"]
    actor: str
    """user@host."""
    model: str
    """The registered model of the candidate."""
    version: int
    """The candidate that becomes champion, or is asked for."""
    production_version: int | None
    """The same as a version of the production model; None while it is none."""
    champion_before: int | None
    champion_after: int | None
    previous_after: int | None
    aliases_before: Mapping[str, int | None]
    """Production versions by alias, `champion` and `previous`."""
    aliases_after: Mapping[str, int | None]
    fingerprint: str | None
    """Of the prepared set that the candidate was trained on."""
    evaluation_set: str | None
    commit: str | None
    dirty: str | None
    """A hash of what was changed since that commit; empty when nothing was."""
    run_id: str
    report: str | None
    snapshot: str | None
    """Digest of the sizes and weights."""
    store: str
    """Digest, and name in the production store, of the files."""
    manifest: Mapping[str, str]
    """The SHA-256 of each file by its path in the store's folder."""
    thresholds: Mapping[str, Any] | None
    """The policy that the gates went by; None where none was asked."""
    verdicts: Mapping[str, Any] | None
    """Of the gates; None where none was asked."""
    approver: str | None
    """Who approved; None where nobody did or had to."""
    reason: str
    forced: bool
    """Whether gates that failed were overridden."""
    request: str | None = None
    """The hash of the request that this approves or carries out."""
    overridden: list[str] = field(default_factory=list)
    """The gates that failed and were overridden."""
    shown: Mapping[str, Any] = field(default_factory=dict)
    """`tags`, `metrics` and `description` of the candidate, for the page of the production version."""


@dataclass(frozen=True, kw_only=True)
class Event(Entry):
    """An entry in its place in the chain."""

    sequence: int
    """1 for the first; the number of its line."""
    time: str
    """UTC, ISO 8601."""
    previous: str
    """The hash of the event before."""
    hash: str
    """SHA-256 over the canonical JSON of all other fields."""

    @property
    def head(self) -> str:
        """What is kept elsewhere of the ledger's last event."""
        return f"{self.sequence}:{self.hash}"

    def entry(self, **changes: Any) -> Entry:
        """What the event says, changed."""
        return Entry(**{field.name: getattr(self, field.name) for field in fields(Entry)} | changes)


def read(path: Path) -> list[Event]:
    """All whole events of the ledger, its chain verified; none when there is no file.

    A last line without an end was cut short by a crash: it is told in a warning and left out.

    Raises:
        DamagedFileError: a line is no event or does not fit the chain; the message has its number.
    """
    whole, torn = _lines(path)
    if torn:
        logger.warning("%s: line %d was cut short by a crash and does not count", path, len(whole) + 1)
    events = [_parse(line, f"{path}: line {number}") for number, line in enumerate(whole, 1)]
    verify_chain(events, where=str(path))
    return events


def is_torn(path: Path) -> bool:
    """Whether the last line was cut short."""
    return bool(_lines(path)[1])


def drop_torn(path: Path) -> None:
    """Take away a last line that was cut short. Whoever calls holds the lock."""
    whole, torn = _lines(path)
    if torn:
        with path.open("r+b") as file:
            file.truncate(sum(len(line) + 1 for line in whole))
            os.fsync(file.fileno())


def of_production(events: Sequence[Event], number: int | None) -> Event | None:
    """The last event about this version of the production model: which candidate it is, and of what bytes."""
    return next(
        (event for event in reversed(events) if number is not None and event.production_version == number), None
    )


def standing(events: Sequence[Event]) -> Aliases:
    """Where the aliases belong by the last move that ended."""
    nobody: Aliases = {"champion": None, PREVIOUS: None}
    for event in reversed(events):
        if event.action in MOVES and event.state != "intent":
            return {**nobody, **event.aliases_after}
    return nobody


def append(path: Path, entry: Entry) -> Event:
    """Write an event to the end of the ledger and onto the disk; a last line that was cut short is dropped first.

    Raises:
        DamagedFileError: the ledger is not whole.
    """
    events = read(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {
        "sequence": len(events) + 1,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **_written(entry),
        "previous": events[-1].hash if events else BEGINNING,
    }
    event = Event(**values, hash=_hash(values))
    drop_torn(path)
    with path.open("ab") as file:
        file.write(_canonical(_written(event)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
    if not events:
        sync(path.parent.parent)
    return event


def verify_chain(events: Sequence[Event], where: str = "ledger") -> None:
    """Check each event's number, hash and link to the one before.

    Raises:
        DamagedFileError: naming the first line that was edited, taken out or put in.
    """
    before = BEGINNING
    for number, event in enumerate(events, 1):
        values = _written(event)
        if values.pop("hash") != _hash(values):
            raise DamagedFileError(f"{where}: line {number} was edited: its content does not have its hash")
        if event.sequence != number or event.previous != before:
            raise DamagedFileError(
                f"{where}: line {number} does not follow the one before: a line was edited, put in or taken out"
            )
        before = event.hash


def _lines(path: Path) -> tuple[list[bytes], bytes]:
    """The lines that have an end, without it, and what follows the last of them."""
    *whole, torn = path.read_bytes().split(b"\n") if path.exists() else [b""]
    return whole, torn


def _parse(line: bytes, where: str) -> Event:
    """The event of a line.

    Raises:
        DamagedFileError: it is none, or is not written as `append` writes it.
    """
    try:
        event = Event(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{where} is no event ({error}); restore the file from a backup") from None
    if _canonical(_written(event)) != line:
        raise DamagedFileError(f"{where} was edited: it is not written as pikavae writes it")
    return event


def _written(entry: Entry) -> dict[str, Any]:
    """What of an entry or event stands in its line."""
    values = asdict(entry)
    return {name: value for name, value in values.items() if name not in ADDED_LATER or value}


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(values)).hexdigest()


def _canonical(values: Mapping[str, Any]) -> bytes:
    """Sorted, ASCII and without a line end, whatever the texts hold."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
