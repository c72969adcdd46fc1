"""Set up Prefect's state and settings before it is imported, and end processes that killed runs left."""

from __future__ import annotations

import logging
import os
import urllib.error
from contextlib import chdir
from pathlib import Path

import psutil

from pikavae.errors import DamagedFileError, UserError
from pikavae.process.access import Credentials, read_credentials
from pikavae.process.marks import is_alive, mark_of
from pikavae.process.servers import end_processes
from pikavae.process.surroundings import ask
from pikavae.tracker.ui import MLFLOW_UI
from pikavae.workspace.disks import require_place
from pikavae.workspace.files import make_folder, write_atomically
from pikavae.workspace.home import expand_user, require_database_name
from pikavae.workspace.records import Record

logger = logging.getLogger(__name__)

OWNER = "PIKAVAE_OWNER"
SERVICES_NAME = "up.json"
UI_NAME = "ui.json"
PROBE_SECONDS = 5.0
ROOM_FOR_PREFECT = 8_000_000


class Services(Record):
    """Holds the services of `pikavae up` or `pikavae ui` for a home, recorded when all of them answered."""

    owner: str
    """The mark of the process that runs them."""
    mlflow: str
    """The address of MLflow's pages."""
    prefect: str | None = None
    """The address of Prefect's pages; None with `pikavae ui`."""
    api: str | None = None
    """The address of Prefect's API for programs of this machine; None if `prefect` has it."""
    auth_file: str | None = None
    """The file of the servers' user and password; None if they ask for none."""

    def save(self, home: Path, name: str = SERVICES_NAME) -> None:
        """Write the record into the home."""
        write_atomically(home / name, self.to_json(indent=None))


def running_services(home: Path, name: str = SERVICES_NAME) -> Services | None:
    """Return the services that `pikavae up` runs for this home now, or `pikavae ui` with the name UI_NAME."""
    try:
        services = Services.read(home / name)
    except (FileNotFoundError, DamagedFileError):
        return None
    return services if is_alive(services.owner) else None


def set_up_prefect(home: Path) -> None:
    """Fill the environment of this process and its children for Prefect.

    Users may set PREFECT_HOME and PREFECT_API_URL. By default state goes below `home`, and the server of `pikavae up`
    is used if it runs. All other variables of Prefect may come from another server or flow run; they are removed unless
    PREFECT_API_URL names a server, which may need them. Call it before the first import of prefect.

    Raises:
        UserError: PREFECT_API_URL names a server that does not answer, or the password of `up` cannot be read.
        PikavaeError: the folder of Prefect's state cannot be written or has no room, which the server would not report.
    """
    api = os.environ.get("PREFECT_API_URL")
    for name in [name for name in os.environ if _is_left_over(name, elsewhere=bool(api))]:
        del os.environ[name]
    named = os.environ.get("PREFECT_HOME")
    os.environ["PREFECT_HOME"] = str(expand_user(named, "PREFECT_HOME").absolute() if named else home / "prefect")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    # A program that calls a flow without a server gets Prefect's own; its limit of 20 s is too short for a first start.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "pikavae")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")  # commands log outside of flows too
    # The terminal shows pikavae's own lines.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ[OWNER] = mark_of(psutil.Process())
    require_database_name(Path(os.environ["PREFECT_HOME"]), "PREFECT_HOME")
    state = Path(os.environ["PREFECT_HOME"])
    make_folder(state)
    os.environ.pop(MLFLOW_UI, None)  # left by an earlier service
    if api:
        _require_answer(api)
    elif services := running_services(home):
        os.environ["PREFECT_API_URL"] = services.api or f"{services.prefect}/api"
        os.environ["PREFECT_UI_URL"] = str(services.prefect)
        os.environ[MLFLOW_UI] = services.mlflow
        if services.auth_file is not None:
            use_credentials(read_credentials(services.auth_file))
    else:
        require_place(state, what="Prefect's database", room=ROOM_FOR_PREFECT)


def use_credentials(credentials: Credentials | None) -> None:
    """Make Prefect's clients, here and in child processes, give the user and the password of its server."""
    if credentials is not None:
        os.environ["PREFECT_API_AUTH_STRING"] = credentials.text


def import_prefect() -> None:
    """Import Prefect from a folder without a `.env`, `prefect.toml` or `pyproject.toml`, which it would read."""
    with chdir(os.environ["PREFECT_HOME"]):
        import prefect  # noqa: F401


def _is_left_over(name: str, *, elsewhere: bool) -> bool:
    """Return True if a variable of Prefect must be removed; `elsewhere` is True if PREFECT_API_URL names a server."""
    if name.startswith("PREFECT__"):
        return True  # meant for the process of one flow run
    if name == "PREFECT_PROFILE":
        return not os.environ.get("PREFECT_HOME")  # profiles are kept in it
    return name.startswith("PREFECT_") and not elsewhere and name != "PREFECT_HOME"


def _require_answer(api: str) -> None:
    try:
        ask(f"{api.rstrip('/')}/health", PROBE_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()  # something answers; the first call shows if it is Prefect
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"PREFECT_API_URL {api}: no answer ({reason}); start that server, or unset the variable"
        ) from None


def end_orphans(home: Path) -> int:
    """End the processes that killed commands of this home left: servers, the worker and its flow runs.

    Each inherits the environment of the command that started it, and with it the mark of its owner. If the owner has
    ended, no other process ends them. Call it after `set_up_prefect`.

    Returns:
        The number of ended processes.
    """
    prefect_home = os.environ.get("PREFECT_HOME", str(home / "prefect"))
    orphans = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # it has just ended, or belongs to another user
        owner = environment.get(OWNER, "")
        if owner and environment.get("PREFECT_HOME") == prefect_home and not is_alive(owner):
            orphans.append(process)
    if orphans:
        logger.info("ending %d processes that a killed command left behind", len(orphans))
        end_processes(orphans)
    return len(orphans)
