"""Start and end MLflow, Prefect's server and a worker together on this machine, for `pikavae up`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from flows.notifying import Watcher
from flows.server.environment import (
    OWNER,
    SERVICES_NAME,
    Services,
    end_orphans,
    import_prefect,
    set_up_prefect,
    use_credentials,
)
from pikavae import operations
from pikavae.config import Config
from pikavae.errors import BusyError, PikavaeError, UserError
from pikavae.process.access import Access
from pikavae.process.servers import START_SECONDS, Server, end_processes, family, require_free_port
from pikavae.process.stopping import ignore_stops
from pikavae.process.surroundings import spare_hosts
from pikavae.tracker.ui import MLFLOW_UI, ui_base
from pikavae.workspace.files import exclusive

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
SECONDS_BETWEEN_QUERIES = 2
"""How often the worker asks for runs; with Prefect's ten, one that is asked for waits five on average."""
LOOKS = 6
"""How often the servers are looked at before the runs are asked for once."""


def up(
    mlflow_port: int,
    prefect_port: int,
    access: Access,
    config: Config,
    ready: Callable[[Mapping[str, str]], None],
    tell: Callable[[str], None],
) -> None:
    """Start all services, show where they are, report each run, and end everything on Ctrl-C, SIGTERM or SIGHUP.

    Runs that were cut off when this command or the machine was killed are marked as crashed in Prefect; a retry resumes
    from the last checkpoint.

    Args:
        mlflow_port: MLflow's port; not used if MLFLOW_TRACKING_URI names a server.
        prefect_port: the port of Prefect's server.
        access: where both listen, and who may ask them.
        config: names the experiment that the link to MLflow opens.
        ready: called with the addresses by name once everything answers.
        tell: called with a line when a run begins or ends.

    Raises:
        UserError: a port is taken, prefect.yaml is not valid, or other machines would reach servers without a password.
        PikavaeError: the services run already, or one of them did not start or ended unexpectedly.
    """
    access.require_safe()
    workspace = operations.Workspace.open()
    home = workspace.home
    if api := os.environ.get("PREFECT_API_URL"):
        raise UserError(f"PREFECT_API_URL {api}: `up` starts a server of its own; unset the variable")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in processes in the background
    busy = "pikavae is up already for this state folder; Ctrl-C where it runs ends it"
    with exclusive(home / "up.lock", busy=busy), ExitStack() as held:
        set_up_prefect(home)
        end_orphans(home)
        servers: list[Server] = []
        watcher = Watcher(workspace)
        look: Callable[[], None] = _do_nothing
        try:
            ready(_start(workspace, mlflow_port, prefect_port, access, config, servers))
            watcher.start()
            look = _watch(held, tell)
            while True:
                for _ in range(LOOKS):
                    for server in servers:
                        server.require_alive()
                    time.sleep(LOOK_SECONDS)
                look()
        except KeyboardInterrupt:
            logger.info("ending the services")
        finally:
            with ignore_stops():  # a second signal, such as a service manager's, would leave some running
                (home / SERVICES_NAME).unlink(missing_ok=True)
                _stop(servers, look)
                watcher.stop()


def _do_nothing() -> None:
    """Report no run, before there is a server to ask."""


def _watch(held: ExitStack, tell: Callable[[str], None]) -> Callable[[], None]:
    """Return what reports the runs that began or ended since it was called last."""
    from prefect.client.orchestration import get_client

    from flows.server.run_lines import RunWatch

    return RunWatch(held.enter_context(get_client(sync_client=True)), tell).look


def _start(
    workspace: operations.Workspace,
    mlflow_port: int,
    prefect_port: int,
    access: Access,
    config: Config,
    servers: list[Server],
) -> dict[str, str]:
    """Start everything, append each server to `servers` once started, and return the addresses to open."""
    home, prefect = workspace.home, access.page(prefect_port)
    require_free_port(prefect_port, "--prefect-port", access.host)
    os.environ.pop(MLFLOW_UI, None)  # left by an earlier service
    elsewhere = ui_base(workspace)  # a server that MLFLOW_TRACKING_URI names
    mlflow = elsewhere or access.page(mlflow_port)
    if elsewhere is None:
        require_free_port(mlflow_port, "--mlflow-port", access.host)
    page = operations.mlflow_page(workspace, mlflow, config)  # makes a local database before a server would
    if elsewhere is None:
        servers.append(operations.start_mlflow(workspace, mlflow_port, home / "logs" / "mlflow.log", access))
    servers.append(_start_prefect(home, prefect_port, access))
    local = access.local(prefect_port)
    spare_hosts(os.environ, access.local_host)
    os.environ["PREFECT_API_URL"] = f"{local}/api"
    os.environ["PREFECT_UI_URL"] = prefect
    os.environ[MLFLOW_UI] = mlflow
    use_credentials(access.credentials)
    import_prefect()  # only now: it reads the environment once
    from flows.housekeeping import keep_house
    from flows.scheduling import deployments

    servers[-1].wait_until_healthy(f"{local}/api/health")
    if deployments.deploy(deployments.deployments_file(), Path(os.environ["PREFECT_HOME"]) / "deployed.json"):
        logger.info("sent the deployments to the server")
    for name in deployments.crash_lost_runs():
        logger.info("flow run %s was cut off and is marked as crashed; a retry resumes it", name)
    try:
        for line in keep_house(workspace, server=True).lines():
            logger.info("housekeeping: %s", line)
    except BusyError as error:
        logger.info("%s", error)
    servers.append(_start_worker(home, deployments.POOL))
    _wait_for_worker(servers[-1], deployments.has_worker)
    if elsewhere is None:
        servers[0].wait_until_healthy(f"{access.local(mlflow_port)}/health")
    file = None if access.credentials is None else str(access.credentials.file)
    Services(owner=os.environ[OWNER], mlflow=mlflow, prefect=prefect, api=f"{local}/api", auth_file=file).save(home)
    return {"mlflow": page, "prefect": f"{prefect}/dashboard", "deployments": f"{prefect}/deployments"}


def _start_prefect(home: Path, port: int, access: Access) -> Server:
    command = [sys.executable, "-P", "-m", "prefect", "server", "start", "--host", access.host, "--port", str(port)]
    settings = {
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
        "PREFECT_SERVER_UI_API_URL": "/api",  # the page's own port instead of 4200
    }
    if access.credentials is not None:
        settings["PREFECT_SERVER_API_AUTH_STRING"] = access.credentials.text
    return Server.start("Prefect's server", command, settings, home, home / "logs" / "prefect.log")


def _start_worker(home: Path, pool: str) -> Server:
    command = [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", pool, "--name", "pikavae up"]
    settings = {
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_WORKER_QUERY_SECONDS": str(SECONDS_BETWEEN_QUERIES),
    }
    return Server.start("the worker", command, settings, home, home / "logs" / "worker.log")


def _wait_for_worker(worker: Server, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not is_there():
        worker.require_alive()
        if time.monotonic() > deadline:
            raise PikavaeError(f"the worker did not report within {START_SECONDS:.0f} s; see {worker.log}")
        time.sleep(0.2)


def _stop(servers: list[Server], look: Callable[[], None]) -> None:
    """End flow runs first, while they can still report their end to the worker and the servers."""
    if servers and servers[-1].name == "the worker":
        end_processes(family(servers[-1].process.pid)[1:])
        servers.pop().stop()
        look()
    for server in reversed(servers):
        server.stop()
