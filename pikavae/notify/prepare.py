"""Find whom to tell before anything is told, and keep that from failing the work."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pikavae.errors import PikavaeError
from pikavae.notify import record
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import Recipients, is_configured, read_recipients
from pikavae.workspace.disks import explain
from pikavae.workspace.records import warn_once

logger = logging.getLogger(__name__)


def prepare(home: Path) -> Recipients | None:
    """Return whom to tell, with the outbox made; None if there is nobody, and there never was."""
    outbox = Outbox(home)
    if not is_configured(home) and not outbox.exists:
        return None
    with never_failing(home):
        recipients = read_recipients(home)
        if not recipients.addresses and not outbox.exists:
            return None
        record.begin(home, outbox)
        return recipients
    return None


@contextmanager
def never_failing(home: Path) -> Iterator[None]:
    """Log an error of notifying: the work that people would be told of must not end by it."""
    try:
        yield
    except (PikavaeError, OSError) as error:
        told = error if isinstance(error, PikavaeError) else explain(error, home) or error
        warn_once(logger, f"notifications: {told}")
