"""Servers that run on this machine for as long as somebody uses them: ports, health, logs, and an end."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pikavae.errors import PikavaeError, UserError

START_SECONDS = 120.0
STOP_SECONDS = 20.0
TAIL_LINES = 12


def require_free_port(port: int, flag: str = "--port") -> None:
    """Raise a UserError when something listens on the port already, or it is no port; `flag` is the one to change."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"{flag} {port}: {error}; choose another with {flag}") from None


@dataclass
class Server:
    """A program that was started and is to be ended.

    Attributes:
        name: for messages.
        process: its process, leader of a session of its own: Ctrl-C in the terminal reaches pikavae alone, which then
            ends its servers in their order.
        log: where its output goes; None when that is the terminal's standard error.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None = None

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
    ) -> Server:
        """Start `command` with `environment` over ours; an earlier log is kept as `<log>.1`."""
        settings = {**os.environ, **environment}
        if log is None:
            return cls(name, subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, start_new_session=True))
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        with log.open("wb") as output:
            return cls(
                name,
                subprocess.Popen(
                    command,
                    env=settings,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                ),
                log,
            )

    def wait_until_healthy(self, url: str) -> None:
        """Return once the address answers.

        Raises:
            PikavaeError: the server ended, or the time is up; the message has the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.require_alive()
            try:
                urllib.request.urlopen(url, timeout=2).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
            else:
                return
        raise PikavaeError(f"{self.name} did not answer within {START_SECONDS:.0f} s{self._said()}")

    def require_alive(self) -> None:
        """Raise a PikavaeError when the server ended by itself; the message has the end of its log."""
        if (status := self.process.poll()) is not None:
            raise PikavaeError(f"{self.name} ended with status {status}{self._said()}")

    def stop(self) -> None:
        """End it and what it started, politely first."""
        end_processes(family(self.process.pid))
        self.process.wait()

    def _said(self) -> str:
        if self.log is None:
            return "; its reason stands above"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"; the end of {self.log}:", *lines])


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants; nothing when it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Ask them to end, and kill those that have not after a while."""
    for process in processes:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=STOP_SECONDS)
