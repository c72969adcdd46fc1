"""The MLflow UI on this machine, for as long as a person looks at it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pikavae.config import Config
from pikavae.home import home
from pikavae.mlflow_ui import leaderboard_url, ui_argv, ui_url
from pikavae.runs import find_run
from pikavae.servers import Server, require_free_port
from pikavae.tracking import connect, experiment_id

logger = logging.getLogger(__name__)


def serve_mlflow(port: int, run: str | None, config: Config, ready: Callable[[Mapping[str, str]], None]) -> None:
    """Serve the MLflow UI until it is stopped.

    Args:
        port: on 127.0.0.1.
        run: the id of a run to open, instead of the table of runs.
        config: names the experiment.
        ready: told the address by name once it answers.

    Raises:
        UserError: the port is taken, there is no such run, or the store is a server already.
        PikavaeError: the server did not start, or ended by itself.
    """
    require_free_port(port)
    base = f"http://127.0.0.1:{port}"
    url = mlflow_page(base, config, run)
    server = start_mlflow(port)
    try:
        server.wait_until_healthy(f"{base}/health")
        ready({"mlflow": url})
        while True:
            server.require_alive()
            time.sleep(0.5)
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        server.stop()


def mlflow_page(base: str, config: Config, run: str | None = None) -> str:
    """The address of the leaderboard or of a run's page on MLflow's server `base`; makes the database if need be."""
    client = connect(home())
    if run is None:
        return leaderboard_url(base, experiment_id(client, home(), config.tracking.experiment))
    found = find_run(home(), run)
    return ui_url(base, client.get_run(found.run_id).info.experiment_id, found.run_id)


def start_mlflow(port: int, log: Path | None = None) -> Server:
    """Start MLflow's server on the store of this home.

    Raises:
        UserError: the store is a server already.
    """
    command, environment = ui_argv(home(), port)
    return Server.start("MLflow's server", command, environment, log)
