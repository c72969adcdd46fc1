"""Where Prefect keeps its state and how it behaves, decided before it is imported; and what killed runs left behind."""

from __future__ import annotations

import json
import logging
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from pikavae.errors import UserError
from pikavae.files import write_atomically
from pikavae.mlflow_ui import MLFLOW_UI
from pikavae.servers import end_processes

logger = logging.getLogger(__name__)

OWNER = "PIKAVAE_OWNER"
SERVICES_NAME = "up.json"
PROBE_SECONDS = 5.0
CLOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Services:
    """What `pikavae up` runs for a home, as it wrote it down when all of it answered."""

    owner: str
    prefect: str
    mlflow: str

    def save(self, home: Path) -> None:
        """Write it down."""
        write_atomically(home / SERVICES_NAME, json.dumps(asdict(self)) + "\n")


def running_services(home: Path) -> Services | None:
    """What `pikavae up` runs for this home at this moment."""
    try:
        services = Services(**json.loads((home / SERVICES_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return services if is_alive(services.owner) else None


def set_up_prefect(home: Path) -> None:
    """Fill the environment of this process and its children for Prefect; what the user has set stays.

    Prefect's state goes below `home` unless PREFECT_HOME or PREFECT_API_URL says otherwise. Where `pikavae up` runs,
    its server is used. Call it before the first import of prefect.

    Raises:
        UserError: PREFECT_API_URL names a server that does not answer.
    """
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")  # 20 are too few for a first start
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "pikavae")
    os.environ.setdefault(
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL"
    )  # the terminal shows pikavae's own lines
    os.environ[OWNER] = mark_of(psutil.Process())
    Path(os.environ["PREFECT_HOME"]).expanduser().mkdir(parents=True, exist_ok=True)
    if api := os.environ.get("PREFECT_API_URL"):
        _require_answer(api)
    elif services := running_services(home):
        os.environ["PREFECT_API_URL"] = f"{services.prefect}/api"
        os.environ.setdefault(MLFLOW_UI, services.mlflow)


def _require_answer(api: str) -> None:
    try:
        urllib.request.urlopen(f"{api.rstrip('/')}/health", timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()  # something answers; whether it is Prefect shows in the first call
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"PREFECT_API_URL {api}: no answer ({reason}); start that server, or unset the variable"
        ) from None


def end_orphans(home: Path) -> int:
    """End what killed commands of this home left running: servers, the worker and its flow runs.

    Each of them inherits the environment of the command that started it, so its owner is known: when that process is
    gone, nobody will end them. Call it after `set_up_prefect`.

    Returns:
        How many were ended.
    """
    prefect_home = os.environ.get("PREFECT_HOME", str(home / "prefect"))
    orphans = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # it ended just now, or is somebody else's
        owner = environment.get(OWNER, "")
        if owner and environment.get("PREFECT_HOME") == prefect_home and not is_alive(owner):
            orphans.append(process)
    if orphans:
        logger.info("ending %d processes that a killed command left behind", len(orphans))
        end_processes(orphans)
    return len(orphans)


def mark_of(process: psutil.Process) -> str:
    """A process by its id and the second of its start, since ids are given again."""
    return f"{process.pid}:{process.create_time():.0f}"


def is_alive(mark: str) -> bool:
    """Whether the process of this mark still runs."""
    pid, _, started = mark.partition(":")
    try:
        # The start is counted from that of the machine, which clock corrections move.
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < CLOCK_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False
