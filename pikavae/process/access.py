"""Say where the servers listen, how they are reached, and who may ask them."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pikavae.errors import UserError

AUTH_FILE = "PIKAVAE_AUTH_FILE"
"""The environment variable that names the file with the user and the password of both servers."""
PASSWORD_LENGTH = 12
"""The least number of characters of a password, which MLflow demands."""
LOOPBACK = "127.0.0.1"
SECRETS = Path("/run/secrets")
"""Where containers find their secrets; who may read them is decided outside."""


@dataclass(frozen=True)
class Credentials:
    """Holds the one user that both servers know.

    Attributes:
        user: the name.
        password: the password.
        file: the file that both are from.
    """

    user: str
    password: str = field(repr=False)
    file: Path

    @property
    def text(self) -> str:
        """Return `user:password`, as Prefect takes it."""
        return f"{self.user}:{self.password}"


def read_credentials(named: str | None = None) -> Credentials | None:
    """Read the user and the password of the servers; None if no file is named.

    Args:
        named: the path of the file; by default the one that AUTH_FILE names.

    Raises:
        UserError: the file cannot be read, others may read it, or it does not hold `USER:PASSWORD`.
    """
    named = os.environ.get(AUTH_FILE) if named is None else named
    if not named:
        return None
    path = Path(named).expanduser().absolute()
    try:
        text = path.read_text(encoding="utf-8").strip()
        mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise UserError(f"{AUTH_FILE} {path}: cannot be read ({reason}); write USER:PASSWORD into it") from None
    if mode & 0o077 and SECRETS not in path.parents:
        raise UserError(f"{AUTH_FILE} {path}: others may read it (mode {mode:o}); run `chmod 600 {path}`")
    user, colon, password = text.partition(":")
    if not (user and colon) or not text.isprintable() or " " in text:
        raise UserError(f"{AUTH_FILE} {path}: expected one line USER:PASSWORD without spaces")
    if len(password) < PASSWORD_LENGTH:
        raise UserError(
            f"{AUTH_FILE} {path}: the password has {len(password)} characters; use {PASSWORD_LENGTH} or more"
        )
    return Credentials(user, password, path)


@dataclass(frozen=True)
class Access:
    """Says where servers listen and who may ask them. By default only programs of this machine reach them.

    Attributes:
        host: the address to listen on.
        name: the name or address in links, under which other machines reach this one; empty for the default.
        credentials: whom they answer; None if they answer everybody who reaches them.
    """

    host: str = LOOPBACK
    name: str = ""
    credentials: Credentials | None = None

    def require_safe(self) -> None:
        """Check that servers that other machines reach ask for a password.

        Raises:
            UserError: `host` is no address, or no credentials are given for one that other machines reach.
        """
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            raise UserError(
                f"--host {self.host}: expected an IP address of this machine, or 0.0.0.0 for all of them"
            ) from None
        if not address.is_loopback and self.credentials is None:
            raise UserError(
                f"--host {self.host}: other machines reach it, so both servers need a password: write USER:PASSWORD "
                f"into a file, `chmod 600` it, and name it in {AUTH_FILE}"
            )

    @property
    def is_open(self) -> bool:
        """Return True if other machines reach the servers."""
        return not ipaddress.ip_address(self.host).is_loopback

    @property
    def local_host(self) -> str:
        """Return the address by which programs of this machine reach the servers."""
        return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)

    @property
    def public_name(self) -> str:
        """Return the name in links: `name`, or the host's name if the servers listen on all addresses."""
        if self.name:
            return self.name
        return socket.gethostname() if ipaddress.ip_address(self.host).is_unspecified else self.host

    def page(self, port: int) -> str:
        """Return the address of a server's pages, as links show it."""
        return f"http://{_in_address(self.public_name)}:{port}"

    def local(self, port: int) -> str:
        """Return the address of a server for programs of this machine."""
        return f"http://{_in_address(self.local_host)}:{port}"

    def names(self) -> list[str]:
        """Return all names and addresses by which a browser may reach this machine."""
        found = {self.public_name, socket.gethostname(), "localhost", LOOPBACK, "::1"}
        for addresses in psutil.net_if_addrs().values():
            found |= {one.address for one in addresses if one.family in {socket.AF_INET, socket.AF_INET6}}
        return sorted(_in_address(name.partition("%")[0]) for name in found)


LOCAL = Access()
"""Servers that programs of this machine reach, without a password."""


def _in_address(host: str) -> str:
    """Return a host as an address in a URL has it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
