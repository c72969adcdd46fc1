"""A copy of production's ledger in MLflow, for those who see only that: an artifact of a protected run.

It is a copy and never read here. One that could not be written is made good by the next event, which copies the whole.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import UserError
from pikavae.registry.anchor import ledger_path
from pikavae.registry.production_model import PROTECTED_TAG, production_experiment

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

LEDGER_TAG = "pikavae.ledger"
RUN_NAME = "ledger"


def mirror(client: MlflowClient, home: Path) -> None:
    """Copy the ledger to MLflow; where that fails, say so and go on. The caller holds the lock of production.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        # Not by the client: it remembers where a run's files were, and a home may have been copied since.
        files = get_artifact_repository(_address(client, home), tracking_uri=client.tracking_uri)
        files.log_artifact(str(ledger_path(home)))
    except (MlflowException, UserError, OSError) as error:
        logger.warning("the ledger's copy in MLflow was not written: %s", " ".join(str(error).split()))


def _address(client: MlflowClient, home: Path) -> str:
    """Where the files of the run lie that holds the copy; it is made when it is not there."""
    experiment = production_experiment(client, home)
    for run in client.search_runs([experiment], f"tags.`{LEDGER_TAG}` = 'true'"):
        return str(run.info.artifact_uri)
    tags = {PROTECTED_TAG: "true", LEDGER_TAG: "true"}
    run = client.create_run(experiment, run_name=RUN_NAME, tags=tags)
    client.set_terminated(run.info.run_id)
    return str(run.info.artifact_uri)
