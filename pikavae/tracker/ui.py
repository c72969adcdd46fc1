"""Finds MLflow's UI: its address, the pages of experiments and runs, and the command that serves a home."""

from __future__ import annotations

import os
import sys

from pikavae.errors import UserError
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import LEADERBOARD

MLFLOW_UI = "PIKAVAE_MLFLOW_UI"
"""The environment variable with the address of MLflow's UI, used if the store is not a server."""


def ui_base(workspace: Workspace) -> str | None:
    """Return the address of MLflow's UI: the store if it is a server, else what MLFLOW_UI names, if anything."""
    return workspace.server or os.environ.get(MLFLOW_UI)


def leaderboard_url(base: str, experiment_id: str) -> str:
    """Return the address of the table of an experiment's runs, in the prepared view."""
    view = f"workflowType=machine_learning&viewStateShareKey={LEADERBOARD}&compareRunsMode=TABLE"
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{view}"


def ui_url(base: str, experiment_id: str, run_id: str, part: str = "") -> str:
    """Return the address of a run's page, or of a part of it such as `artifacts/config.yaml`.

    The query in the address opens it in the mode that shows runs, models and the registry.
    """
    page = f"experiments/{experiment_id}/runs/{run_id}/{part}".rstrip("/")
    return f"{base.rstrip('/')}/#/{page}?workflowType=machine_learning"


def ui_argv(workspace: Workspace, port: int) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves the workspace's store on 127.0.0.1, and the environment variables to add.

    Use `workspace.client` first: the server must not make the database while others look for it.

    Raises:
        UserError: the store is a server already.
    """
    uri = workspace.tracking_uri
    if workspace.server is not None:
        raise UserError(f"MLFLOW_TRACKING_URI {uri}: already a server; open that address in a browser")
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--workers",
        "1",
        "--backend-store-uri",
        uri,
        "--artifacts-destination",
        (workspace.home / "artifacts").as_uri(),
    ]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start sixteen processes and use 4 GB
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    return command, environment
