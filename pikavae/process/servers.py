"""Run local servers while they are needed: check ports and health, keep logs, and stop them."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pikavae.errors import PikavaeError, UserError
from pikavae.process.surroundings import ask
from pikavae.workspace.disks import diagnose
from pikavae.workspace.files import make_folder

START_SECONDS = 600.0
"""The longest wait for a server that is starting. Prefect's first start took over two minutes on a busy machine."""
STOP_SECONDS = 20.0
TAIL_LINES = 12
COMMAND_WIDTH = 80


def require_free_port(port: int, flag: str = "--port", host: str = "127.0.0.1") -> None:
    """Check that a server can listen on a port.

    Args:
        port: its number.
        flag: the option to change, for the message.
        host: the address that the server listens on.

    Raises:
        UserError: the port is taken or invalid; the message names the process that holds it.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason: object = error
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                reason = f"taken by {holder_of(port) or 'a process that this user may not see'}"
            raise UserError(f"{flag} {port}: {reason}; choose another with {flag}") from None


def holder_of(port: int) -> str | None:
    """Return the number and the command of a process that listens on a port; None if none can be seen."""
    for process in psutil.process_iter():
        try:
            sockets = process.net_connections(kind="tcp")
            if any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in sockets):
                command = " ".join(process.cmdline()) or process.name()
                return f"process {process.pid} ({textwrap.shorten(command, COMMAND_WIDTH, placeholder=' ...')})"
        except (psutil.Error, OSError):
            continue  # it has just ended, or belongs to another user
    return None


@dataclass
class Server:
    """Represents a program that was started and must be stopped.

    Attributes:
        name: its name in messages.
        process: its process, the leader of its own session: Ctrl-C in the terminal reaches pikavae alone, which then
            stops its servers in order.
        log: the file of its output; None if its errors go to the terminal.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None = None

    @classmethod
    def start(
        cls, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path | None = None
    ) -> Server:
        """Start a program.

        Args:
            name: its name in messages.
            command: the program and its arguments.
            environment: variables that override those of this process.
            folder: its working directory, which must hold no modules, since uvicorn imports from there first.
            log: the file of its output; an earlier file is kept as `<log>.1`.
        """
        settings = {**os.environ, "PYTHONSAFEPATH": "1", **environment}
        make_folder(folder)
        if log is None:
            return cls(
                name,
                subprocess.Popen(command, env=settings, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True),
            )
        make_folder(log.parent)
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        with log.open("ab") as output:  # so that it can be cut while the server writes
            return cls(
                name,
                subprocess.Popen(
                    command,
                    env=settings,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                ),
                log,
            )

    def wait_until_healthy(self, url: str) -> None:
        """Wait until the address answers.

        Raises:
            PikavaeError: the server ended, or did not answer in time; the message has the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.require_alive()
            try:
                ask(url, 2.0)
            except OSError:
                time.sleep(0.2)
            else:
                return
        raise PikavaeError(f"{self.name} did not answer within {START_SECONDS:.0f} s{self._last_output()}")

    def require_alive(self) -> None:
        """Raise a PikavaeError if the server has ended; the message has the end of its log."""
        if (status := self.process.poll()) is not None:
            if self.log is not None and (explained := diagnose(self.log.parent)) is not None:
                raise type(explained)(f"{self.name} ended with status {status}: {explained}")
            raise PikavaeError(f"{self.name} ended with status {status}{self._last_output()}")

    def stop(self) -> None:
        """Stop the server and its descendants: ask first, then kill."""
        end_processes(family(self.process.pid))
        self.process.wait()

    def _last_output(self) -> str:
        if self.log is None:
            return "; its output above has the reason"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([f"; the end of {self.log}:", *lines])


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its descendants; empty if it is gone."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Ask processes to end, and kill those that have not ended after `STOP_SECONDS`."""
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
