"""Find the pictures that a model, its first weights and its teacher were trained on, as far as this home knows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pikavae.config import content_hash
from pikavae.data.drift.pictures import KnownPictures
from pikavae.data.prepare import find_prepared
from pikavae.data.prepared.dataset import PictureSet
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME
from pikavae.operations.stages import keys
from pikavae.production.judgements.gates import TrainingPictures
from pikavae.registry.versions import Version, run_of
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import all_versions
from pikavae.tracker.tags import FINGERPRINT_TAG, SNAPSHOT_TAG, read_version_tags
from pikavae.workspace import runs
from pikavae.workspace.runs import RunFolder


@dataclass
class _Trace:
    """Collects what is found on the way back to the first weights."""

    fingerprints: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def fingerprint_of(workspace: Workspace, version: Version) -> str | None:
    """Return the fingerprint of the prepared set that a version was trained on; None if it was not trained here."""
    run = _run(workspace, run_of(version))
    fingerprint: str | None = version.tags.get(FINGERPRINT_TAG)
    return fingerprint if run is None else run.record.inputs.get("prepared set")


def trace_training_pictures(
    workspace: Workspace, version: Version, who: str, evaluation: PictureSet
) -> TrainingPictures:
    """Return the evaluation pictures that a version, the weights it began with, or its teacher was trained on.

    Two pictures are the same if their decoded pixels are equal, at whichever size they were prepared, or if their
    stored pixels are equal.

    Args:
        workspace: the state folder and its store.
        version: a candidate, or a version of the production model.
        who: the version's name for a person.
        evaluation: the evaluation pictures.
    """
    trained, unknown = find_trained_on(workspace, version, evaluation)
    leaked = dict.fromkeys(evaluation.names[i] for i in np.flatnonzero(trained))
    return TrainingPictures(who, tuple(leaked), tuple(unknown))


def find_trained_on(workspace: Workspace, version: Version, pictures: PictureSet) -> tuple[np.ndarray, list[str]]:
    """Return True for each picture that a version, or the weights it began with, was trained on: (N,) bool.

    The second result is why some of its training pictures are not known, a line each.
    """
    trace, trained = _trace(workspace, version), np.zeros(len(pictures), bool)
    for fingerprint in trace.fingerprints:
        prepared = find_prepared(fingerprint, workspace.home / "prepared")
        if prepared is None:
            trace.unknown.append(f"prepared set {fingerprint} is not there any more")
        else:
            trained |= KnownPictures.of(prepared.train).has(pictures)
    return trained, trace.unknown


def _trace(workspace: Workspace, version: Version) -> _Trace:
    trace, waiting, seen = _Trace(), [run_of(version)], set[str]()
    while waiting:
        run_id = waiting.pop()
        if run_id in seen:
            continue
        seen.add(run_id)
        run = _run(workspace, run_id)
        if run is None:
            trace.unknown.append(f"the folder of run {run_id or '?'} is not there any more")
            if len(seen) == 1 and (fingerprint := version.tags.get(FINGERPRINT_TAG)):
                trace.fingerprints.append(fingerprint)
            continue
        inputs = run.record.inputs
        if "imported" in inputs:
            trace.unknown.append(f"run {run_id} imported the weights, so it is unknown what they were trained on")
            continue
        trace.fingerprints.append(str(inputs["prepared set"]))
        for name, setting, verb in ((keys.START, "start", "began with"), (keys.TEACHER, "teacher", "learned from")):
            if name not in inputs:
                continue
            maker = _maker_of(workspace, inputs[name], run.record.config["training"][setting] or "")
            if maker is None:
                trace.unknown.append(f"run {run_id} {verb} weights of which no run here is known")
            else:
                waiting.append(maker)
    return trace


def _maker_of(workspace: Workspace, digest: str, named: str) -> str | None:
    """Find the run that made these weights: by registered versions, by finished runs, or by the name in the settings.

    Args:
        workspace: the state folder and its store.
        digest: the digest of sizes and weights.
        named: how the settings of the run that used them name them.
    """
    for version in all_versions(workspace.client):
        if read_version_tags(version.tags).get(SNAPSHOT_TAG) == digest:
            return run_of(version)
    for other in runs.run_folders(workspace.home):
        hashes = other.result.snapshot_sha256 if other.result else {}
        if content_hash({name: hashes.get(name) for name in (CONFIG_NAME, WEIGHTS_NAME)}) == digest:
            return other.run_id
    start = named.removeprefix("run:").partition("@")[0] if named.startswith("run:") else ""
    found = [other.run_id for other in runs.run_folders(workspace.home) if start and other.run_id.startswith(start)]
    return found[0] if len(found) == 1 else None


def _run(workspace: Workspace, run_id: str) -> RunFolder | None:
    return next((run for run in runs.run_folders(workspace.home) if run.run_id == run_id), None)
