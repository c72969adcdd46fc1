"""Find what refers to a run's snapshots: registered versions, the ledger, trainings that began with one, latents."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError
from pikavae.latents.encode import RECORD_NAME
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME
from pikavae.operations.stages import keys
from pikavae.production.changes import promote
from pikavae.registry.versions import run_of
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import all_versions
from pikavae.tracker.tags import MODEL_ID_TAG, SNAPSHOT_TAG, read_version_tags
from pikavae.training.worker import JOB_NAME
from pikavae.workspace import runs
from pikavae.workspace.records import read_object
from pikavae.workspace.run_record import JobRecord
from pikavae.workspace.runs import RunFolder

if TYPE_CHECKING:
    from pikavae.tracker.client import Client, MadeVersion
    from pikavae.tracker.queries import RunModel


@dataclass(frozen=True)
class Reference:
    """Describes something that refers to a snapshot.

    Attributes:
        who: what refers to it, for a person.
        run_id: the run of the snapshot; None if unknown.
        digest: the digest of its sizes and weights; None if unknown.
        addresses: where its files are read from: those of logged models or folders.
    """

    who: str
    run_id: str | None
    digest: str | None
    addresses: tuple[str, ...] = ()

    def holds(self, model: RunModel) -> bool:
        """Return True if it reads the files of this logged model."""
        return any(model.model_id in address for address in self.addresses)


def references_in_home(workspace: Workspace) -> list[Reference]:
    """Return the references recorded in this home, without MLflow.

    Raises:
        DamagedFileError: the ledger, the record of latents, or both records of a run are damaged, so their references
            are unknown.
    """
    lost = [_lost_references_of(run) for run in runs.folders_without_record(workspace.home)]
    ledger = [
        Reference(f"line {event['sequence']} of the ledger", event["run_id"], event["snapshot"])
        for event in promote.history(workspace.home)
        if event["run_id"]  # rules are about no run
    ]
    begun = [
        Reference(f"run {run.run_id} began with it", None, run.record.inputs[keys.START])
        for run in runs.run_folders(workspace.home)
        if keys.START in run.record.inputs
    ]
    taught = [
        Reference(f"run {run.run_id} learned from it", None, run.record.inputs[keys.TEACHER])
        for run in runs.run_folders(workspace.home)
        if keys.TEACHER in run.record.inputs
    ]
    latents = [
        Reference(f"latents/{path.parent.name} are its", None, read_object(path).get("model"))
        for path in (workspace.home / "latents").glob(f"*/{RECORD_NAME}")
    ]
    return [*ledger, *begun, *taught, *latents, *(reference for references in lost for reference in references)]


def _lost_references_of(run: RunFolder) -> list[Reference]:
    """Return what a run without a record began with and learned from, by its job; empty if it was not trained.

    Raises:
        DamagedFileError: it was trained, and its job cannot be read either.
    """
    try:
        job = JobRecord.read(run.path / JOB_NAME)
    except (FileNotFoundError, DamagedFileError):
        if not (run.path / "checkpoints").is_dir():  # an imported model, or a run that never began to train
            return []
        raise DamagedFileError(
            f"{run.path}: {runs.RUN_NAME} and {JOB_NAME} are missing or damaged, so that nothing says which weights "
            f"the run began with; give the command that trained it again, or delete the folder"
        ) from None
    named = [
        (f"run {run.run_id} began with it", job.start),
        (f"run {run.run_id} learned from it", None if job.teacher is None else job.teacher.folder),
    ]
    return [Reference(who, None, _digest_in(folder), (folder,)) for who, folder in named if folder is not None]


def _digest_in(folder: str) -> str | None:
    """Return the digest of a snapshot folder; None if it is not there any more."""
    files = [Path(folder) / name for name in (CONFIG_NAME, WEIGHTS_NAME)]
    return runs.snapshot_digest(Path(folder)) if all(file.is_file() for file in files) else None


def references_in_registry(client: Client) -> list[Reference]:
    """Return a reference for each version of every registered model, including those made by other tools."""
    return [
        Reference(
            f"{version.name} version {version.version}",
            run_of(version),
            read_version_tags(version.tags).get(SNAPSHOT_TAG),
            tuple(_addresses(client, version)),
        )
        for version in all_versions(client)
    ]


def _addresses(client: Client, version: MadeVersion) -> Iterator[str]:
    yield str(version.source)
    if own := read_version_tags(version.tags).get(MODEL_ID_TAG):
        yield f"models:/{own}"
    elif version.model_id:
        yield f"models:/{version.model_id}"
    else:  # made by hand from a folder, or a copy of another version
        yield str(client.get_model_version_download_uri(version.name, version.version))


def referred_steps(
    run_id: str,
    snapshots: Mapping[int, Path],
    models: Collection[RunModel],
    references: Iterable[Reference],
    *,
    unread: Collection[int],
) -> Iterator[tuple[int, str]]:
    """Yield the steps of a run that are referred to, each with `who`. A reference to the run alone keeps all its steps.

    Args:
        run_id: the run.
        snapshots: its snapshot folders by step.
        models: its logged models.
        references: the references to all runs.
        unread: steps that are kept for another reason, whose weights need not be read for their digest.
    """
    concerned = [reference for reference in references if reference.run_id in {None, run_id} or reference.addresses]
    wanted = {
        reference.digest
        for reference in concerned
        if reference.run_id in {None, run_id} and reference.digest is not None
    }
    digests = {
        step: runs.snapshot_digest(path)
        for step, path in snapshots.items()
        if wanted and step not in unread and all((path / name).is_file() for name in (CONFIG_NAME, WEIGHTS_NAME))
    }
    for reference in concerned:
        found = {model.step for model in models if reference.holds(model)}
        for step, path in snapshots.items():
            if any(run_id in address and path.name in address for address in reference.addresses):
                found.add(step)
        if reference.digest is not None and reference.run_id in {None, run_id}:
            found |= {step for step, digest in digests.items() if digest == reference.digest}
        elif reference.run_id == run_id and not found:
            found = set(snapshots)
        for step in sorted(found):
            yield step, reference.who
