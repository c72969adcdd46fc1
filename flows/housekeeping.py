"""Keep the state folder in order: by the terminal, by `pikavae up` when it starts, and as a deployment."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.settings import PREFECT_HOME
from pydantic import Field

from flows.server.lost_runs import crash_runs_without_owner, crash_tasks_without_flow
from pikavae import operations
from pikavae.errors import PikavaeError
from pikavae.operations import Housekeeping

KEEP_BACKUPS = 7
DATABASE_NAME = "prefect.db"


@flow(name="housekeeping", flow_run_name="housekeeping", persist_result=False)
def housekeeping(keep_backups: Annotated[int, Field(ge=1)] = KEEP_BACKUPS) -> dict[str, Any]:
    """Close what was cut off, free disk space, verify production, back up the databases, delete old logs.

    Args:
        keep_backups: how many copies of each database stay.

    Raises:
        PikavaeError: a step failed, or found something that a person must look at; all others were done.
    """
    done = keep_house(operations.Workspace.open(), keep_backups=keep_backups, server=True)
    create_markdown_artifact("\n".join(f"- {line}" for line in done.lines()), key="housekeeping")
    require_order(done)
    return done.content()


def keep_house(workspace: operations.Workspace, *, keep_backups: int = KEEP_BACKUPS, server: bool) -> Housekeeping:
    """Do all of it, with Prefect's runs and database; see `operations.housekeeping`.

    Args:
        workspace: the state folder and its store.
        keep_backups: how many copies of each database stay.
        server: True if Prefect's server runs and can be asked.
    """
    return operations.housekeeping(
        workspace,
        keep_backups=keep_backups,
        databases=[PREFECT_HOME.value() / DATABASE_NAME],
        others=[("flow runs", _close_flow_runs if server else lambda: "left, since no Prefect server runs")],
    )


def _close_flow_runs() -> str:
    flows, tasks = crash_runs_without_owner(), crash_tasks_without_flow()
    if not flows and not tasks:
        return "none of Prefect was cut off"
    return f"closed {len(flows)} flow runs and {tasks} task runs whose process was killed"


def require_order(done: Housekeeping) -> None:
    """Raise a PikavaeError with the steps that were not in order, if there are any."""
    if not done.ok:
        raise PikavaeError(
            "housekeeping: " + "; ".join(f"{item.step}: {item.what}" for item in done.done if not item.ok)
        )
