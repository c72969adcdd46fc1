"""Say what is known of each address, and try it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pikavae.errors import UserError
from pikavae.notify.kinds import TEST
from pikavae.notify.notification import Notification
from pikavae.notify.outbox import Outbox
from pikavae.notify.send import UndeliveredError, check_address, send
from pikavae.notify.settings import FILE_NAME, URLS_VARIABLE, Recipients, read_recipients
from pikavae.notify.telling import notify
from pikavae.tracker.client import Workspace


@dataclass(frozen=True)
class AddressState:
    """Holds what is known of an address, without secrets.

    Attributes:
        address: its label.
        events: what goes there.
        pending: the events that did not arrive yet, the oldest first, as `EVENT of TIME`.
        delivered: how many events of the last 30 days arrived.
        error: why the last try failed; empty if it did not.
    """

    address: str
    events: tuple[str, ...]
    pending: tuple[str, ...] = ()
    delivered: int = 0
    error: str = ""


def address_states(workspace: Workspace, *, send_now: bool = False) -> list[AddressState]:
    """Return what is known of each address; with `send_now`, after another try.

    Raises:
        UserError: no address is configured, or `notify.yaml` is not valid.
    """
    recipients = _require_recipients(workspace.home)
    if send_now:
        notify(workspace)
    events = Outbox(workspace.home).events()
    found = []
    for address in recipients.addresses:
        known = [(event.notification, event.deliveries.get(address.digest)) for event in events]
        waiting = [(told, delivery) for told, delivery in known if delivery and delivery.delivered is None]
        found.append(
            AddressState(
                address.label,
                tuple(address.events),
                tuple(f"{told.event} of {told.time[:16].replace('T', ' ')}" for told, _ in waiting),
                sum(1 for _, delivery in known if delivery and delivery.delivered),
                next((delivery.error for _, delivery in waiting if delivery.error), ""),
            )
        )
    return found


def send_test(workspace: Workspace) -> dict[str, str]:
    """Send a test to every address at once, and return by label why it did not arrive; empty if it did.

    Raises:
        UserError: no address is configured, or `notify.yaml` is not valid.
    """
    recipients = _require_recipients(workspace.home)
    now = datetime.now(UTC)
    test = Notification.make(
        f"test-{now:%Y%m%dT%H%M%S%f}",
        TEST,
        "pikavae: a test",
        ["Notifications of pikavae reach this address."],
        data={"home": workspace.home.name},
    )
    found = {}
    for address in recipients.addresses:
        try:
            send(address, test, workspace.home)
        except UndeliveredError as error:
            found[address.label] = str(error)
        else:
            found[address.label] = ""
    return found


def check_recipients(home: Path) -> list[str]:
    """Return the labels of all addresses after checking that each can be read; [] if there are none.

    Raises:
        UserError: `notify.yaml` is not valid, or an address is not; the message does not show it.
    """
    recipients = read_recipients(home)
    for address in recipients.addresses:
        try:
            check_address(address)
        except UndeliveredError as error:
            raise UserError(f"notifications: {address.label}: {error}") from None
    return [address.label for address in recipients.addresses]


def _require_recipients(home: Path) -> Recipients:
    recipients = read_recipients(home)
    if not recipients.addresses:
        raise UserError(
            f"notify: no address; write `urls:` with a list of addresses into {home / FILE_NAME}, for your eyes only "
            f"(`chmod 600`), or one a line into the variable {URLS_VARIABLE}"
        )
    return recipients
