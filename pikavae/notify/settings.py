"""Read who is to be told of what: `notify.yaml` in the state folder, or the environment.

Addresses hold passwords and tokens. So they are no part of the configuration, which is recorded with every run and
shown in MLflow and Prefect, and no flag, which other users of the machine can see. The file is for its owner alone.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from pikavae.errors import UserError
from pikavae.notify.kinds import KINDS, TEST, EventName

FILE_NAME = "notify.yaml"
URLS_VARIABLE = "PIKAVAE_NOTIFY_URLS"
SECRET_VARIABLE = "PIKAVAE_NOTIFY_SECRET"
HOST_IS_NO_SECRET = {"http", "https", "json", "jsons", "mailto", "mailtos"}
"""Schemes whose host names a machine. In those of other services it may be a token or a private topic."""
OTHERS_MAY_READ = 0o077
EVERY_EVENT: tuple[EventName, ...] = tuple(KINDS)
Secret = Annotated[SecretStr, Field(min_length=1)]


class _Part(BaseModel):
    """Makes the parts of the file frozen and strict about names; an error never shows a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class AddressSettings(_Part):
    """Holds an address with settings of its own, an element of `urls`."""

    url: Secret
    """Where to send: any URL of apprise, or the http(s) address of a webhook."""
    events: tuple[EventName, ...] | None = None
    """The events that go there; by default those of the file."""
    secret: Secret | None = None
    """The key that signs what this webhook gets; by default that of the file."""


class NotifySettings(_Part):
    """Holds the content of `notify.yaml`."""

    urls: tuple[Secret | AddressSettings, ...] = ()
    """The addresses."""
    events: tuple[EventName, ...] = EVERY_EVENT
    """The events that are sent; by default all."""
    secret: Secret | None = None
    """The key that signs what webhooks get; without one nothing is signed."""
    disk_free_gib: float = Field(5.0, ge=0)
    """The free space in GiB below which the disk counts as nearly full."""


@dataclass(frozen=True)
class Address:
    """Holds where to send, and what.

    Attributes:
        url: the URL, a secret.
        events: the events that go there.
        secret: the key that signs what a webhook gets; None for no signature.
    """

    url: str
    events: tuple[EventName, ...]
    secret: str | None = None

    def __repr__(self) -> str:
        """Return the label, so that no message or traceback shows the URL."""
        return f"<Address {self.label}>"

    @property
    def digest(self) -> str:
        """Return what identifies the address in the outbox: 16 hexadecimal digits."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """Return a name for people, without secrets: the service, its host if that is none, and part of the digest."""
        scheme, separator, _ = self.url.partition("://")
        try:
            host = urlsplit(self.url).hostname if scheme in HOST_IS_NO_SECRET else None
        except ValueError:
            host = None
        service = scheme if separator else "address"
        return " ".join([f"{service}://{host}" if host else service, f"({self.digest[:6]})"])

    def takes(self, event: str) -> bool:
        """Return True if events of this name go there."""
        return event == TEST or event in self.events


@dataclass(frozen=True)
class Recipients:
    """Holds all addresses, and when the disk counts as nearly full."""

    addresses: tuple[Address, ...]
    disk_free_gib: float = 5.0


def is_configured(home: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if there may be addresses, without reading them."""
    return bool(environment.get(URLS_VARIABLE, "").strip()) or (home / FILE_NAME).exists()


def read_recipients(home: Path, environment: Mapping[str, str] = os.environ) -> Recipients:
    """Return the addresses of a state folder. Those of PIKAVAE_NOTIFY_URLS replace those of the file.

    Args:
        home: the state folder.
        environment: PIKAVAE_NOTIFY_URLS has one address a line; PIKAVAE_NOTIFY_SECRET is the key that signs.

    Raises:
        UserError: others may read the file, or it is not valid; no message shows an address.
    """
    settings = _read_file(home / FILE_NAME)
    lines = [line.strip() for line in environment.get(URLS_VARIABLE, "").splitlines()]
    named = [line for line in lines if line and not line.startswith("#")]
    secret = environment.get(SECRET_VARIABLE) or (settings.secret.get_secret_value() if settings.secret else None)
    if named:
        found = [Address(url, settings.events, secret) for url in named]
    else:
        found = [_address(given, settings, secret) for given in settings.urls]
    return Recipients(tuple({address.digest: address for address in found}.values()), settings.disk_free_gib)


def _address(given: SecretStr | AddressSettings, settings: NotifySettings, secret: str | None) -> Address:
    if isinstance(given, SecretStr):
        return Address(given.get_secret_value(), settings.events, secret)
    own = secret if given.secret is None else given.secret.get_secret_value()
    return Address(given.url.get_secret_value(), settings.events if given.events is None else given.events, own)


def _read_file(path: Path) -> NotifySettings:
    """Return the content of the file; the defaults if there is none.

    Raises:
        UserError: others may read it, or it is not valid.
    """
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return NotifySettings()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); make it a text file of yours") from None
    if os.name == "posix" and mode & OTHERS_MAY_READ:
        raise UserError(f"{path}: other users may read its addresses; run `chmod 600 {path}`")
    try:
        return NotifySettings.model_validate(yaml.safe_load(text) or {})
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)  # its text would show the line
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not a YAML file; it begins with `urls:` and a list of addresses") from None
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from None


def _explain(error: ValidationError) -> str:
    """Return one line for the first mistake, without the value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"][:2])) or "the file"
    field, *place = first["loc"] or ("",)
    if field == "urls":
        expected = "an address, or a mapping of `url`, `events` and `secret`" if place else "a list of addresses"
        return f"{where}: expected {expected}; events are {', '.join(EVERY_EVENT)}"
    if field == "events":
        return f"{where}: expected a list of events; events are {', '.join(EVERY_EVENT)}"
    if first["type"] == "extra_forbidden" or not field:
        return f"{where}: no such field; fields are {', '.join(NotifySettings.model_fields)}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}"
