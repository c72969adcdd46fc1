"""Import a published model as a run and a version of its own, and export a model for diffusers and other tools."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pikavae.config import Config, content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.model.sizes import (
    CONFIG_NAME,
    FACTORS,
    PADDING,
    RUN_CONFIG_NAME,
    THEIR_NAMES,
    WEIGHTS_NAME,
    scaling_in,
    sizes_of,
)
from pikavae.operations.resolving.imported import SNAPSHOT_FILES
from pikavae.operations.resolving.names import HUB
from pikavae.operations.resolving.resolve import ResolvedModel, of_version
from pikavae.operations.resolving.scaling import scaling_of
from pikavae.operations.stages.describing import card_of, has_the_latents_of_others, newest_report
from pikavae.operations.stages.results import Registered
from pikavae.operations.stages.runtime import CHECKOUT, recording
from pikavae.operations.using.exported_files import WRITTEN_SUFFIX, export_file
from pikavae.operations.using.picture_files import is_file_name
from pikavae.presets import load_config
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.registry.versions import Version
from pikavae.tracker.checkout import git_tags
from pikavae.tracker.client import Workspace
from pikavae.tracker.queries import query_runs
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import (
    CONFIG_HASH_TAG,
    IMPORT_FORM_TAG,
    IMPORT_KEY_TAG,
    IMPORT_NOTES_TAG,
    IMPORT_TAG,
    REGISTER_KEY_TAG,
    REGISTERED_MODEL_TAG,
    RUN_TAG,
    SNAPSHOT_TAG,
    VERSION_TAG,
)
from pikavae.weights.published import SNAPSHOT_FORM
from pikavae.weights.weight_files import read_json
from pikavae.workspace import runs
from pikavae.workspace.disks import explain
from pikavae.workspace.files import exclusive, folder_atomically, sha256_of
from pikavae.workspace.home import expand_user
from pikavae.workspace.records import read_object
from pikavae.workspace.run_record import ImportResult, RunRecord
from pikavae.workspace.runs import RunFolder

NOT_MEASURED = "Its scores are not measured yet."
SNAPSHOT_NAME = "step-00000000"
EXPORTED_CARD = "README.md"
FILE_SUFFIXES = (WRITTEN_SUFFIX, ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class _Import:
    """Holds a model to import, its digest, and the key that identifies the import."""

    model: ResolvedModel
    digest: str
    key: str

    @property
    def source(self) -> str:
        """Return where it came from, as the user named it."""
        return self.model.source or self.model.name

    @property
    def name(self) -> str:
        """Return the name of its run."""
        return self.source if self.source.startswith(HUB) else Path(self.source).name

    def tags(self) -> dict[str, str]:
        """Return the tags of run and version that record its origin."""
        return {
            IMPORT_TAG: self.source,
            IMPORT_FORM_TAG: self.model.form,
            IMPORT_NOTES_TAG: "\n".join(self.model.notes),
            SNAPSHOT_TAG: self.digest,
        }

    def note(self) -> str:
        """Describe its origin for a person, in Markdown."""
        head = f"Imported from `{self.source}`, a {self.model.form}. {NOT_MEASURED}"
        return "\n".join([head, "", *(f"- {note}" for note in self.model.notes)])


def export_model(workspace: Workspace, model: ResolvedModel, out: Path, config: Config) -> Path:
    """Write a model as a folder that diffusers loads, with the configuration that made it and a card, `README.md`.

    If the name ends in `.safetensors`, a single file under LDM's names is written instead, which ComfyUI and A1111
    load. A tiny autoencoder becomes two under its author's names, `NAME_encoder.safetensors` and
    `NAME_decoder.safetensors`; either may be named. `config.json` has the scaling and shift factors of the latents as
    `scaling_of` measures them, unless the latents are those of published weights. Weights and configuration are the
    model's, byte for byte.

    Args:
        workspace: the state folder and its store.
        model: from `model_to_export`.
        out: a new or empty folder, or a new file.
        config: batch size, device and threads, if the scaling must be measured.

    Returns:
        The absolute path of the folder or file.

    Raises:
        UserError: the folder is not empty, or the file exists; nothing was written.
    """
    out = export_target(out)
    if out.suffix.lower() == WRITTEN_SUFFIX:
        return export_file(workspace, model, out, config)
    try:
        with folder_atomically(out) as temporary:
            copy_snapshot(model.folder, temporary)
            _describe(workspace, model, temporary, config)
    except OSError as error:
        if (told := explain(error, out)) is None:
            raise
        raise type(told)(f"export: {told}") from None
    return out


def export_target(out: Path, *, field: str = "export") -> Path:
    """Return the absolute path to export to, after checking that nothing is there: a new folder or a new file.

    Args:
        out: the path.
        field: what gave it, for messages.

    Raises:
        UserError: something is there, or it is the name of a file that is not written.
    """
    out = expand_user(out, field).absolute()
    if out.suffix.lower() in FILE_SUFFIXES:
        if out.suffix.lower() != WRITTEN_SUFFIX:
            raise UserError(
                f"{field} {str(out)!r}: a file is written as {WRITTEN_SUFFIX} alone; name {out.stem}{WRITTEN_SUFFIX}"
            )
        if out.exists():
            raise UserError(f"{field} {str(out)!r}: it is there; name a new file")
        return out
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{field} {str(out)!r}: it is there and not empty; name a new folder")
    if is_file_name(out):
        raise UserError(f"{field} {str(out)!r}: expected a new folder, or a file that ends in {WRITTEN_SUFFIX}")
    return out


def _describe(workspace: Workspace, model: ResolvedModel, copy: Path, config: Config) -> None:
    """Write the model's card, and the measured scaling of its latents, into an exported copy."""
    source = model.folder
    report = newest_report(workspace, source)
    scaling = scaling_of(workspace, source, report, config)
    written = scaling is not None and not has_the_latents_of_others(source)
    card = card_of(workspace, source, report, model.title, scaling=scaling, written=written)
    (copy / EXPORTED_CARD).write_text(card, encoding="utf-8")
    if scaling is not None and written:
        sizes = read_object(copy / CONFIG_NAME) | scaling.factors
        (copy / CONFIG_NAME).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def import_model(workspace: Workspace, model: ResolvedModel, config: Config) -> Registered:
    """Register a published model as a candidate version with a run of its own; equal bytes give the same version.

    For a folder that `export_model` wrote, the exported version is returned, if this registry has it.

    Args:
        workspace: the state folder and its store.
        model: from `model_to_import`.
        config: where it goes (`registry.model_name`, `tracking.experiment`).
    """
    name, digest = config.registry.model_name, model.digest
    key = content_hash({"imported": digest, "registry.model_name": name})
    job = _Import(model, digest, key)
    client = workspace.client
    same = content_hash({"weights": sha256_of(model.folder / WEIGHTS_NAME), "registry.model_name": name})
    with exclusive(
        workspace.home / "runs" / f"{same}.lock", waiting="another process imports the same; waiting for it"
    ):
        if found := versions.find_version(client, name, key) or _same_model(workspace, name, job):
            return Registered(found, reused=True)
        settings = load_config(model.folder / RUN_CONFIG_NAME)
        log = _open_run(workspace, job, settings, config.tracking.experiment)
        with recording(workspace, log):
            run = _keep(workspace, job, settings, log)
            version = versions.register(
                client,
                run_id=log.run_id,
                snapshot=run.snapshot(),
                model_name=name,
                image_size=settings.data.image_size,
                step=0,
                metrics={},
                tags={
                    REGISTER_KEY_TAG: key,
                    RUN_TAG: log.run_id,
                    CONFIG_HASH_TAG: content_hash(settings.flat()),
                    **job.tags(),
                    **git_tags(CHECKOUT),
                },
                description=job.note(),
            )
            log.set_tags({VERSION_TAG: str(version.version), REGISTERED_MODEL_TAG: version.name})
    return Registered(version, reused=False)


def _same_model(workspace: Workspace, name: str, job: _Import) -> Version | None:
    """Return the version that is the same model as an imported snapshot, in whichever form either came.

    If the snapshot has a configuration of this project, configuration and weights must be equal byte for byte. If not,
    weights and sizes must be equal, and for an imported version also the scaling factors, if both have one.
    """
    weights = f"{SNAPSHOT_FOLDER}/{WEIGHTS_NAME}"
    digest = sha256_of(job.model.folder / WEIGHTS_NAME)
    alike = [one for one in versions.list_versions(workspace.client, name) if one.manifest.get(weights) == digest]
    if job.model.form == SNAPSHOT_FORM:
        settings = sha256_of(job.model.folder / RUN_CONFIG_NAME)
        return next(
            (one for one in alike if one.manifest.get(f"{SNAPSHOT_FOLDER}/{RUN_CONFIG_NAME}") == settings), None
        )
    own = read_object(job.model.folder / CONFIG_NAME)
    for one in alike:
        theirs = read_json(of_version(workspace, one).folder / CONFIG_NAME)
        stated = [[scaling_in(sizes).get(name) for sizes in (own, theirs)] for name in FACTORS]
        same_scaling = IMPORT_TAG not in one.tags or all(None in pair or pair[0] == pair[1] for pair in stated)
        if same_scaling and all(own.get(field) == theirs.get(field) for field in (*THEIR_NAMES.values(), PADDING)):
            return one
    return None


def copy_snapshot(source: Path, target: Path) -> None:
    """Copy the three files of a snapshot into an existing folder, and verify the copies.

    Raises:
        DamagedFileError: a copy differs from its original.
    """
    for name in SNAPSHOT_FILES:
        shutil.copyfile(source / name, target / name)
        if sha256_of(target / name) != sha256_of(source / name):
            raise DamagedFileError(f"{target / name}: the copy differs from {source / name}; check the disk")


def _open_run(workspace: Workspace, job: _Import, settings: Config, experiment: str) -> RunLog:
    """Resume the run that an earlier attempt opened, or start a new one."""
    client = workspace.client
    experiment = workspace.experiment_id(experiment)
    tags = {IMPORT_KEY_TAG: job.key, **job.tags()}
    if begun := next(iter(query_runs(client, experiment, {IMPORT_KEY_TAG: job.key})), None):
        log = RunLog.resume(client, begun.run_id)
        log.set_tags(tags)
    else:
        sizes = {f"model.{name}": value for name, value in sizes_of(settings.model).items()}
        log = RunLog.start(client, experiment, job.name, tags=tags, params=sizes)
    log.set_tags(git_tags(CHECKOUT))
    log.set_note(job.note())
    log.log_text(settings.to_yaml(), "config.yaml")
    return log


def _keep(workspace: Workspace, job: _Import, settings: Config, log: RunLog) -> RunFolder:
    """Make the run's folder with the model as its only snapshot, at step 0, so that `run:<id>` names it too."""
    record = RunRecord(
        key=job.key,
        inputs={"imported": job.digest},
        created=datetime.now(UTC).isoformat(),
        config=settings.model_dump(mode="json"),
    )
    run = runs.create_run_folder(workspace.home, log.run_id, record)
    with folder_atomically(run.path / "snapshots" / SNAPSHOT_NAME) as temporary:
        copy_snapshot(job.model.folder, temporary)
    run.finish(
        ImportResult(
            imported=job.source,
            steps=0,
            best_step=0,
            images_seen=0,
            snapshot=SNAPSHOT_NAME,
            experiment_id=log.experiment_id,
            snapshot_sha256={name: sha256_of(run.snapshot() / name) for name in SNAPSHOT_FILES},
        )
    )
    return run
