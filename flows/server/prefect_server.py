"""Start Prefect's server for one command when no other runs, and end it after the command.

Prefect itself would start it as a child in the command's process group. Ctrl-C would then end the server first, and the
flow could not report its end.
"""

from __future__ import annotations

import atexit
import os
import socket
import sys
from pathlib import Path

from pikavae.process.servers import Server
from pikavae.process.stopping import ignore_stops

LOG_NAME = "prefect-of-a-run.log"


def start_server(home: Path) -> Server:
    """Start a server on Prefect's database, make this process use it, and end it when this process ends.

    Call it after `set_up_prefect` and before the first import of Prefect, which reads the environment once. `atexit`
    runs what was registered first last: Prefect still reaches the server at the end of the process.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-P", "-m", "uvicorn", "--app-dir", os.environ["PREFECT_HOME"], "--factory"]
    command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", "error", "--lifespan", "on"]
    settings = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    server = Server.start("Prefect's server", command, settings, home, home / "logs" / LOG_NAME)
    atexit.register(end_server, server)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_UI_URL"] = ""  # it ends with the run, so no record may link to it
    return server


def end_server(server: Server) -> None:
    """End the server, even if signals arrive meanwhile."""
    with ignore_stops():
        server.stop()
