"""Resolve a model's name: a version, the champion, a run, a folder, a file or a model on the hub.

What uses a model takes a `ResolvedModel` and not a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pikavae.config import Config, ModelConfig, RegistryConfig
from pikavae.errors import DamagedFileError, OtherSizesError, UserError
from pikavae.model.picture_channels import can_take_over
from pikavae.model.sizes import (
    CONFIG_NAME,
    RUN_CONFIG_NAME,
    model_config,
    sizes_of,
)
from pikavae.operations.resolving.imported import DEFAULT_IMAGE_SIZE, convert, stated_sizes
from pikavae.operations.resolving.names import HUB, RUN_MODEL, is_registered_name, path_of, published_path
from pikavae.operations.stages.results import is_whole
from pikavae.presets import load_config
from pikavae.production.changes.signatures import refuse_unsigned
from pikavae.production.packages.model import PRODUCTION_NAME, candidate_of
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION, PREVIOUS, SNAPSHOT_TAG
from pikavae.weights.published import SNAPSHOT_FORM
from pikavae.workspace import runs
from pikavae.workspace.home import expand_user
from pikavae.workspace.records import read_object
from pikavae.workspace.runs import RunFolder, run_folder


@dataclass(frozen=True)
class ResolvedModel:
    """Says what a name stands for.

    Attributes:
        name: the name, as the user gave it.
        folder: the snapshot folder.
        version: the registered version, if it is named by number or alias.
        run: the run, if it is named by `run:` or by the path of one of its snapshots.
        source: where weights came from that are named by a path or a hub id: the id, or the absolute path.
        form: the form that the weights came in.
        notes: what was assumed or ignored when the weights were read.
    """

    name: str
    folder: Path
    version: Version | None = None
    run: RunFolder | None = None
    source: str | None = None
    form: str = SNAPSHOT_FORM
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return one hash over its sizes and weights."""
        return runs.snapshot_digest(self.folder)

    @property
    def title(self) -> str:
        """Return the heading of its card, without the machine's paths."""
        if self.version is not None and self.name.isdecimal():
            return f"{self.version.name} version {self.version.version}"
        return self.name if self.source is None or self.source.startswith(HUB) else Path(self.name).resolve().name


def resolve(workspace: Workspace, name: str, config: Config) -> ResolvedModel:
    """Return the model that a name stands for, read and checked as every command does.

    Args:
        workspace: the state folder and its store.
        name: a candidate version (`3`), `champion`, `previous`, `run:<id>` with `@<step>` or `@best` or neither,
            or what `published_path` takes: the path of a model folder or a file of weights, or a model of the hub.
        config: `registry.model_name` has the versions; `model.norm_groups` is used if a file does not state it.

    Raises:
        UserError: there is no such model, or it cannot be read whole; the message lists the available ones.
    """
    if is_registered_name(name):
        return _resolve_registered(workspace, name, config.registry.model_name)
    return _resolve_published(workspace, name, published_path(name, field="model"), config)


def starting_weights(workspace: Workspace, config: Config) -> ResolvedModel | None:
    """Return the model that `training.start` names, whole and of the sizes in section `model`; None if it names none.

    If pictures are grey or RGBA, it may be a model of RGB pictures, which the training makes one of theirs. With
    `training.grow_latents` it has fewer latent channels, which the training adds. A teacher is checked too.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its sizes differ; nothing was written.
        DamagedFileError: a file of a version or a finished run does not have its recorded hash.
    """
    start, teacher = config.training.start, config.training.teacher
    if teacher is not None and not teacher.startswith(HUB):  # what is on the hub is downloaded by the training
        teacher_model(workspace, config)
    if start is None:
        return None
    required = sizes_of(config.model)
    try:
        return _resolve_start(workspace, start, config, required)
    except OtherSizesError as error:
        before, _ = error.sizes.get("image_channels", (0, 0))
        if not can_take_over(before, config.data.channel_names):
            raise
        if config.training.trainable == "decoder" and config.data.channels == "rgba":
            raise UserError(
                f"training.trainable decoder: the weights of training.start {start!r} are of RGB pictures, and their "
                f"encoder must learn to read alpha; set training.trainable all"
            ) from None
        return _resolve_start(workspace, start, config, required | {"image_channels": before})


def _resolve_start(workspace: Workspace, start: str, config: Config, required: Mapping[str, Any]) -> ResolvedModel:
    """Return the model that `training.start` names, of the required sizes apart from latents that are to grow."""
    try:
        model = _resolve_whole(workspace, start, config, field="training.start", required=required)
    except OtherSizesError as error:
        before, wanted = error.sizes.get("latent_channels", (0, 0))
        if before >= wanted or len(error.sizes) > 1:
            raise
        if not config.training.grow_latents:
            raise UserError(f"{error}; training.grow_latents true adds the latent channels that are missing") from None
        fewer = {**required, "latent_channels": before}
        model = _resolve_whole(workspace, start, config, field="training.start", required=fewer)
        _refuse_other_padding(model, config)
        return model
    if config.training.grow_latents:
        raise UserError(
            f"training.grow_latents: the weights of training.start {start!r} have model.latent_channels "
            f"{config.model.latent_channels} already; leave it out, or set more"
        )
    _refuse_other_padding(model, config)
    return model


def teacher_model(workspace: Workspace, config: Config) -> ResolvedModel | None:
    """Return the autoencoder that `training.teacher` names, whole and with latents of the tiny one's shape, or None.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its latents are of another shape.
        DamagedFileError: a file of a version or a finished run does not have its recorded hash.
    """
    name, wanted = config.training.teacher, config.model
    if name is None:
        return None
    larger = config.model_copy(update={"model": ModelConfig()})  # its groups are not those of a model without norms
    model = _resolve_whole(workspace, name, larger, field="training.teacher", required={})
    sizes = model.folder / CONFIG_NAME
    theirs = model_config(read_object(sizes), where=str(sizes))
    if theirs.image_channels != wanted.image_channels:
        raise UserError(
            f"training.teacher {name!r}: it reads pictures of {theirs.image_channels} channels, and data.channels has "
            f"{wanted.image_channels} ({' '.join(config.data.channel_names)}); name a teacher for such pictures"
        )
    flags = []
    if len(theirs.channels) != len(wanted.channels):
        flags.append(f"--model.channels {' '.join([str(wanted.channels[0])] * len(theirs.channels))}")
    if theirs.latent_channels != wanted.latent_channels:
        flags.append(f"--model.latent-channels {theirs.latent_channels}")
    if flags:
        raise UserError(
            f"training.teacher {name!r}: a latent cell of {theirs.latent_channels} numbers for "
            f"{theirs.downsampling_factor} pixels, and section model has {wanted.latent_channels} for "
            f"{wanted.downsampling_factor}; set {' '.join(flags)}"
        )
    return model


def _refuse_other_padding(model: ResolvedModel, config: Config) -> None:
    """Refuse starting weights that pad otherwise than section `model`, unless they pad by zeros and all are trained.

    Raises:
        UserError: the weights were trained with another padding than zeros, or the encoder would change untrained.
    """
    name, wanted = config.training.start, config.model.padding
    sizes = model.folder / CONFIG_NAME
    theirs = model_config(read_object(sizes), where=str(sizes)).padding
    if theirs == wanted:
        return
    if theirs != "zeros":
        raise UserError(
            f"training.start {name!r}: its convolutions pad by {theirs}, and model.padding is {wanted}; set "
            f"model.padding {theirs}"
        )
    if config.training.trainable == "decoder":
        raise UserError(
            f"model.padding {wanted}: it changes the encoder's latents too, and training.trainable is decoder; set "
            f"training.trainable all"
        )


def model_to_export(workspace: Workspace, name: str, config: Config) -> ResolvedModel:
    """Return the model of a name, whole and of the sizes in section `model` that are not the defaults.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its sizes differ; nothing was written.
        DamagedFileError: a file of a version or a finished run does not have its recorded hash.
    """
    return _resolve_whole(workspace, name, config, field="export", required=stated_sizes(config.model))


def model_to_import(workspace: Workspace, name: str, config: Config) -> ResolvedModel:
    """Return the published model of a name, a path or a hub id, to register it.

    Args:
        workspace: the state folder and its store.
        name: a path that `read_published` takes, or `hub:` and what `fetch_weights` takes.
        config: what a file does not state (`model.norm_groups`, `data.image_size`); and the sizes that it must have if
            they are not the defaults.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its sizes differ; nothing was written.
    """
    if is_registered_name(name):
        raise UserError(f"import {name!r}: a model of this project already; name a file, a folder or {HUB}ORG/NAME")
    path = published_path(name, field="import")
    required, size = stated_sizes(config.model), config.data.image_size
    return _resolve_published(workspace, name, path, config, required=required, image_size=size)


def model_to_register(workspace: Workspace, name: str, config: Config) -> ResolvedModel:
    """Return the model of a name to register it: a run's snapshot, or published weights.

    Raises:
        UserError: there is no such model, or it is a version already.
    """
    if name.isdecimal() or name in {CHAMPION, PREVIOUS}:
        raise UserError(f"register {name!r}: a version already; name run:<id>[@step or @best], a folder or a file")
    if named := RUN_MODEL.fullmatch(_run_of(workspace, name) or name):
        run = run_folder(workspace.home, named[1])
        return ResolvedModel(name, run.snapshot(named[2]), run=run)
    return model_to_import(workspace, name, config)


def number_of(workspace: Workspace, name: str, config: Config) -> int:
    """Return the number of the candidate that a name stands for.

    Args:
        workspace: the state folder and its store.
        name: what `resolve` takes.
        config: `registry.model_name` has the candidates.

    Raises:
        UserError: there is no such model, or it is not a version.
    """
    model_name = config.registry.model_name
    if name.isdecimal():
        return int(name)
    if name in {CHAMPION, PREVIOUS}:
        of_model, number = candidate_of(versions.get_by_alias(workspace.client, PRODUCTION_NAME, name))
        if of_model != model_name:
            raise UserError(f"{name}: version {number} of {of_model!r}; add --registry.model-name {of_model}")
        return number
    digest = resolve(workspace, name, config).digest
    for version in versions.list_versions(workspace.client, model_name):
        if version.tags.get(SNAPSHOT_TAG) == digest:
            return version.version
    raise UserError(f"model {name!r}: no version of {model_name!r}; `pikavae register {name}` makes it one")


def config_of_model(workspace: Workspace, name: str, model_name: str = RegistryConfig().model_name) -> Config:
    """Return the configuration that made a model, from its snapshot; the defaults for weights of another maker.

    Args:
        workspace: the state folder and its store.
        name: what `resolve` takes.
        model_name: the registered model whose versions are the candidates.
    """
    if is_registered_name(name):
        return config_of_snapshot(_resolve_registered(workspace, name, model_name).folder)
    path = path_of(name)
    return Config() if path is None else config_of_snapshot(path)


def config_of_snapshot(folder: Path) -> Config:
    """Return the configuration that made a snapshot; the defaults if the folder has none."""
    settings = folder / RUN_CONFIG_NAME
    return load_config(settings) if settings.is_file() else Config()


def _resolve_registered(workspace: Workspace, name: str, model_name: str) -> ResolvedModel:
    """Return the model of a version, of `champion` or `previous`, or of `run:<id>[@step or @best]`.

    Raises:
        UserError: there is no such model; the message lists the available ones.
    """
    if named := RUN_MODEL.fullmatch(name):
        run = run_folder(workspace.home, named[1])
        return ResolvedModel(name, run.snapshot(named[2]), run=run)
    client = workspace.client
    if name in {CHAMPION, PREVIOUS}:
        version = versions.get_by_alias(client, PRODUCTION_NAME, name)
    else:
        version = versions.get_version(client, model_name, int(name))
    return of_version(workspace, version, name)


def of_version(workspace: Workspace, version: Version, name: str | None = None) -> ResolvedModel:
    """Return the model of a version, under its number or another name. Files on a server are copied here.

    Raises:
        DamagedFileError: it is in production, keys are trusted, and none of them vouches for its files.
    """
    folder = versions.snapshot_folder_of(workspace.client, version, workspace.home / "downloads")
    if version.name == PRODUCTION_NAME:
        refuse_unsigned(workspace, version, folder)
    return ResolvedModel(name or str(version.version), folder, version=version)


def _resolve_published(
    workspace: Workspace,
    name: str,
    path: Path,
    config: Config,
    *,
    required: Mapping[str, Any] | None = None,
    image_size: int = DEFAULT_IMAGE_SIZE,
) -> ResolvedModel:
    """Return the model of weights at a path, converted if they are no snapshot."""
    groups = config.model.norm_groups
    made = convert(workspace, path, norm_groups=groups, image_size=image_size, required=required)
    source = name if name.startswith(HUB) else str(path)
    return ResolvedModel(name, made.folder, source=source, form=made.form, notes=made.notes)


def _resolve_whole(
    workspace: Workspace, name: str, config: Config, *, field: str, required: Mapping[str, Any]
) -> ResolvedModel:
    """Return the model of a name after checking that it is whole.

    Args:
        workspace: the state folder and its store.
        name: what `resolve` takes.
        config: `registry.model_name` has the versions; `model.norm_groups` is used if a file does not state it.
        field: the dotted name of the setting, for messages.
        required: the sizes that it must have, fields of section `model` by name.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its sizes differ; nothing was written.
        DamagedFileError: a file of a version or a finished run does not have its recorded hash.
    """
    if not is_registered_name(name):
        return _resolve_published(workspace, name, published_path(name, field=field), config, required=required)
    try:
        model = _resolve_registered(workspace, name, config.registry.model_name)
        convert(workspace, model.folder, required=required)
    except OtherSizesError as error:
        raise OtherSizesError(f"{field} {name!r}: {error}", error.sizes) from None
    except UserError as error:
        raise UserError(f"{field} {name!r}: {error}") from None
    if not is_whole(model.folder, _recorded_hashes(model)):
        raise DamagedFileError(
            f"{field} {name!r}: {model.folder} holds other bytes than were recorded; restore it, or name another model"
        )
    return model


def _recorded_hashes(model: ResolvedModel) -> Mapping[str, str]:
    """Return the SHA-256 of each file of a snapshot, as recorded when its run ended or its version was registered.

    Snapshots of a run's earlier steps have none.
    """
    if model.run is not None:
        result = model.run.result
        return result.snapshot_sha256 if result and result.snapshot == model.folder.name else {}
    inside, manifest = f"{SNAPSHOT_FOLDER}/", {} if model.version is None else model.version.manifest
    return {file.removeprefix(inside): digest for file, digest in manifest.items() if file.startswith(inside)}


def _run_of(workspace: Workspace, name: str) -> str | None:
    """Return `run:<id>@<step>` for the path of a snapshot in a run folder of this home; None for other paths."""
    path = expand_user(name, "model").resolve()
    if path.parent.name != "snapshots" or path.parents[2] != workspace.home / "runs" or not path.is_dir():
        return None
    return f"run:{path.parents[1].name}@{runs.step_of(path)}"
