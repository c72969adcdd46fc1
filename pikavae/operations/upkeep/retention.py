"""Free disk space by removing what runs no longer need.

Each run keeps its best snapshot, its last few, and every snapshot that something refers to: a registered version of any
model, a line of production's ledger, a training that began with it, a set of latents. A report does not keep a
snapshot, because its numbers need no model. A snapshot's copy among MLflow's logged models is kept or removed with it.
A finished run keeps its last state to resume from, so that it can be extended; an unfinished run keeps its last two.
Runs in use, reports, prepared sets and imported models are never touched. Unpacked members of archives are removed if
the archive is gone or has changed, unless a preparation runs.

A kill at any moment leaves only things that the next prune removes. Files are renamed before they are deleted. A logged
model is listed in `runs/<run id>/pruning.json` before its record is deleted, because its bytes are deleted afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pikavae.errors import BusyError, DamagedFileError, UserError
from pikavae.operations.stages.results import is_whole
from pikavae.operations.upkeep.references import Reference, references_in_home, references_in_registry, referred_steps
from pikavae.operations.upkeep.unpacked import locks_of_preparations, unused_members
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import delete_files, delete_model, size_of, size_of_files
from pikavae.tracker.queries import CHECKPOINT_TYPE, RunModel, get_run, model_exists, models_of_run
from pikavae.tracker.tags import TRAIN_KEY_TAG
from pikavae.training.saving import best_step
from pikavae.training.state import read_state
from pikavae.workspace import runs
from pikavae.workspace.files import exclusive, remove_path, write_atomically
from pikavae.workspace.records import Record, readable_files
from pikavae.workspace.runs import RunFolder, folders_by_step, step_of

if TYPE_CHECKING:
    from pikavae.tracker.client import Client

logger = logging.getLogger(__name__)

LIST_NAME = "pruning.json"
REGISTERING = timedelta(hours=1)
"""The age below which a version's files are kept without a version: it may be about to be registered."""
RESUMABLE = {"finished": 1, "unfinished": 2}
"""How many of the newest whole states to resume from are kept."""


class _ListedModel(Record):
    model_id: str | None
    step: int | None
    where: str


class _ModelList(Record):
    """Lists the logged models that a prune is about to delete, so that the next one finds what it did not finish."""

    models: Sequence[_ListedModel]


@dataclass(frozen=True)
class Removed:
    """Describes something that was removed, or would be.

    Attributes:
        what: a `checkpoint` is a state to resume from, a `logged model` a snapshot's copy in MLflow or the files of a
            deleted version, a `leftover` what a killed process had begun to write, `unpacked` the members of an
            archive.
        run_id: its run; None if it belongs to no run.
        step: the optimizer step; None for a leftover and for unpacked members.
        bytes: its size.
        reason: why it may be removed.
        where: its path, or the address of a logged model's files.
        model_id: the id of a logged model; None otherwise.
    """

    what: Literal["checkpoint", "snapshot", "logged model", "leftover", "unpacked"]
    run_id: str | None
    step: int | None
    bytes: int
    reason: str
    where: str
    model_id: str | None = None


def prune(workspace: Workspace, *, keep: int | None = None, dry_run: bool = False) -> list[Removed]:
    """Remove from all runs of this home what is neither the best, nor among the last, nor referred to.

    What is kept is logged, a line each with its reason.

    Args:
        workspace: the state folder and its store.
        keep: how many of the last snapshots of each run to keep; by default the run's `training.keep_checkpoints`.
        dry_run: change nothing.

    Returns:
        What was removed, or with `dry_run` would be.

    Raises:
        UserError: `keep` is less than one.
        DamagedFileError: a record of what is in use, such as production's ledger, is not whole; nothing was removed.
    """
    if keep is not None and keep < 1:
        raise UserError(f"--keep {keep}: at least the last snapshot of each run stays; give 1 or more")
    for lost in runs.folders_without_record(workspace.home):
        logger.warning(
            "kept run %s: its %s is missing or damaged; the command that trained it writes it again, or delete %s",
            lost.run_id,
            runs.RUN_NAME,
            lost.path,
        )
    removed: list[Removed] = []
    if found := list(runs.run_folders(workspace.home)):
        client = workspace.client
        home_references = references_in_home(workspace)
        references = [*home_references, *references_in_registry(client)]
        for run in found:
            with ExitStack() as held:
                if reason := _why_untouchable(workspace, run, held, dry_run=dry_run):
                    logger.info("kept run %s: %s", run.run_id, reason)
                    continue
                kept, gone = _sort_out(client, run, keep, references)
                if not dry_run:
                    if gone:  # a version may have been registered since
                        kept, gone = _sort_out(client, run, keep, [*home_references, *references_in_registry(client)])
                    _remove(client, run, gone)
                for line in kept:
                    logger.info("kept %s", line)
                removed += gone
    return [*removed, *_prune_leftovers(workspace, dry_run=dry_run), *_prune_unpacked(workspace, dry_run=dry_run)]


def _why_untouchable(workspace: Workspace, run: RunFolder, held: ExitStack, *, dry_run: bool) -> str | None:
    """Return why a run cannot be judged now; None if it can, and its locks are then held."""
    if reason := _why_unreadable(run):
        return reason
    if not _hold(held, [workspace.home / "runs" / f"{run.record.key}.lock", *run.path.glob("*.lock")], dry_run=dry_run):
        return "its lock is held: somebody trains in it"
    tracked = get_run(workspace.client, run.run_id)
    if tracked is None:
        return "its MLflow run is deleted or in another store, so it is unknown what refers to it"
    if tracked.tags.get(TRAIN_KEY_TAG) != run.record.key:
        return "its MLflow run is another's"
    if run.result is not None and tracked.status == "RUNNING":
        return "it is being evaluated or registered, or was killed at that; the same command ends it"
    return None


def _why_unreadable(run: RunFolder) -> str | None:
    """Return why a run's own records do not say what may be removed; None if they do."""
    name = runs.RUN_NAME
    try:
        int(run.record.config["training"]["keep_checkpoints"])
        name = runs.TRAIN_NAME
        result = run.result
        if result is not None:
            step_of(Path(result.snapshot))
        if result is not None or not (run.path / name).exists():
            return None
    except (OSError, ValueError, KeyError, TypeError, DamagedFileError):
        pass
    return f"its {name} cannot be read, so that nothing says what may go; restore it, or delete the run's folder"


def _sort_out(
    client: Client, run: RunFolder, keep: int | None, references: Sequence[Reference]
) -> tuple[list[str], list[Removed]]:
    """Return a line for each snapshot of a run that is kept, with its reasons, and everything that is removed."""
    models = models_of_run(client, run.run_id)
    snapshots = folders_by_step(run.path / "snapshots")
    reasons = kept_steps(run, snapshots, models, references, keep)
    lines = [
        f"snapshot, run {run.run_id} step {step}, {size_of(snapshots[step]) / 1e6:.1f} MB: {'; '.join(why)}"
        for step, why in reasons.items()
    ]
    return lines, [
        *_interrupted_removals(client, run),
        *_superfluous_models(client, run, models, reasons, references),
        *_superfluous_snapshots(run, snapshots, reasons),
        *_superfluous_states(run),
        *_leftovers([run.path, *(path for path in run.path.iterdir() if path.is_dir())], run.run_id),
    ]


def _hold(held: ExitStack, locks: Iterable[Path], *, dry_run: bool) -> bool:
    """Take locks; return False if another process holds one. A dry run does not create a lock's missing file."""
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
    """Return the steps whose snapshots are kept, each with its reasons."""
    reasons: dict[int, list[str]] = {}

    def stays(steps: Iterable[int], why: str) -> None:
        for step in steps:
            reasons.setdefault(step, []).append(why)

    last = keep or int(run.record.config["training"]["keep_checkpoints"])
    stays(sorted(snapshots)[-last:], f"among the last {last}")
    best = _best(run)
    if best is None:
        stays(snapshots, "no checkpoint has a score, so the best is unknown")
    else:
        stays([best], "the best")
    if run.result is not None:
        stays([step_of(Path(run.result.snapshot))], "the run's result")
    for step, who in referred_steps(run.run_id, snapshots, models, references, unread=set(reasons)):
        stays([step], who)
    return {step: why for step, why in sorted(reasons.items()) if step in snapshots}


def _best(run: RunFolder) -> int | None:
    if run.result is not None:
        return run.result.best_step
    for folder in _newest_first(run):
        try:
            scores = read_state(folder).scores
        except DamagedFileError:
            continue
        if scores:  # empty if the run was stopped before its first checkpoint was scored
            return best_step({int(step): float(score) for step, score in scores.items()})
    return None


def _newest_first(run: RunFolder) -> list[Path]:
    return list(folders_by_step(run.path / "checkpoints").values())[::-1]


def _superfluous_models(
    client: Client,
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
    """Yield the states older than the newest whole ones. A damaged one does not count, since resuming skips it."""
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
        return is_whole(folder, read_state(folder).sha256)
    except DamagedFileError:
        return False


def _leftovers(folders: Iterable[Path], run_id: str | None) -> Iterator[Removed]:
    for folder in folders:
        for path in sorted(folder.glob(".*.tmp")):
            yield Removed("leftover", run_id, None, size_of(path), "a killed process had begun to write it", str(path))


def _prune_leftovers(workspace: Workspace, *, dry_run: bool) -> list[Removed]:
    """Remove what killed processes left beside reports and in the production store, unless a process writes there."""
    places: list[tuple[Path, Callable[[Path], Path]]] = [
        (workspace.home / "evaluations", lambda path: path.parent / f"{path.name.split('.')[1]}.lock"),
        (workspace.home / "production" / "store", lambda _: workspace.home / "production.lock"),
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


def _prune_unpacked(workspace: Workspace, *, dry_run: bool) -> list[Removed]:
    """Remove members of missing or changed archives, unless a preparation runs, which may read them."""
    prepared, removed = workspace.home / "prepared", list[Removed]()
    with ExitStack() as held:
        if not _hold(held, locks_of_preparations(prepared), dry_run=dry_run):
            logger.info("kept what was unpacked of archives: a preparation runs")
            return []
        for path, reason in unused_members(prepared):
            removed.append(Removed("unpacked", None, None, size_of(path), reason, str(path)))
        for item in () if dry_run else removed:
            remove_path(Path(item.where))
    return removed


def _interrupted_removals(client: Client, run: RunFolder) -> Iterator[Removed]:
    """Yield logged models whose record an earlier prune deleted without deleting their bytes."""
    listed = readable_files([run.path / LIST_NAME], _ModelList.read, logger)
    for item in (model for _, record in listed for model in record.models):
        size = size_of_files(client, item.where)
        if size and not (item.model_id is not None and model_exists(client, item.model_id)):
            why = "an earlier prune was cut short"
            yield Removed("logged model", run.run_id, item.step, size, why, item.where, item.model_id)


def _remove(client: Client, run: RunFolder, items: Iterable[Removed]) -> None:
    """Remove the items, logged models first; the next prune also finds a logged model without its snapshot."""
    models = [item for item in items if item.what == "logged model"]
    _remove_models(client, run, models)
    for item in items:
        if item.what != "logged model":
            remove_path(Path(item.where))


def _remove_models(client: Client, run: RunFolder, items: list[Removed]) -> None:
    """Delete logged models, the record of each before its bytes, so that no record ever points to missing bytes."""
    if items:
        models = [_ListedModel(model_id=item.model_id, step=item.step, where=item.where) for item in items]
        write_atomically(run.path / LIST_NAME, _ModelList(models=models).to_json())
    for item in items:
        if item.model_id is not None and model_exists(client, item.model_id):
            delete_model(client, item.model_id)
        else:
            delete_files(client, item.where)
    (run.path / LIST_NAME).unlink(missing_ok=True)
