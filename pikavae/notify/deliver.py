"""Send what is in the outbox: all addresses at once, each in the order of the events, for a limited time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pikavae.errors import BusyError
from pikavae.notify.outbox import Delivery, Outbox, OutboxEvent
from pikavae.notify.send import UndeliveredError, send
from pikavae.notify.settings import Address, Recipients
from pikavae.workspace.records import warn_once

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 15
LONGEST_PAUSE_SECONDS = 600

IsDue = Callable[[Delivery], bool]


def always(_delivery: Delivery) -> bool:
    """Return True: a command tries every address once."""
    return True


def after_pause(delivery: Delivery) -> bool:
    """Return True if the last try is long enough ago, twice as long after each: for who tries again and again."""
    if delivery.tried is None:
        return True
    pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(delivery.tries - 1, 10))
    return datetime.now(UTC) - datetime.fromisoformat(delivery.tried) >= timedelta(seconds=pause)


def deliver(
    outbox: Outbox, recipients: Recipients, *, is_due: IsDue = always, patience: float = PATIENCE_SECONDS
) -> None:
    """Send each pending event to its addresses, and record what arrived. What did not remains pending.

    An address that fails gets no more in this call. What is under way when the time is over may arrive and still be
    pending; it is then sent again.

    Args:
        outbox: what is pending.
        recipients: the addresses that are configured now; what others miss remains.
        is_due: decides from what is known of an address if it is tried.
        patience: the longest time in seconds.
    """
    deadline = time.monotonic() + patience
    if not _pending(outbox, recipients, is_due):
        return
    try:
        with outbox.sending(patience):
            pending = _pending(outbox, recipients, is_due)  # whoever sent meanwhile has recorded it
            threads = [
                threading.Thread(target=_send_all, args=(outbox, address, events), daemon=True)
                for address, events in pending
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
    except BusyError:
        return


def _pending(outbox: Outbox, recipients: Recipients, is_due: IsDue) -> list[tuple[Address, list[OutboxEvent]]]:
    """Return the events that each address waits for, the oldest first, without addresses that are not due."""
    events, found = outbox.events(), []
    for address in recipients.addresses:
        waiting = [event for event in events if event.waits_for(address)]
        if waiting and is_due(waiting[0].deliveries[address.digest]):
            found.append((address, waiting))
    return found


def _send_all(outbox: Outbox, address: Address, events: list[OutboxEvent]) -> None:
    """Send events to one address until one fails."""
    try:
        for event in events:
            error = _try(address, event, outbox)
            outbox.record_delivery(event.notification.id, address, error)
            if error is not None:
                warn_once(logger, f"notification to {address.label}: {error}; it is tried again")
                return
    except OSError as error:  # the outbox is gone, or its disk fails: what was sent is sent again
        logger.warning("outbox: %s", error.strerror)


def _try(address: Address, event: OutboxEvent, outbox: Outbox) -> str | None:
    """Send one event and return None, or why it did not arrive."""
    try:
        send(address, event.notification, outbox.home)
    except UndeliveredError as error:
        return str(error)
    return None
