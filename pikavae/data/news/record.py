"""Keeps what the polls of a source found and decided, in a file of the state folder.

new-data/<name>.json           the state and the last decisions
new-data/<name>-<hash>.npz     the looks of the pictures of the last training, and of one that has begun
new-data/<name>.lock           held by the poll at work
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pikavae.data.news.pictures import Pictures
from pikavae.errors import DamagedFileError
from pikavae.workspace.files import exclusive, write_atomically
from pikavae.workspace.records import Record

FOLDER_NAME = "new-data"
POLLS_KEPT = 100
REFUSALS_KEPT = 50

What = Literal["none", "waits", "refused", "trains", "retrained", "failed", "stopped", "gave up"]


class Decision(Record):
    """Says what one poll decided, or several in a row that decided the same."""

    what: What
    words: str
    """The same for a person, with the numbers."""
    time: str
    """When it was decided first, UTC, ISO 8601."""
    until: str
    """When it was decided last."""
    polls: int = 1
    """How many polls in a row decided it."""


class Refusal(Record):
    """Says that new pictures were refused, until they are not any more."""

    id: str
    time: str
    source: str
    reason: str
    """The limits that they break, by their names; `source` if it cannot be read."""
    words: str


class NewDataRecord(Record):
    """Holds the state of the polls of one source. A damaged file is kept aside, and the polls begin anew."""

    source: str
    """What is polled, as a hash of the settings that name the pictures; another source begins anew."""
    listing: str | None = None
    """The digest of the last look."""
    looked: float = 0.0
    """When that was, in seconds since 1970."""
    judged: str | None = None
    """The digest of the listing that was judged last."""
    judgement: Sequence[str] = ()
    """What was decided then, its words, and which limits are broken."""
    trained: str | None = None
    """The file with the looks of the pictures of the last training."""
    pending: str | None = None
    """The file with those of a training that was decided on and has not finished."""
    news: str = ""
    """What that training is for, in words."""
    tries: int = 0
    """How often that training was begun."""
    problem: str = ""
    """Why its last try failed; empty while one is at work."""
    refused: str | None = None
    """The reason of the refusal that stands."""
    refusals: Sequence[Refusal] = ()
    """The last refusals, the newest last."""
    decisions: Sequence[Decision] = ()
    """The last decisions, the newest last."""

    def decided(self, what: What, words: str, time: str) -> NewDataRecord:
        """Return it with a decision: one more poll that decided the same, or a new one."""
        before = self.decisions[-1] if self.decisions else None
        if before is not None and (before.what, before.words) == (what, words):
            same = before.model_copy(update={"until": time, "polls": before.polls + 1})
            return self.changed(decisions=[*self.decisions[:-1], same])
        new = Decision(what=what, words=words, time=time, until=time, polls=1)
        return self.changed(decisions=[*self.decisions, new][-POLLS_KEPT:])

    def refuse(self, name: str, source: str, reason: str, words: str, key: str) -> NewDataRecord:
        """Return it with a refusal, unless one for the same reason stands, or for the same key is on record."""
        digest = hashlib.sha256("\n".join((name, reason, key)).encode()).hexdigest()[:16]
        if self.refused == reason or any(known.id == f"refused-{digest}" for known in self.refusals):
            return self.changed(refused=reason)
        time = datetime.now(UTC).isoformat(timespec="seconds")
        new = Refusal(id=f"refused-{digest}", time=time, source=source, reason=reason, words=words)
        return self.changed(refused=reason, refusals=[*self.refusals, new][-REFUSALS_KEPT:])

    def changed(self, **fields: object) -> NewDataRecord:
        """Return it with other values."""
        return self.model_copy(update=fields)


@dataclass(frozen=True)
class Polling:
    """Represents the polls of one name in a state folder.

    Attributes:
        home: the state folder.
        name: the schedule's name.
    """

    home: Path
    name: str

    @property
    def folder(self) -> Path:
        """The folder of all polls' records."""
        return self.home / FOLDER_NAME

    @property
    def stem(self) -> str:
        """The beginning of its files' names."""
        safe = re.sub(r"[^\w-]", "_", self.name, flags=re.ASCII)[:80]
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return safe if safe == self.name else f"{safe}_{digest}"

    @property
    def path(self) -> Path:
        """The file of its state."""
        return self.folder / f"{self.stem}.json"

    def lock(self) -> AbstractContextManager[None]:
        """Hold its lock; raise a BusyError if another poll has it."""
        busy = f"another poll of {self.name}, or the training that it began, is at work"
        return exclusive(self.folder / f"{self.stem}.lock", busy=busy)

    def read(self) -> NewDataRecord | None:
        """Return its state; None if there is none.

        Raises:
            DamagedFileError: it is damaged.
        """
        try:
            return NewDataRecord.read(self.path)
        except FileNotFoundError:
            return None

    def save(self, record: NewDataRecord) -> None:
        """Write its state, and remove what it does not refer to any more."""
        write_atomically(self.path, record.to_json())
        used = {record.trained, record.pending}
        for file in self.folder.glob(f"{self.stem}-*.npz"):
            if file.name not in used and re.fullmatch(rf"{re.escape(self.stem)}-[0-9a-f]{{16}}\.npz", file.name):
                file.unlink()

    def pictures(self, name: str | None) -> Pictures:
        """Return the pictures of a file of its state; none for None.

        Raises:
            DamagedFileError: the file is missing or damaged.
        """
        return Pictures.of() if name is None else Pictures.read(self.folder / name)


def refusals(home: Path) -> list[tuple[str, Refusal]]:
    """Return all refusals on record with the names of their polls' files; damaged files are passed over."""
    found = []
    for path in sorted((home / FOLDER_NAME).glob("*.json")):
        try:
            found += [(path.stem, refusal) for refusal in NewDataRecord.read(path).refusals]
        except (FileNotFoundError, DamagedFileError):  # the next poll reports it
            continue
    return found
