"""Close the MLflow runs of killed processes, because a process that is killed cannot report its end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import BusyError
from pikavae.process.marks import ended_here
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import all_pages
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import ERROR_TAG, OWNER_TAG
from pikavae.training.journal import JOURNAL_NAME, read_events
from pikavae.workspace.files import exclusive

if TYPE_CHECKING:
    from mlflow.entities import Experiment, Run

logger = logging.getLogger(__name__)

SECONDS_TO_SAVE = 60.0
"""How long a training whose parent was killed is given to finish its step and save."""


def close_lost_runs(workspace: Workspace) -> list[str]:
    """Close each run that is running by its status and whose process on this machine has ended; return their names.

    The points of its journal that MLflow lacks are delivered first. It is `FINISHED` if its model was registered, and
    otherwise `KILLED`, with the reason in a tag; it can be resumed like any other. Runs of other machines, and runs of
    earlier versions, which did not note their process, do not change.
    """
    client = workspace.client
    experiments: list[Experiment] = all_pages(lambda token: client.search_experiments(page_token=token))
    ids = [experiment.experiment_id for experiment in experiments]
    found: list[Run] = all_pages(
        lambda token: client.search_runs(ids, "attributes.status = 'RUNNING'", page_token=token)
    )
    closed = []
    for run in found:
        owner = run.data.tags.get(OWNER_TAG, "")
        if not ended_here(owner):
            continue
        run_id, folder = run.info.run_id, workspace.home / "runs" / run.info.run_id
        try:
            _deliver_points(workspace, folder, run_id)
        except BusyError as error:
            logger.warning("run %s stays open: %s; the next housekeeping closes it", run.info.run_name, error)
            continue
        if any(folder.glob("registrations/*.json")):
            client.set_terminated(run_id, "FINISHED")
        else:
            host, _, process = owner.partition(" ")
            reason = f"Process {process.partition(':')[0]} on {host}, which wrote it, ended without a report."
            client.set_tag(run_id, ERROR_TAG, reason)
            client.set_terminated(run_id, "KILLED")
        closed.append(f"{run.info.run_name} ({run_id[:8]})")
    return closed


def _deliver_points(workspace: Workspace, folder: Path, run_id: str) -> None:
    """Write the points of a run's journal that MLflow lacks.

    Raises:
        BusyError: its training is still at work.
    """
    if not (folder / JOURNAL_NAME).exists():
        return
    with exclusive(folder / "writer.lock", busy="its training still saves", patience=SECONDS_TO_SAVE):
        log = RunLog.resume(workspace.client, run_id)
        for event in read_events(folder / JOURNAL_NAME)[0]:
            if event.kind == "metrics":
                log.log(event.values, event.step, time_ms=event.time)
        log.flush()
