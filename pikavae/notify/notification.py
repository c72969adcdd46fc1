"""Define what is sent: one event in words and numbers, and the JSON that webhooks get."""

from __future__ import annotations

import base64
import json
import re
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pikavae.notify.kinds import KINDS
from pikavae.workspace.records import Record

PAYLOAD_VERSION = "1.0"
CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+(?=@)")
"""User and password in an address, as in `postgresql://user:password@host`."""
TITLE_LENGTH = 200
MESSAGE_LENGTH = 4000
PICTURE_BYTES = 5_000_000
"""A larger picture is left out: services refuse it."""


class Notification(Record):
    """Holds one event as it is sent. Fields that are paths are relative to the state folder."""

    id: str
    """Names the event; a receiver that gets an id twice has it already."""
    event: str
    time: str
    """When it was found in the record, in UTC, ISO 8601."""
    host: str
    """The machine that found it."""
    title: str
    message: str
    data: Mapping[str, Any] = {}
    """What the event is about, by names that depend on the event."""
    link: str | None = None
    """The address of a page about it, if a server shows one."""
    picture: str | None = None
    """The path of a PNG file."""

    @classmethod
    def make(
        cls,
        name: str,
        event: str,
        title: str,
        lines: Sequence[str],
        *,
        data: Mapping[str, Any] | None = None,
        link: str | None = None,
        picture: str | None = None,
    ) -> Notification:
        """Make the notification of an event of this moment. User and password of any address in it are hidden.

        Args:
            name: its id; letters, digits, hyphens.
            event: a name of KINDS, or TEST.
            title: one line.
            lines: the text.
            data: JSON values.
            link: the address of a page.
            picture: the path of a PNG file below the state folder.
        """
        return cls(
            id=name,
            event=event,
            time=datetime.now(UTC).isoformat(timespec="microseconds"),
            host=socket.gethostname(),
            title=_hide(_shorten(" ".join(title.split()), TITLE_LENGTH)),
            message=_hide(_shorten("\n".join(lines), MESSAGE_LENGTH)),
            data=_hide_all(dict(data or {})),
            link=link,
            picture=picture,
        )

    @property
    def severity(self) -> str:
        """Return how a service shows it."""
        return next((kind.severity for name, kind in KINDS.items() if name == self.event), "info")

    def text(self) -> str:
        """Return the text for a person: the message, the link, and where it comes from."""
        return "\n".join([self.message, *([self.link] if self.link else []), f"({self.host})"]).strip()

    def payload(self, home: Path) -> bytes:
        """Return the JSON that a webhook gets, with the picture in base64."""
        picture = self.read_picture(home)
        attachments = [] if picture is None else [_attachment(*picture)]
        content = {
            "version": PAYLOAD_VERSION,
            "id": self.id,
            "event": self.event,
            "type": self.severity,
            "time": self.time,
            "host": self.host,
            "title": self.title,
            "message": self.message,
            "link": self.link,
            "data": self.data,
            "attachments": attachments,
        }
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode()

    def read_picture(self, home: Path) -> tuple[str, bytes] | None:
        """Return name and bytes of the picture; None if there is none any more, or if it is too large."""
        if self.picture is None:
            return None
        path = home / self.picture
        try:
            content = path.read_bytes() if path.stat().st_size <= PICTURE_BYTES else None
        except OSError:  # pruned since
            return None
        return None if content is None else (path.name, content)


def _attachment(name: str, content: bytes) -> dict[str, str]:
    return {"filename": name, "mimetype": "image/png", "base64": base64.b64encode(content).decode()}


def _shorten(text: str, length: int) -> str:
    """Return a text without its middle if it is too long: its end often has the reason."""
    if len(text) <= length:
        return text
    half = (length - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"


def _hide(text: str) -> str:
    return CREDENTIALS.sub("...", text)


def _hide_all(value: Any) -> Any:
    """Hide user and password in every text of a JSON value."""
    if isinstance(value, str):
        return _hide(value)
    if isinstance(value, Mapping):
        return {str(name): _hide_all(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_hide_all(part) for part in value]
    return value
