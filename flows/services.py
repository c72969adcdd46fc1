"""`pikavae up`: MLflow, Prefect's server and a worker on this machine, started and ended together."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.environment import OWNER, SERVICES_NAME, Services, end_orphans, set_up_prefect
from pikavae import operations
from pikavae.config import Config
from pikavae.errors import PikavaeError, UserError
from pikavae.files import exclusive
from pikavae.mlflow_ui import MLFLOW_UI, ui_base
from pikavae.servers import START_SECONDS, Server, end_processes, family, require_free_port

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5


def up(mlflow_port: int, prefect_port: int, config: Config, ready: Callable[[Mapping[str, str]], None]) -> None:
    """Start all services, say where they are, and end them on Ctrl-C or SIGTERM.

    Runs that were cut off when this command or the machine was killed are marked as crashed in Prefect; a retry of one
    goes on from its last checkpoint.

    Args:
        mlflow_port: on 127.0.0.1; not used where MLFLOW_TRACKING_URI names a server.
        prefect_port: on 127.0.0.1.
        config: names the experiment that the link to MLflow opens.
        ready: told the addresses by name once everything answers.

    Raises:
        UserError: a port is taken, or prefect.yaml is not sound.
        PikavaeError: the services run already, or one of them did not start or ended by itself.
    """
    home = operations.home()
    if api := os.environ.get("PREFECT_API_URL"):
        raise UserError(f"PREFECT_API_URL {api}: `up` starts a server of its own; unset the variable")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts us in the background has it ignored
    with exclusive(home / "up.lock", busy="pikavae is up already for this state folder; Ctrl-C where it runs ends it"):
        set_up_prefect(home)
        end_orphans(home)
        servers: list[Server] = []
        try:
            ready(_start(home, mlflow_port, prefect_port, config, servers))
            while True:
                for server in servers:
                    server.require_alive()
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:
            logger.info("ending the services")
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C would leave some of them behind
            (home / SERVICES_NAME).unlink(missing_ok=True)
            _stop(servers)


def _start(home: Path, mlflow_port: int, prefect_port: int, config: Config, servers: list[Server]) -> dict[str, str]:
    """Start everything, each in `servers` as soon as it is there; returns the addresses to look at."""
    prefect = f"http://127.0.0.1:{prefect_port}"
    require_free_port(prefect_port, "--prefect-port")
    os.environ.pop(MLFLOW_UI, None)  # of a service that was here before
    elsewhere = ui_base(home)  # a server that MLFLOW_TRACKING_URI names
    mlflow = elsewhere or f"http://127.0.0.1:{mlflow_port}"
    if elsewhere is None:
        require_free_port(mlflow_port, "--mlflow-port")
    page = operations.mlflow_page(mlflow, config)  # makes a local database, before there is a server to do it
    if elsewhere is None:
        servers.append(operations.start_mlflow(mlflow_port, home / "logs" / "mlflow.log"))
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(prefect_port)]
    settings = {
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
        "PREFECT_SERVER_UI_API_URL": "/api",  # the page's own port; it would ask port 4200
    }
    servers.append(Server.start("Prefect's server", command, settings, home / "logs" / "prefect.log"))
    os.environ["PREFECT_API_URL"] = f"{prefect}/api"
    os.environ[MLFLOW_UI] = mlflow
    from flows import deployments  # only now: it imports Prefect, which reads the environment once

    servers[-1].wait_until_healthy(f"{prefect}/api/health")
    if deployments.deploy(deployments.deployments_file(), Path(os.environ["PREFECT_HOME"]) / "deployed.json"):
        logger.info("deployments brought to the server")
    for name in deployments.crash_lost_runs():
        logger.info("flow run %s was cut off; it is marked as crashed, and a retry goes on where it was", name)
    worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", deployments.POOL, "--name", "pikavae up"]
    servers.append(
        Server.start("the worker", worker, {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}, home / "logs/worker.log")
    )
    _wait_for_worker(servers[-1], deployments.has_worker)
    if elsewhere is None:
        servers[0].wait_until_healthy(f"{mlflow}/health")
    Services(os.environ[OWNER], prefect, mlflow).save(home)
    return {"mlflow": page, "prefect": f"{prefect}/dashboard", "deployments": f"{prefect}/deployments"}


def _wait_for_worker(worker: Server, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        worker.require_alive()
        if time.monotonic() > deadline:
            raise PikavaeError(f"the worker did not report within {START_SECONDS:.0f} s; see {worker.log}")
        time.sleep(0.2)


def _stop(servers: list[Server]) -> None:
    """End flow runs first, while the worker and the servers can still be told what became of them."""
    if servers and servers[-1].name == "the worker":
        end_processes(family(servers[-1].process.pid)[1:])
    for server in reversed(servers):
        server.stop()
