"""Measure a request to MLflow's server with no password, one that is remembered, and one that is hashed each time.

    python -m benchmarks.signing_in

Three servers run at once and are asked in turn. A request looks up an experiment by its name. `remembered` is how
`pikavae up` starts a server with a password; `hashed each time` is MLflow's default.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from pikavae.process.access import LOCAL, Access, Credentials
from pikavae.process.servers import end_processes, family
from pikavae.tracker.client import Workspace
from pikavae.tracker.ui import AUTH_NAME, REMEMBERED_SECONDS, ui_argv

WAYS = ("no password", "remembered", "hashed each time")
START_SECONDS = 180


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--requests", type=int, default=10, help="in a round, of each server")
    arguments = parser.parse_args()
    credentials = Credentials("somebody", secrets.token_hex(8), Path("unused"))
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pikavae-signing-in-")))
        servers = {way: stack.enter_context(serving(folder / str(i), way, credentials)) for i, way in enumerate(WAYS)}
        client = stack.enter_context(httpx.Client(auth=(credentials.user, credentials.password), timeout=60))
        took: dict[str, list[float]] = {way: [] for way in WAYS}
        used = {way: -cpu_seconds(process) for way, (_, process) in servers.items()}
        for _ in range(arguments.rounds):
            for way, (address, _) in servers.items():
                for _ in range(arguments.requests):
                    began = time.monotonic()
                    client.get(address).raise_for_status()
                    took[way].append(time.monotonic() - began)
        for way, (_, process) in servers.items():
            used[way] += cpu_seconds(process)
    print(f"{'password':<18} {'median':>9} {'ratio':>6} {'CPU of the server':>18}")
    least = statistics.median(took[WAYS[0]])
    for way in WAYS:
        median = statistics.median(took[way])
        print(f"{way:<18} {1000 * median:6.1f} ms {median / least:6.2f} {1000 * used[way] / len(took[way]):15.1f} ms")


@contextlib.contextmanager
def serving(home: Path, way: str, credentials: Credentials) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve a new home for the block; yields the address of the request, and the server's process."""
    workspace, port = Workspace(home), free_port()
    workspace.experiment_id("training")
    access = LOCAL if way == "no password" else Access(credentials=credentials)
    command, environment = ui_argv(workspace, port, access)
    if way == "hashed each time":
        settings = (home / AUTH_NAME).read_text()
        remembers = f"auth_cache_ttl_seconds = {REMEMBERED_SECONDS}\n"
        assert remembers in settings
        (home / AUTH_NAME).write_text(settings.replace(remembers, ""))
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + START_SECONDS
        while not is_up(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=training", process
    finally:
        end_processes(family(process.pid))
        process.wait(30)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def is_up(address: str) -> bool:
    """Return True if a server answers."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(address).is_success
    return False


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the CPU time of a process and its children so far."""
    parent = psutil.Process(process.pid)
    return sum(sum(one.cpu_times()[:2]) for one in (parent, *parent.children(recursive=True)))


if __name__ == "__main__":
    main()
