"""Where Prefect keeps its state and how it behaves, decided before it is imported."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

OWNER = "PIKAVAE_OWNER_PID"
EMBEDDED_SERVER = "prefect.server.api.server:create_app"
GRACE_SECONDS = 5.0


def set_up_prefect(home: Path) -> None:
    """Fill the environment of this process and its children for Prefect; what the user has set stays.

    Prefect's state goes below `home` unless PREFECT_HOME or PREFECT_API_URL says otherwise. Call it before the first
    import of prefect.
    """
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")  # 20 are too few for a first start
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "pikavae")
    os.environ.setdefault(
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL"
    )  # the terminal shows pikavae's own lines
    os.environ[OWNER] = str(os.getpid())
    Path(os.environ["PREFECT_HOME"]).expanduser().mkdir(parents=True, exist_ok=True)


def end_orphaned_servers(home: Path) -> None:
    """End the embedded Prefect servers that killed runs of this home left behind.

    An embedded server inherits the environment of the run that started it, so its owner is known: when that process
    is gone, nobody will end the server.
    """
    prefect_home = os.environ.get("PREFECT_HOME", str(home / "prefect"))
    for process in psutil.process_iter(["cmdline"]):
        if EMBEDDED_SERVER not in (process.info["cmdline"] or []):
            continue
        try:
            environment = process.environ()
        except psutil.Error:
            continue  # it ended just now, or is somebody else's
        owner = environment.get(OWNER, "")
        if environment.get("PREFECT_HOME") == prefect_home and owner.isdecimal() and not psutil.pid_exists(int(owner)):
            logger.info("ending the embedded Prefect server %d of a run that was killed", process.pid)
            _end(process)


def _end(process: psutil.Process) -> None:
    try:
        process.terminate()
        process.wait(GRACE_SECONDS)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        return
