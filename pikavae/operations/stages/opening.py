"""Open the MLflow run and the run folder of a training: those of an unfinished one, or new ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pikavae.config import Config
from pikavae.operations.stages import keys
from pikavae.operations.stages.extending import Extension, begin_with, find_extension
from pikavae.operations.stages.naming import differences, label_earlier
from pikavae.operations.stages.results import Prepared, find_unfinished
from pikavae.operations.stages.runtime import record_of
from pikavae.tracker.client import Workspace
from pikavae.tracker.labels import Labels
from pikavae.tracker.queries import query_runs
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import (
    EXTENDS_TAG,
    FINGERPRINT_TAG,
    OWN_NOTE_TAG,
    RUN_KEY_TAG,
    STARTING_WEIGHTS_TAG,
    TEACHER_TAG,
    TRAIN_KEY_TAG,
)
from pikavae.workspace import runs
from pikavae.workspace.records import Inputs
from pikavae.workspace.runs import RunFolder

logger = logging.getLogger(__name__)

SHOWN = ("data.source", "data.image_size")
"""Settings that are parameters of every run; of the others, those are that differ from the preset."""


def open_run(
    workspace: Workspace, config: Config, prepared: Prepared, inputs: Inputs, labels: Labels, name: str, *, fresh: bool
) -> tuple[RunFolder, RunLog]:
    """Return the unfinished run of this key, or a new one, with its log. The labels are on it then."""
    client, key, prepared_set = workspace.client, keys.key_of(inputs), prepared.prepared_set
    begun = None if fresh else find_unfinished(workspace, key)
    if begun is not None:
        logger.info("going on with run %s", begun.run_id)
        log = RunLog.resume(client, begun.run_id)
        label_earlier(workspace, config, begun.run_id, labels)
        return begun, log
    extension = None if fresh else find_extension(workspace, config, inputs, len(prepared_set.train))
    extends = extension if isinstance(extension, Extension) else None
    if extension is not None:
        logger.info("%s", extends.reason if extends else extension)
    experiment = workspace.experiment_id(config.tracking.experiment)
    tags = {
        TRAIN_KEY_TAG: key,
        RUN_KEY_TAG: keys.run_key(config, inputs),
        FINGERPRINT_TAG: prepared_set.fingerprint,
        **({STARTING_WEIGHTS_TAG: inputs[keys.START]} if keys.START in inputs else {}),
        **({TEACHER_TAG: inputs[keys.TEACHER]} if keys.TEACHER in inputs else {}),
        **({EXTENDS_TAG: extends.tag} if extends else {}),
    }
    told = {
        **labels.tags,
        **({OWN_NOTE_TAG: labels.note} if labels.note else {}),
    }
    orphan = (
        None if fresh else next((run for run in query_runs(client, experiment, tags) if run.status == "RUNNING"), None)
    )
    if orphan is not None:  # it was killed after creating the MLflow run and before creating its folder
        log = RunLog.resume(client, orphan.run_id)
        label_earlier(workspace, config, orphan.run_id, labels)
    else:
        log = RunLog.start(client, experiment, name, tags={**tags, **told}, params=_params(config, labels.preset))
    log.log_text(config.to_yaml(), "config.yaml")
    for side, context in ((prepared_set.train, "training"), (prepared_set.validation, "validation")):
        log.log_dataset(
            f"{config.data.source} {context}"[:500],
            side.digest[:36],
            context,
            num_rows=len(side),
            source=config.data.source,
        )
    log.log_text(json.dumps(dict(prepared_set.record.counts), indent=2), "data/counts.json")
    record = record_of(config, inputs, datetime.now(UTC), extends.tag if extends else None)
    if extends:
        begin_with(workspace, extends, workspace.home / "runs" / log.run_id)
    return runs.create_run_folder(workspace.home, log.run_id, record), log


def _params(config: Config, preset: str | None) -> Mapping[str, Any]:
    """Return what the table of runs shows: the preset, the pictures, and the settings that differ from the preset."""
    name, changes = differences(config, preset)
    flat = config.flat()
    return {"preset": name, **{field: flat[field] for field in SHOWN}, **changes}
