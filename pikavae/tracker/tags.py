"""Names the tags and aliases that pikavae writes in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any

CHAMPION = "champion"
"""The alias of the version in production."""
PREVIOUS = "previous"
"""The alias of the version that a rollback makes champion again."""
PACKAGE_NAME = "autoencoder"
"""The name and MLflow's type of the logged model that holds a version's files."""

# Series of pictures. MLflow's charts begin with the section that comes first in the alphabet.
RECONSTRUCTIONS = "pictures/reconstructions"
FILMSTRIP = "pictures/filmstrip"
EARLIER_RECONSTRUCTIONS = "reconstructions"
"""The series in runs of earlier versions."""

# Of experiments.
NOTE_TAG = "mlflow.note.content"
"""Markdown at the head of an experiment's or a run's page."""
LEADERBOARD = "leaderboard"
VIEW_TAG = f"mlflow.sharedViewState.{LEADERBOARD}"
"""The prepared view of an experiment. pikavae's experiments have it."""
HEAD_TAG = "pikavae.ledger.head"
"""The sequence and hash of the ledger's last event."""
KEEPER_TAG = "pikavae.ledger.keeper"
"""Host and home that wrote the ledger's head."""
FIRST_TAG = "pikavae.ledger.first"
"""The hash of the ledger's first event, which differs between ledgers."""

# Of runs.
HIDDEN = "mlflow.pikavae."
"""The beginning of tags that a run's page in MLflow hides, as MLflow's own, because it has room for few.

Earlier versions began these tags with `pikavae.`; nothing reads them."""
OWN_NOTE_TAG = f"{HIDDEN}note"
"""What a person wrote about a run, which stands first in its description."""
TRAIN_KEY_TAG = "pikavae.train_key"
RUN_KEY_TAG = "pikavae.run_key"
EVALUATE_KEY_TAG = f"{HIDDEN}evaluate_key"
EVALUATED_TAG = f"{HIDDEN}evaluate_keys"
"""The keys of all evaluations that a run has with their files and scores, separated by commas."""
IMPORT_KEY_TAG = "pikavae.import_key"
STARTING_WEIGHTS_TAG = "pikavae.starting_weights"
TEACHER_TAG = "pikavae.teacher"
EXTENDS_TAG = "pikavae.extends"
"""The finished run that a run extends and its step, `<run id>@<step>`."""
START_STEP_TAG = f"{HIDDEN}start_step"
BEST_STEP_TAG = f"{HIDDEN}best_step"
GAPS_TAG = "pikavae.journal.gaps"
"""The gaps of a run's journal, so that its curves are not taken for complete."""
ERROR_TAG = "pikavae.error"
OWNER_TAG = "pikavae.owner"
"""Machine and process that write a run, or wrote it last."""
VERSION_TAG = "pikavae.version"
REGISTERED_MODEL_TAG = f"{HIDDEN}registered_model"
FLOW_RUN_TAG = "pikavae.flow_run_id"
FLOW_RUN_NAME_TAG = f"{HIDDEN}flow_run_name"
FLOW_RUN_URL_TAG = f"{HIDDEN}flow_run_url"
ATTEMPTS_TAG = f"{HIDDEN}flow_run_ids"
LEDGER_TAG = "pikavae.ledger"
"""Marks the run that holds the ledger's copy."""
PROTECTED_TAG = "pikavae.protected"
"""Marks the runs whose files production needs."""
COPY_TAG = "pikavae.copy_of"
"""The production store's name of the bytes that a protected run holds."""

WATCHED_TAG = "pikavae.watch.version"
"""The candidate whose bytes were champion when a run watched it."""
WATCH_FELL_TAG = "pikavae.watch.fell"
"""`true` if a watch found the champion below its report, else `false`."""
PARENT_TAG = "mlflow.parentRunId"
"""MLflow's own: the run below which its UI shows a run."""
SWEEP_TAG = "pikavae.sweep"
"""The name of a sweep, on its own run and on those of its trials."""
SWEEP_KEY_TAG = "pikavae.sweep_key"
"""The key of a sweep, on its own run alone."""
TRIAL_TAG = "pikavae.trial"
"""The number of a trial in its sweep."""
PRUNED_TAG = "pikavae.pruned"
"""Why a sweep stopped a training before its end. A training that resumes has it no more."""

# Of runs and versions.
FINGERPRINT_TAG = "pikavae.fingerprint"
COMMIT_TAG = "mlflow.source.git.commit"
DIRTY_TAG = "pikavae.git.dirty"
"""A hash of the changes since that commit; empty if there are none."""
IMPORT_TAG = "pikavae.imported.source"
"""Where an imported model came from, as the user named it."""
IMPORT_FORM_TAG = "pikavae.imported.form"
IMPORT_NOTES_TAG = "pikavae.imported.notes"
SNAPSHOT_TAG = "pikavae.snapshot"
"""The digest of a snapshot's sizes and weights."""

# Of versions.
REGISTER_KEY_TAG = "pikavae.register_key"
MANIFEST_TAG = "pikavae.manifest"
METRICS_TAG = "pikavae.metrics"
MODEL_ID_TAG = "pikavae.model_id"
RUN_TAG = "pikavae.run_id"
"""The run that made the model; a production version belongs to another run, which holds its files."""
CONFIG_HASH_TAG = "pikavae.config_hash"
REPORT_TAG = "pikavae.report"
REPORT_SHA256_TAG = "pikavae.report_sha256"
"""The SHA-256 of each file that holds the report's numbers, as JSON."""
EVALUATION_SET_TAG = "pikavae.evaluation_set"
STATUS_PREFIX = "pikavae.promotion."
"""The first part of the names of the tags that show a candidate's status; see `statuses`."""
CANDIDATE_TAG = "pikavae.candidate"
"""The candidate that became a production version, and in the next the registered model of the candidate."""
CANDIDATE_MODEL_TAG = "pikavae.candidate_model"
STORE_TAG = "pikavae.store"

DETAILS_TAG = f"{HIDDEN}details"
"""The tag of a version that only programs read: a JSON object of the tags in `IN_DETAILS`, by name.

MLflow's list of versions has a line for each tag, and hides none."""
IN_DETAILS = frozenset(
    {
        CONFIG_HASH_TAG,
        DIRTY_TAG,
        MANIFEST_TAG,
        METRICS_TAG,
        MODEL_ID_TAG,
        REGISTER_KEY_TAG,
        REPORT_SHA256_TAG,
        RUN_TAG,
        SNAPSHOT_TAG,
        STORE_TAG,
    }
)
"""The tags that `DETAILS_TAG` holds.

Earlier versions of pikavae wrote each as a tag of its own, under this name or under one that begins with `HIDDEN`."""


def pack_version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return a version's tags as MLflow gets them; the details are the last."""
    shown = {name: value for name, value in tags.items() if name not in IN_DETAILS}
    details = {name: value for name, value in tags.items() if name in IN_DETAILS}
    return {**shown, DETAILS_TAG: json.dumps(details, sort_keys=True)} if details else shown


def read_version_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Return a version's tags, as MLflow has them, by the names that the code uses."""
    earlier = {name: f"{HIDDEN}{name.removeprefix('pikavae.')}" for name in IN_DETAILS}
    return {
        **{name: value for name, value in tags.items() if not name.startswith(HIDDEN)},
        **{name: tags[written] for name, written in earlier.items() if written in tags},
        **_read_details(tags.get(DETAILS_TAG, "{}")),
    }


def _read_details(text: str) -> dict[str, str]:
    """Return the tags in `DETAILS_TAG`; none where a person put anything else there."""
    try:
        details = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(details, dict):
        return {}
    return {name: value for name, value in details.items() if name in IN_DETAILS and isinstance(value, str)}


def as_tag(values: Mapping[str, Any]) -> str:
    """Return hashes or scores as the text of a tag."""
    return json.dumps(dict(values), sort_keys=True)


def from_tag(text: str, kind: type | UnionType) -> dict[str, Any]:
    """Return the JSON object of a tag; an empty one if the tag holds anything else or values of another type."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(values, dict) or not all(isinstance(value, kind) for value in values.values()):
        return {}
    return values


def move_tag(action: str, part: str) -> str:
    """Return the tag of a production version for the `reason` or `actor` of its last promotion or rollback."""
    return f"pikavae.{action}.{part}"
