"""MLflow's UI: its address, the pages of experiments and runs, and the server of a home."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pikavae.errors import UserError
from pikavae.tracking import tracking_uri
from pikavae.views import LEADERBOARD

MLFLOW_UI = "PIKAVAE_MLFLOW_UI"
"""The variable that names the address of MLflow's UI where the store itself is none."""


def ui_base(home: Path) -> str | None:
    """The address of MLflow's UI, where one is known: the store itself, or what MLFLOW_UI names."""
    uri = tracking_uri(home)
    return uri if uri.startswith(("http://", "https://")) else os.environ.get(MLFLOW_UI)


def leaderboard_url(base: str, experiment_id: str) -> str:
    """The table of an experiment's runs, in the prepared view."""
    view = f"workflowType=machine_learning&viewStateShareKey={LEADERBOARD}&compareRunsMode=TABLE"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{view}"


def ui_url(base: str, experiment_id: str, run_id: str, part: str = "") -> str:
    """The page of a run, or a part of it such as `artifacts/config.yaml`.

    What follows the question mark opens it in the mode that shows runs, models and the registry.
    """
    page = f"experiments/{experiment_id}/runs/{run_id}/{part}".rstrip("/")
    return f"{base.rstrip('/')}/#/{page}?workflowType=machine_learning"


def ui_argv(home: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves the store of `home` on 127.0.0.1, and what it needs in its environment beside ours.

    Call `connect` first: a server must not be the one that makes the database while others look for it.

    Raises:
        UserError: the store is a server already.
    """
    uri = tracking_uri(home)
    if uri.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI {uri}: already a server; open that address in a browser")
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", (home / "artifacts").as_uri()]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # with it, sixteen processes and 4 GB
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    return command, environment
