"""Free disk space: what of the runs is kept, and what goes.

Of each run stay the best snapshot, the last few, and every one that something refers to: a registered version of any
model, a line of production's ledger, a training that began with it, a set of latents. A report does not: its numbers
need no model. The copy of a snapshot among MLflow's logged models stays and goes with it. To resume from, the last
state of a finished run stays, so that it can be prolonged, and the last two of an unfinished one. A run that somebody
works on is not touched, nor are reports, prepared sets and imported models.

A kill at any moment leaves only things that the next prune removes: files are renamed before they are deleted, and a
logged model is written down in `runs/<run id>/pruning.json` before its record goes, for its bytes go after it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pikavae import runs
from pikavae.errors import BusyError, DamagedFileError, UserError
from pikavae.files import exclusive, remove_path, write_atomically
from pikavae.home import home
from pikavae.operations.references import Reference, references_in_home, references_in_registry, referred_steps
from pikavae.operations.results import is_whole
from pikavae.registry.store import delete_files, delete_model, size_of, size_of_files
from pikavae.runs import RunFolder, step_of
from pikavae.tracked import CHECKPOINT_TYPE, RunModel, get_run, model_exists, models_of_run
from pikavae.tracking import connect
from pikavae.training.loop import best_step
from pikavae.training.state import read_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

LIST_NAME = "pruning.json"
REGISTERING = timedelta(hours=1)
"""How young a version's files may be without a version: it may be about to be made."""
RESUMABLE = {"finished": 1, "unfinished": 2}
"""States to resume from that stay: whole ones, the newest."""


@dataclass(frozen=True)
class Removed:
    """Something that went, or would go.

    Attributes:
        what: a `checkpoint` is a state to resume from, a `logged model` a snapshot's copy in MLflow or the files of a
            version that is gone, a `leftover` what a killed process had begun to write.
        run_id: the run that it is of; None for one of no run.
        step: the optimizer step; None for a leftover.
        bytes: what it takes.
        reason: why it may go.
        where: its path, or the address of a logged model's files.
        model_id: of a logged model.
    """

    what: Literal["checkpoint", "snapshot", "logged model", "leftover"]
    run_id: str | None
    step: int | None
    bytes: int
    reason: str
    where: str
    model_id: str | None = None


def prune(*, keep: int | None = None, dry_run: bool = False) -> list[Removed]:
    """Remove from all runs of this home what is neither the best, nor among the last, nor referred to.

    What stays is told to the log, a line each with its reason.

    Args:
        keep: how many of the last snapshots of each run stay; by default the run's `training.keep_checkpoints`.
        dry_run: change nothing.

    Returns:
        What went, or with `dry_run` what would go.

    Raises:
        UserError: `keep` is less than one.
        DamagedFileError: production's ledger, which tells what is in use, is not whole; nothing was removed.
    """
    if keep is not None and keep < 1:
        raise UserError(f"--keep {keep}: at least the last snapshot of each run stays; give 1 or more")
    removed: list[Removed] = []
    if found := list(runs.run_folders(home())):
        client = connect(home())
        home_references = references_in_home()
        references = [*home_references, *references_in_registry(client)]
        for run in found:
            with ExitStack() as held:
                if reason := _untouchable(client, run, held, dry_run=dry_run):
                    logger.info("kept run %s: %s", run.run_id, reason)
                    continue
                kept, gone = _judge(client, run, keep, references)
                if not dry_run:
                    if gone:  # a version may have been registered since
                        kept, gone = _judge(client, run, keep, [*home_references, *references_in_registry(client)])
                    _remove(client, run, gone)
                for line in kept:
                    logger.info("kept %s", line)
                removed += gone
    return [*removed, *_prune_leftovers(dry_run=dry_run)]


def _untouchable(client: MlflowClient, run: RunFolder, held: ExitStack, *, dry_run: bool) -> str | None:
    """Why a run cannot be judged now, if so; else its locks are held."""
    if not _hold(held, [home() / "runs" / f"{run.record['key']}.lock", *run.path.glob("*.lock")], dry_run=dry_run):
        return "its lock is held: somebody trains in it"
    tracked = get_run(client, run.run_id)
    if tracked is None:
        return "its MLflow run is deleted or in another store, so that nothing tells who refers to it"
    if tracked.tags.get("pikavae.train_key") != run.record["key"]:
        return "its MLflow run is another's"
    if run.result is not None and tracked.status == "RUNNING":
        return "it is being evaluated or registered, or was killed at that; the same command ends it"
    return None


def _judge(
    client: MlflowClient, run: RunFolder, keep: int | None, references: Sequence[Reference]
) -> tuple[list[str], list[Removed]]:
    """What of a run stays, a line each with its reasons, and what goes."""
    models = models_of_run(client, run.run_id)
    snapshots = {step_of(path): path for path in sorted((run.path / "snapshots").glob("step-*"))}
    reasons = kept_steps(run, snapshots, models, references, keep)
    lines = [
        f"snapshot, run {run.run_id} step {step}, {size_of(snapshots[step]) / 1e6:.1f} MB: {'; '.join(why)}"
        for step, why in reasons.items()
    ]
    return lines, [
        *_interrupted(client, run),
        *_superfluous_models(client, run, models, reasons, references),
        *_superfluous_snapshots(run, snapshots, reasons),
        *_superfluous_states(run),
        *_leftovers([run.path, *(path for path in run.path.iterdir() if path.is_dir())], run.run_id),
    ]


def _hold(held: ExitStack, locks: Iterable[Path], *, dry_run: bool) -> bool:
    """Take locks; False when another holds one. One that has no file is held by nobody: a dry run leaves it so."""
    try:
        for lock in locks:
            if lock.exists() or not dry_run:
                held.enter_context(exclusive(lock, busy="held"))
    except BusyError:
        return False
    return True


def kept_steps(
    run: RunFolder,
    snapshots: Mapping[int, Path],
    models: Collection[RunModel],
    references: Iterable[Reference],
    keep: int | None,
) -> dict[int, list[str]]:
    """The steps whose snapshots stay, each with its reasons."""
    reasons: dict[int, list[str]] = {}

    def stays(steps: Iterable[int], why: str) -> None:
        for step in steps:
            reasons.setdefault(step, []).append(why)

    last = keep or int(run.record["config"]["training"]["keep_checkpoints"])
    stays(sorted(snapshots)[-last:], f"among the last {last}")
    best = _best(run)
    if best is None:
        stays(snapshots, "no checkpoint tells which is the best")
    else:
        stays([best], "the best")
    if run.result is not None:
        stays([step_of(Path(run.result["snapshot"]))], "the run's result")
    for step, who in referred_steps(run.run_id, snapshots, models, references, unread=set(reasons)):
        stays([step], who)
    return {step: why for step, why in sorted(reasons.items()) if step in snapshots}


def _best(run: RunFolder) -> int | None:
    if run.result is not None:
        return int(run.result["best_step"])
    for folder in _newest_first(run):
        try:
            scores = read_state(folder)["scores"]
        except DamagedFileError:
            continue
        return best_step({int(step): float(score) for step, score in scores.items()})
    return None


def _newest_first(run: RunFolder) -> list[Path]:
    return sorted((run.path / "checkpoints").glob("step-*"), reverse=True)


def _superfluous_models(
    client: MlflowClient,
    run: RunFolder,
    models: Iterable[RunModel],
    kept: Mapping[int, list[str]],
    references: Sequence[Reference],
) -> Iterator[Removed]:
    for model in models:
        is_package = model.kind != CHECKPOINT_TYPE
        if any(reference.holds(model) for reference in references) or (
            is_package and datetime.now(UTC) - model.created < REGISTERING
        ):
            continue
        if not model.is_ready:
            why = "its writing was cut short"
        elif is_package:
            why = "the version that was made of it is deleted"
        elif model.step not in kept:
            why = "its snapshot is gone or goes"
        else:
            continue
        size = size_of_files(client, model.location)
        yield Removed("logged model", run.run_id, model.step, size, why, model.location, model.model_id)


def _superfluous_snapshots(
    run: RunFolder, snapshots: Mapping[int, Path], kept: Mapping[int, list[str]]
) -> Iterator[Removed]:
    for step, path in snapshots.items():
        if step not in kept:
            why = "neither the best, nor among the last, nor referred to"
            yield Removed("snapshot", run.run_id, step, size_of(path), why, str(path))


def _superfluous_states(run: RunFolder) -> Iterator[Removed]:
    """Those older than the newest whole ones. A damaged one does not count, for resuming passes it over."""
    kind = "unfinished" if run.result is None else "finished"
    folders, whole = _newest_first(run), 0
    if len(folders) <= RESUMABLE[kind]:
        return
    for folder in folders:
        if whole == RESUMABLE[kind]:
            why = f"the run is {kind} and resumes from a later one"
            yield Removed("checkpoint", run.run_id, step_of(folder), size_of(folder), why, str(folder))
        elif _is_whole_state(folder):
            whole += 1


def _is_whole_state(folder: Path) -> bool:
    try:
        return is_whole(folder, read_state(folder)["sha256"])
    except DamagedFileError:
        return False


def _leftovers(folders: Iterable[Path], run_id: str | None) -> Iterator[Removed]:
    for folder in folders:
        for path in sorted(folder.glob(".*.tmp")):
            yield Removed("leftover", run_id, None, size_of(path), "a killed process had begun to write it", str(path))


def _prune_leftovers(*, dry_run: bool) -> list[Removed]:
    """What killed processes left beside reports and in the production store, unless somebody writes there now."""
    places: list[tuple[Path, Callable[[Path], Path]]] = [
        (home() / "evaluations", lambda path: path.parent / f"{path.name.split('.')[1]}.lock"),
        (home() / "production" / "store", lambda _: home() / "production.lock"),
    ]
    removed = []
    for folder, lock_of in places:
        for item in list(_leftovers([folder], None)):
            with ExitStack() as held:
                path = Path(item.where)
                if _hold(held, [lock_of(path)], dry_run=dry_run) and path.exists():
                    removed.append(item)
                    if not dry_run:
                        remove_path(path)
    return removed


def _interrupted(client: MlflowClient, run: RunFolder) -> Iterator[Removed]:
    """Logged models whose record an earlier prune deleted, and whose bytes it did not come to."""
    if not (run.path / LIST_NAME).is_file():
        return
    for item in runs.read_json(run.path / LIST_NAME)["models"]:
        size = size_of_files(client, item["where"])
        if size and not model_exists(client, item["model_id"]):
            why = "an earlier prune was cut short"
            yield Removed("logged model", run.run_id, item["step"], size, why, item["where"], item["model_id"])


def _remove(client: MlflowClient, run: RunFolder, items: Iterable[Removed]) -> None:
    """Remove them; first what only MLflow has, for a logged model without its snapshot is found again."""
    models = [item for item in items if item.what == "logged model"]
    _remove_models(client, run, models)
    for item in items:
        if item.what != "logged model":
            remove_path(Path(item.where))


def _remove_models(client: MlflowClient, run: RunFolder, items: list[Removed]) -> None:
    """Delete logged models, the record of each before its bytes, so that no record ever points to missing bytes."""
    if items:
        named: list[dict[str, Any]] = [
            {"model_id": item.model_id, "step": item.step, "where": item.where} for item in items
        ]
        write_atomically(run.path / LIST_NAME, json.dumps({"models": named}, indent=2) + "\n")
    for item in items:
        if item.model_id is not None and model_exists(client, item.model_id):
            delete_model(client, item.model_id)
        else:
            delete_files(client, item.where)
    (run.path / LIST_NAME).unlink(missing_ok=True)
