"""Measure a request to MLflow's server with no password, one that is remembered, and one that is hashed each time.

    python -m benchmarks.signing_in

Three servers run at once and are asked in turn. A request looks up an experiment by its name. `remembered` is how
`pikavae up` starts a server with a password; `hashed each time` is MLflow's default.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from benchmarks.through_worker import free_port
from pikavae.process.access import LOCAL, Access, Credentials
from pikavae.process.servers import Server
from pikavae.tracker.client import Workspace
from pikavae.tracker.ui import AUTH_NAME, REMEMBERED_SECONDS, ui_argv

WAYS = ("no password", "remembered", "hashed each time")


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
        used = {way: -cpu_seconds(server) for way, (_, server) in servers.items()}
        for _ in range(arguments.rounds):
            for way, (address, _) in servers.items():
                for _ in range(arguments.requests):
                    began = time.monotonic()
                    client.get(address).raise_for_status()
                    took[way].append(time.monotonic() - began)
        for way, (_, server) in servers.items():
            used[way] += cpu_seconds(server)
    print(f"{'password':<18} {'median':>9} {'ratio':>6} {'CPU of the server':>18}")
    least = statistics.median(took[WAYS[0]])
    for way in WAYS:
        median = statistics.median(took[way])
        print(f"{way:<18} {1000 * median:6.1f} ms {median / least:6.2f} {1000 * used[way] / len(took[way]):15.1f} ms")


@contextlib.contextmanager
def serving(home: Path, way: str, credentials: Credentials) -> Iterator[tuple[str, Server]]:
    """Serve a new home for the block; yields the address of the request, and the server."""
    workspace, port = Workspace(home), free_port()
    workspace.experiment_id("training")
    access = LOCAL if way == "no password" else Access(credentials=credentials)
    command, environment = ui_argv(workspace, port, access)
    if way == "hashed each time":
        settings = (home / AUTH_NAME).read_text()
        remembers = f"auth_cache_ttl_seconds = {REMEMBERED_SECONDS}\n"
        assert remembers in settings
        (home / AUTH_NAME).write_text(settings.replace(remembers, ""))
    server = Server.start("MLflow's server", command, environment, home, home / "server.log")
    try:
        server.wait_until_healthy(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=training", server
    finally:
        server.stop()


def cpu_seconds(server: Server) -> float:
    """Return the CPU time of a server's processes so far."""
    parent = psutil.Process(server.process.pid)
    return sum(sum(one.cpu_times()[:2]) for one in (parent, *parent.children(recursive=True)))


if __name__ == "__main__":
    main()
