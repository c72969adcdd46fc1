"""Models from elsewhere and for elsewhere: import one as a run and a version of its own, export one for diffusers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pikavae import runs
from pikavae.config import Config, ModelConfig, content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.evaluation.model_card import measured_scaling
from pikavae.files import exclusive, folder_atomically, sha256_of
from pikavae.git import git_tags
from pikavae.home import home
from pikavae.model.published import SNAPSHOT_FORM, sizes_of
from pikavae.model.snapshot import CONFIG_NAME, SETTINGS_NAME, WEIGHTS_NAME
from pikavae.operations.cards import card_of, has_the_latents_of_others, newest_report
from pikavae.operations.imported import (
    HUB,
    SNAPSHOT_FILES,
    Snapshot,
    find_snapshot,
    is_registered_name,
    published_path,
    snapshot_of,
)
from pikavae.operations.pipeline import CHECKOUT, recording
from pikavae.operations.results import Registered
from pikavae.presets import load_config
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.registry.versions import Version
from pikavae.runs import RunFolder
from pikavae.tracked import find_run
from pikavae.tracking import RunLog, connect, experiment_id

KEY_TAG = "pikavae.import_key"
IMPORT_TAG = "pikavae.imported.source"
NOT_MEASURED = "Its scores are not measured yet."
SNAPSHOT_NAME = "step-00000000"
EXPORTED_CARD = "README.md"


@dataclass(frozen=True)
class _Import:
    """A model on its way in: what the user called it, where it is, and the key by which it is found again."""

    source: str
    snapshot: Snapshot
    digest: str
    key: str

    @property
    def name(self) -> str:
        """What its run is called."""
        return self.source if self.source.startswith(HUB) else Path(self.source).name

    def tags(self) -> dict[str, str]:
        """Where it came from, for the run and the version."""
        return {
            IMPORT_TAG: self.source,
            "pikavae.imported.form": self.snapshot.form,
            "pikavae.imported.notes": "\n".join(self.snapshot.notes),
            "pikavae.snapshot": self.digest,
        }

    def note(self) -> str:
        """The same for a person, in Markdown."""
        head = f"Imported from `{self.source}`, a {self.snapshot.form}. {NOT_MEASURED}"
        return "\n".join([head, "", *(f"- {note}" for note in self.snapshot.notes)])


def export_model(model: str, out: Path, config: Config) -> Path:
    """Write a model as a folder that diffusers loads, with the configuration that made it and a card, `README.md`.

    Where a report of this home has measured the latents, `config.json` has its scaling and shift factors, but where the
    latents are those of published weights; weights and configuration are the model's, byte for byte.

    Args:
        model: what `find_snapshot` takes.
        out: a folder that does not exist yet, or is empty.
        config: `registry.model_name`, and sizes that other makers' weights must have where they are not the defaults.

    Returns:
        The folder, absolute.

    Raises:
        UserError: there is no such model, it is not whole, or the folder is not empty; nothing was written.
    """
    out = out.expanduser().absolute()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"export {str(out)!r}: it is there and not empty; name a new folder")
    source = find_snapshot(model, config, field="export", required=stated_sizes(config.model)).folder
    try:
        with folder_atomically(out) as temporary:
            copy_snapshot(source, temporary)
            _describe(source, temporary, name=_called(model, config))
    except OSError as error:
        raise UserError(f"export {str(out)!r}: cannot be written ({error.strerror}); name another folder") from None
    return out


def _describe(source: Path, copy: Path, *, name: str) -> None:
    """Write into an exported copy what is known of the model: its card, and the measured scaling of its latents."""
    report = newest_report(source)
    (copy / EXPORTED_CARD).write_text(card_of(source, report, name), encoding="utf-8")
    if report is not None and not has_the_latents_of_others(source) and (scaling := measured_scaling(report)):
        sizes = runs.read_json(copy / CONFIG_NAME) | scaling
        (copy / CONFIG_NAME).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def _called(model: str, config: Config) -> str:
    """What the card of an exported model is headed by, without the machine's paths."""
    if model.isdecimal():
        return f"{config.registry.model_name} version {model}"
    return model if is_registered_name(model) or model.startswith(HUB) else Path(model).resolve().name


def import_model(source: str, config: Config) -> Registered:
    """Register a published model as a candidate version, with a run of its own; the same bytes are found again.

    What `export_model` wrote is the version that it was written of, where this registry has it.

    Args:
        source: a path that `read_published` takes, or `hub:` and what `fetch_weights` takes.
        config: where it goes (`registry.model_name`, `tracking.experiment`); what a file does not tell
            (`model.norm_groups`, `data.image_size`); and sizes that it must have where they are not the defaults.

    Raises:
        UserError: nothing is there, it cannot be read whole, or its sizes are others; nothing was written.
    """
    if is_registered_name(source):
        raise UserError(f"import {source!r}: a model of this project already; name a file, a folder or {HUB}ORG/NAME")
    path = published_path(source, field="import")
    snapshot = snapshot_of(
        path,
        norm_groups=config.model.norm_groups,
        image_size=config.data.image_size,
        required=stated_sizes(config.model),
    )
    digest = runs.snapshot_digest(snapshot.folder)
    key = content_hash({"imported": digest, "registry.model_name": config.registry.model_name})
    job = _Import(source if source.startswith(HUB) else str(path), snapshot, digest, key)
    client = connect(home())
    with exclusive(home() / "runs" / f"{key}.lock", waiting="another process imports the same; waiting for it"):
        name = config.registry.model_name
        if found := versions.find_version(client, name, key) or _exported(versions.list_versions(client, name), job):
            return Registered(found, reused=True)
        settings = load_config(snapshot.folder / SETTINGS_NAME)
        log = _open_run(job, settings, config.tracking.experiment)
        with recording(log):
            run = _keep(job, settings, log)
            version = versions.register(
                client,
                run_id=log.run_id,
                snapshot=run.snapshot(),
                model_name=config.registry.model_name,
                image_size=settings.data.image_size,
                step=0,
                metrics={},
                tags={
                    versions.KEY_TAG: key,
                    "pikavae.run_id": log.run_id,
                    "pikavae.config_hash": content_hash(settings.flat()),
                    **job.tags(),
                    **git_tags(CHECKOUT),
                },
                description=job.note(),
            )
            log.set_tags({"pikavae.version": str(version.version), "pikavae.registered_model": version.name})
    return Registered(version, reused=False)


def _exported(listed: Iterable[Version], job: _Import) -> Version | None:
    """The version that has the weights and the configuration of an imported snapshot, byte for byte."""
    if job.snapshot.form != SNAPSHOT_FORM:
        return None
    same = {
        f"{SNAPSHOT_FOLDER}/{name}": sha256_of(job.snapshot.folder / name) for name in (WEIGHTS_NAME, SETTINGS_NAME)
    }
    return next((version for version in listed if same.items() <= version.manifest.items()), None)


def stated_sizes(model: ModelConfig) -> dict[str, object]:
    """The sizes that the user asked for: those that are not the defaults. Weights that tell others are refused."""
    defaults = sizes_of(ModelConfig())
    return {name: value for name, value in sizes_of(model).items() if value != defaults[name]}


def copy_snapshot(source: Path, target: Path) -> None:
    """Copy the three files of a snapshot into an existing folder, and read the copies back.

    Raises:
        DamagedFileError: a copy is not what was copied.
    """
    for name in SNAPSHOT_FILES:
        shutil.copyfile(source / name, target / name)
        if sha256_of(target / name) != sha256_of(source / name):
            raise DamagedFileError(f"{target / name}: the copy differs from {source / name}; check the disk")


def _open_run(job: _Import, settings: Config, experiment: str) -> RunLog:
    """The run that an earlier attempt has opened, or a new one."""
    client = connect(home())
    experiment = experiment_id(client, home(), experiment)
    tags = {KEY_TAG: job.key, **job.tags()}
    if begun := next(iter(find_run(client, experiment, {KEY_TAG: job.key})), None):
        log = RunLog.resume(client, begun.run_id)
        log.set_tags(tags)
    else:
        sizes = {f"model.{name}": value for name, value in sizes_of(settings.model).items()}
        log = RunLog.start(client, experiment, job.name, tags=tags, params=sizes)
    log.set_tags(git_tags(CHECKOUT))
    log.set_note(job.note())
    log.log_text(settings.to_yaml(), "config.yaml")
    return log


def _keep(job: _Import, settings: Config, log: RunLog) -> RunFolder:
    """The run's folder with the model as its only snapshot, at step 0, so that `run:<id>` names it like any other."""
    record = {
        "key": job.key,
        "inputs": {"imported": job.digest},
        "created": datetime.now(UTC).isoformat(),
        "config": settings.model_dump(mode="json"),
    }
    run = runs.create_run_folder(home(), log.run_id, record)
    with folder_atomically(run.path / "snapshots" / SNAPSHOT_NAME) as temporary:
        copy_snapshot(job.snapshot.folder, temporary)
    run.finish(
        {
            "imported": job.source,
            "steps": 0,
            "best_step": 0,
            "images_seen": 0,
            "snapshot": SNAPSHOT_NAME,
            "experiment_id": log.experiment_id,
            "snapshot_sha256": {name: sha256_of(run.snapshot() / name) for name in SNAPSHOT_FILES},
        }
    )
    return run
