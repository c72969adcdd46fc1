"""A real MLflow server for tests."""

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest

from pikavae.tracker import ui
from pikavae.tracker.client import Workspace


def free_port():
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def mlflow_server(home, port):
    """Serve the store of `home`, which is made when it is not there, and end the server with the block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        workspace = Workspace(home)
        _ = workspace.client
        command, environment = ui.ui_argv(workspace, port)
    with (home / "log").open("a") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, cwd=home, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except (urllib.error.URLError, TimeoutError):
                assert process.poll() is None, (home / "log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
