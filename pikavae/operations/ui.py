"""The MLflow UI on this machine, for as long as a person looks at it."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

from pikavae.config import Config
from pikavae.errors import PikavaeError, UserError
from pikavae.home import home
from pikavae.runs import find_run
from pikavae.tracking import connect, experiment_id, leaderboard_url, ui_argv, ui_url

logger = logging.getLogger(__name__)

START_SECONDS = 90.0
STOP_SECONDS = 15.0


def serve_mlflow(port: int, run: str | None, config: Config) -> dict[str, Any]:
    """Serve the MLflow UI until it is stopped, and say where to look once it answers.

    Raises:
        UserError: the port is taken, there is no such run, or the store is a server already.
        PikavaeError: the server did not start.
    """
    require_free_port(port)
    client = connect(home())
    base = f"http://127.0.0.1:{port}"
    if run is None:
        url = leaderboard_url(base, experiment_id(client, home(), config.tracking.experiment))
    else:
        found = find_run(home(), run)
        url = ui_url(base, client.get_run(found.run_id).info.experiment_id, found.run_id)
    command, environment = ui_argv(home(), port)
    server = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    try:
        wait_until_healthy(f"{base}/health", server)
        logger.info("MLflow is ready: %s\nCtrl-C ends it.", url)
        server.wait()
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        stop(server)
    return {"urls": {"mlflow": url}}


def require_free_port(port: int) -> None:
    """Raise a UserError when something listens on the port already, or it is no port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: {error}; choose another with --port") from None


def wait_until_healthy(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return once the address answers.

    Raises:
        PikavaeError: the server ended, or the time is up.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise PikavaeError(
                f"the MLflow server ended at once with status {server.returncode}; its reason stands above"
            )
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise PikavaeError(f"the MLflow server did not answer within {START_SECONDS:.0f} s")


def stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and what it started, politely first."""
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
