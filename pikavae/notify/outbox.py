"""Keep what is to be sent, and who has it: one file an event, in the state folder.

outbox/events/<id>.json     the event, and for each address whether it arrived
outbox/attempts/<id>.json   a run that has begun and not ended, with its process
outbox/state.json           how far the record was read

An event is in a file before it is sent, and its arrival is in the file right after. A crash between the two sends it
again, which a receiver sees by its id. A file stays for a while after everybody has the event, so that the same event
is not added again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pikavae.errors import DamagedFileError
from pikavae.notify.notification import Notification
from pikavae.notify.settings import Address
from pikavae.workspace.files import exclusive, make_folder, write_atomically
from pikavae.workspace.records import Record, readable_files

logger = logging.getLogger(__name__)

FOLDER_NAME = "outbox"
_unwritten: dict[Path, dict[str, OutboxEvent]] = {}  # events of this process that a full disk did not take, by home

KEPT_DAYS = 30
"""How long an event stays in the outbox, whether it arrived or not."""


class Delivery(Record):
    """Holds what is known of one event at one address."""

    label: str
    """The address, without secrets."""
    delivered: str | None = None
    """When it was taken, in UTC; None if it was not."""
    tries: int = 0
    tried: str | None = None
    """When it was tried last."""
    error: str = ""
    """Why the last try failed."""


class OutboxEvent(Record):
    """Holds an event and its deliveries, by the digest of each address."""

    notification: Notification
    deliveries: Mapping[str, Delivery]

    @property
    def is_old(self) -> bool:
        """Return True if it is no longer kept."""
        return datetime.now(UTC) - datetime.fromisoformat(self.notification.time) > timedelta(days=KEPT_DAYS)

    def waits_for(self, address: Address) -> bool:
        """Return True if the event is for this address and was not taken."""
        delivery = self.deliveries.get(address.digest)
        return delivery is not None and delivery.delivered is None

    def with_delivery(self, digest: str, delivery: Delivery) -> OutboxEvent:
        """Return the event with another delivery."""
        return OutboxEvent(notification=self.notification, deliveries={**self.deliveries, digest: delivery})


class State(Record):
    """Holds how far the record was read, `state.json`."""

    ledger: int = 0
    """The number of the ledger's last event that was read."""
    ledger_stamp: Sequence[int] = ()
    """Time of change and size of the ledger's file when it was read."""
    candidates: Sequence[str] = ()
    """The registrations that were read, by the names of their files."""
    watches: Sequence[str] = ()
    """The watches of the champion that were read, by their ids."""
    fallen: Sequence[str] = ()
    """The champions that fell when they were last watched, each with its source."""
    complaint: str = ""
    """What was wrong with the ledger when it was last checked."""
    is_disk_low: bool = False
    refusals: Sequence[str] = ()
    """The refusals of new pictures that were read."""


class Outbox:
    """Represents the outbox of a state folder. Threads and processes may use it at once."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / FOLDER_NAME
        self._unwritten = _unwritten.setdefault(home, {})
        self._writing = threading.Lock()

    @property
    def exists(self) -> bool:
        """Return True if it was made."""
        return (self.folder / "state.json").is_file()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock for reading the record and changing events."""
        self._make_folder()
        with exclusive(self.folder / "outbox.lock"):
            yield

    @contextmanager
    def sending(self, patience: float) -> Iterator[None]:
        """Hold the lock of whoever sends.

        Raises:
            BusyError: another process sends for longer than `patience` seconds.
        """
        self._make_folder()
        with exclusive(self.folder / "sending.lock", busy="another process sends notifications", patience=patience):
            yield

    def _make_folder(self) -> None:
        make_folder(self.folder)
        self.folder.chmod(0o700)  # it says what happened, and whom was told

    def state(self) -> State | None:
        """Return how far the record was read; None if it never was, or if that is not known any more."""
        try:
            return State.read(self.folder / "state.json")
        except (FileNotFoundError, DamagedFileError):
            return None

    def save_state(self, state: State) -> None:
        """Write how far the record was read."""
        write_atomically(self.folder / "state.json", state.to_json())

    def add(self, notification: Notification, addresses: Sequence[Address]) -> bool:
        """Add an event for the addresses that take it. The caller holds the lock.

        If the disk is full, the event is kept in memory, and is sent by this process or not at all.

        Returns:
            False if the event is there already.
        """
        path = self._path(notification.id)
        if path.exists() or notification.id in self._unwritten:
            return False
        takers = [address for address in addresses if address.takes(notification.event)]
        deliveries = {address.digest: Delivery(label=address.label) for address in takers}
        self._write(OutboxEvent(notification=notification, deliveries=deliveries))
        return True

    def events(self) -> list[OutboxEvent]:
        """Return all events, the oldest first."""
        written = readable_files((self.folder / "events").glob("*.json"), OutboxEvent.read, logger)
        found = {event.notification.id: event for _, event in written} | self._unwritten
        return sorted(found.values(), key=lambda event: event.notification.time)

    def record_delivery(self, name: str, address: Address, error: str | None) -> None:
        """Record that an event arrived at an address, or why it did not."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._writing, self.lock():
            event = self._read(name)
            if event is None:
                return
            before = event.deliveries.get(address.digest) or Delivery(label=address.label)
            after = Delivery(
                label=address.label,
                delivered=now if error is None else None,
                tries=before.tries + 1,
                tried=now,
                error=error or "",
            )
            self._write(event.with_delivery(address.digest, after))

    def remove_old(self) -> None:
        """Remove the events that are no longer kept; a warning names those that did not arrive."""
        with self.lock():
            for event in self.events():
                if event.is_old:
                    missed = [one.label for one in event.deliveries.values() if one.delivered is None]
                    if missed:
                        logger.warning(
                            "%s of %s reached %s in %d days and is given up",
                            *(event.notification.event, event.notification.time[:16]),
                            *(f"not {', '.join(missed)}", KEPT_DAYS),
                        )
                    self._path(event.notification.id).unlink(missing_ok=True)
                    self._unwritten.pop(event.notification.id, None)

    def _read(self, name: str) -> OutboxEvent | None:
        if name in self._unwritten:
            return self._unwritten[name]
        try:
            return OutboxEvent.read(self._path(name))
        except (FileNotFoundError, DamagedFileError):
            return None

    def _write(self, event: OutboxEvent) -> None:
        try:
            write_atomically(self._path(event.notification.id), event.to_json())
        except OSError as error:
            self._unwritten[event.notification.id] = event
            logger.warning("outbox: %s; the event is sent now or not at all", error.strerror)
        else:
            self._unwritten.pop(event.notification.id, None)

    def _path(self, name: str) -> Path:
        return self.folder / "events" / f"{name}.json"
