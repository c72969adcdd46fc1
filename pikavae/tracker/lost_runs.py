"""Close the MLflow runs of killed processes, because a process that is killed cannot report its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pikavae.process.marks import ended_here
from pikavae.tracker.mlflow_files import all_pages
from pikavae.tracker.tags import ERROR_TAG, OWNER_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run


def close_lost_runs(client: MlflowClient) -> list[str]:
    """Close each run that is running by its status and whose process on this machine has ended; return their names.

    A run says in a tag why it was closed. It can be resumed like any other. Runs of other machines, and runs of earlier
    versions, which did not note their process, do not change.
    """
    experiments: list[Experiment] = all_pages(lambda token: client.search_experiments(page_token=token))
    ids = [experiment.experiment_id for experiment in experiments]
    found: list[Run] = all_pages(
        lambda token: client.search_runs(ids, "attributes.status = 'RUNNING'", page_token=token)
    )
    closed = []
    for run in found:
        owner = run.data.tags.get(OWNER_TAG, "")
        if ended_here(owner):
            host, _, process = owner.partition(" ")
            reason = f"Process {process.partition(':')[0]} on {host}, which wrote it, ended without a report."
            client.set_tag(run.info.run_id, ERROR_TAG, reason)
            client.set_terminated(run.info.run_id, "KILLED")
            closed.append(f"{run.info.run_name} ({run.info.run_id[:8]})")
    return closed
