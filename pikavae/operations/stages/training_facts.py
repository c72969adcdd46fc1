"""Look up how a snapshot was trained, from the records that this home has kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pikavae.data.prepare import find_prepared
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import PikavaeError
from pikavae.evaluation.report.model_card import Training
from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.operations.stages import keys
from pikavae.operations.stages.accounting import usage_of
from pikavae.tracker.client import Workspace
from pikavae.tracker.queries import FoundRun, get_run
from pikavae.workspace import runs
from pikavae.workspace.files import sha256_of
from pikavae.workspace.run_record import ImportResult, TrainingResult
from pikavae.workspace.runs import RunFolder
from pikavae.workspace.usage import Usage


def training_of(workspace: Workspace, snapshot: Path) -> Training | None:
    """Return what a finished training did up to a snapshot; None if this home does not know the training."""
    found = _run_and_step(workspace, snapshot)
    if found is None:
        return None
    run, step = found
    result = run.result
    if not isinstance(result, TrainingResult) or not result.steps:
        return None
    picture_set = training_pictures_of(workspace, snapshot)
    labelled = _labels_of(workspace, run.run_id)
    return Training(
        step=step,
        steps=result.steps,
        images_seen=step * result.images_seen // result.steps,  # every batch is full
        num_images=None if picture_set is None else len(picture_set),
        started_with=run.record.inputs.get(keys.START),
        name=labelled.name if labelled else None,
        note=labelled.note if labelled else "",
        tags=labelled.own_tags if labelled else {},
        used=_used_by(workspace.home, run),
    )


def _used_by(home: Path, run: RunFolder) -> str:
    """Describe what a training used, with those that it extends; empty if that was not recorded for all of them."""
    total, found = Usage(), set[str]()
    while True:
        used = usage_of(home, run.run_id, "train")
        if not used.attempts or not run.has_record or run.run_id in found:
            return ""
        total, extends = total + used, run.record.extends
        if extends is None:
            return total.text()
        found.add(run.run_id)
        run = RunFolder(home / "runs" / Path(extends.run).name)


def training_pictures_of(workspace: Workspace, snapshot: Path) -> PictureSet | None:
    """Return the pictures that a snapshot was trained on; None if this home does not have them."""
    found = _run_and_step(workspace, snapshot)
    fingerprint = None if found is None else found[0].record.inputs.get("prepared set")
    prepared = None if fingerprint is None else find_prepared(fingerprint, workspace.home / "prepared")
    return None if prepared is None else prepared.train


def lineage_of(workspace: Workspace, snapshot: Path) -> dict[str, Any]:
    """Return what this home knows about the origin of a snapshot, for a person."""
    found = _run_and_step(workspace, snapshot)
    if found is None:
        return {}
    run, _ = found
    record, result = run.record, run.result
    if isinstance(result, ImportResult):
        return {"imported from": result.imported, "imported": record.created}
    labelled = _labels_of(workspace, run.run_id)
    told: dict[str, Any] = {
        "run": f"{labelled.name} ({run.run_id})" if labelled else run.run_id,
        "note": (labelled.note if labelled else "") or None,
        "tags": (labelled.own_tags if labelled else {}) or None,
        "begun": record.created,
        "source": record.config.get("data", {}).get("source"),
        "prepared set": record.inputs.get("prepared set"),
    }
    if training := training_of(workspace, snapshot):
        told |= {
            "training pictures": training.num_images,
            "step of these weights": training.step,
            "steps taken in all": training.steps,
            "pictures seen": training.images_seen,
            "used": training.used or None,
            "first weights": training.started_with or "new",
            keys.TEACHER: run.record.inputs.get(keys.TEACHER),
        }
    code = {name: value for name, value in record.inputs.items() if name.startswith("code of ")}
    return {name: value for name, value in {**told, **code}.items() if value is not None}


def _labels_of(workspace: Workspace, run_id: str) -> FoundRun | None:
    """Return a run with its name, note and tags as MLflow has them now; None if MLflow has no such run, or is away."""
    try:
        return get_run(workspace.client, run_id)
    except PikavaeError:
        return None


def _run_and_step(workspace: Workspace, snapshot: Path) -> tuple[RunFolder, int] | None:
    """Find the run and the step of a snapshot: by its location, by the record beside it, or by its weights."""
    snapshot = snapshot.resolve()
    if snapshot.parent.name == "snapshots" and snapshot.parents[2] == (workspace.home / "runs").resolve():
        return RunFolder(snapshot.parents[1]), runs.step_of(snapshot)
    told = _package_of(snapshot)
    name, step = str(told.get("run_id") or ""), told.get("step")
    run = RunFolder(workspace.home / "runs" / name)
    if name and Path(name).name == name and isinstance(step, int) and (run.path / runs.RUN_NAME).is_file():
        return run, step
    weights = sha256_of(snapshot / WEIGHTS_NAME)
    for run in runs.run_folders(workspace.home):
        result = run.result
        if result is not None and result.snapshot_sha256.get(WEIGHTS_NAME) == weights:
            return run, runs.step_of(Path(result.snapshot))
    return None


def _package_of(snapshot: Path) -> dict[str, Any]:
    """Return the metadata of the registered version around a snapshot; empty if there is no version."""
    try:
        told = yaml.safe_load((snapshot.parents[1] / "MLmodel").read_text(encoding="utf-8"))["metadata"]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
