"""Says who acts, as the ledger records it: an account of MLflow's server, or the user of the machine.

`mlflow:NAME` is an account whose password MLflow's server has just checked. `user@host` is the owner of the process, as
the operating system knows it. `prefect:` before either marks work that somebody asked for in Prefect, which does not
say who: the rest is the worker's identity.
"""

from __future__ import annotations

import os
import pwd
import socket
from typing import Literal

from pikavae.tracker.client import Workspace

ACCOUNT = "mlflow:"
UNNAMED = "prefect:"
CURRENT_USER = "/api/2.0/mlflow/users/current"


def identity_of(workspace: Workspace) -> str:
    """Return who acts: the account that MLflow's server knows the caller by, or else user@host."""
    name = None if workspace.server is None else _account(workspace.server)
    return user_at_host() if name is None else f"{ACCOUNT}{name}"


def through_prefect(workspace: Workspace) -> str:
    """Return who acts if somebody asked for it in Prefect's pages, which do not say who."""
    return f"{UNNAMED}{identity_of(workspace)}"


def is_known(identity: str) -> bool:
    """Return True if an identity belongs to the person who acts, not to a worker that acts for somebody."""
    return not identity.startswith(UNNAMED)


def kind_of(identity: str) -> Literal["account of MLflow", "user of a machine"]:
    """Return what vouches for an identity. Identities of two kinds may be one person's."""
    return "account of MLflow" if identity.startswith(ACCOUNT) else "user of a machine"


def user_at_host() -> str:
    """Return user@host by the process's user id. USER and LOGNAME do not count, since anybody sets them."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _account(server: str) -> str | None:
    """Return the name of the caller's account; None if the server has no accounts or does not say."""
    from mlflow.tracking._tracking_service.utils import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    answer = http_request(get_default_host_creds(server), CURRENT_USER, "GET", max_retries=0, timeout=10)
    if answer.status_code != 200:
        return None
    try:
        name = answer.json()["user"]["username"]
    except (ValueError, KeyError, TypeError):
        return None
    return name if isinstance(name, str) and name else None
