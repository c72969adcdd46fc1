"""Finds MLflow's UI: its address, the pages of experiments and runs, and the command that serves a home."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from pikavae.errors import UserError
from pikavae.process.access import LOCAL, Access, Credentials
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import LEADERBOARD
from pikavae.workspace.files import write_atomically

AUTH_NAME = "mlflow-auth.ini"
USERS_NAME = "mlflow-users.db"
REMEMBERED_SECONDS = 3600
"""How long MLflow's server trusts a password that it has verified, instead of hashing it several times a request.

The only user's password is the same as long as the server runs."""

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


def ui_argv(workspace: Workspace, port: int, access: Access = LOCAL) -> tuple[list[str], dict[str, str]]:
    """Return the command that serves the workspace's store, and the environment variables to add.

    Use `workspace.client` first: the server must not make the database while others look for it.

    Args:
        workspace: the state folder and its store.
        port: the port.
        access: where it listens, and who may ask it. With credentials, the file of MLflow's users is made anew.

    Raises:
        UserError: the store is a server already.
    """
    uri = workspace.tracking_uri
    if workspace.server is not None:
        raise UserError(f"MLFLOW_TRACKING_URI {uri}: already a server; open that address in a browser")
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", access.host, "--port", str(port)]
    command += [
        "--workers",
        "1",
        "--backend-store-uri",
        uri,
        "--artifacts-destination",
        (workspace.home / "artifacts").as_uri(),
    ]
    if access.is_open:  # by default it answers to names of this machine and private addresses alone
        names = [f"{name}:{port}" for name in access.names()]
        command += ["--allowed-hosts", ",".join(names)]
        command += ["--cors-allowed-origins", ",".join(f"http://{name}" for name in names)]
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would start sixteen processes and use 4 GB
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    if access.credentials is not None:
        command += ["--app-name", "basic-auth"]
        environment |= _users(workspace.home, access.credentials)
    return command, environment


def _users(home: Path, credentials: Credentials) -> dict[str, str]:
    """Make MLflow know one user, and return the variables that say so.

    MLflow would keep a password that was changed, and a user that was renamed, so its file of users is made anew.
    """
    users = home / USERS_NAME
    for path in home.glob(f"{USERS_NAME}*"):
        path.unlink()
    settings = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": f"sqlite:///{users}",
        "auth_cache_ttl_seconds": str(REMEMBERED_SECONDS),
    }
    lines = [f"{name} = {value.replace('%', '%%')}" for name, value in settings.items()]
    write_atomically(home / AUTH_NAME, "\n".join(["[mlflow]", *lines, ""]))
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(home / AUTH_NAME),
        "MLFLOW_AUTH_ADMIN_USERNAME": credentials.user,
        "MLFLOW_AUTH_ADMIN_PASSWORD": credentials.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
    }
