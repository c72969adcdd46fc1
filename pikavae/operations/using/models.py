"""Measure, register, list and show models."""

from __future__ import annotations

from dataclasses import replace

from pikavae.config import Config
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import UserError
from pikavae.operations.resolving.names import is_registered_name
from pikavae.operations.resolving.resolve import ResolvedModel, config_of_model, model_to_register
from pikavae.operations.running.pipeline import evaluate, prepare, register, report_on
from pikavae.operations.stages import keys
from pikavae.operations.stages.describing import report_tags, version_metrics
from pikavae.operations.stages.results import Evaluated, Prepared, Registered, Trained
from pikavae.operations.stages.runtime import use_threads
from pikavae.operations.using.exchange import NOT_MEASURED, import_model
from pikavae.production.changes import promote
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION, IMPORT_TAG, PREVIOUS
from pikavae.workspace import runs


def evaluate_model(workspace: Workspace, model: ResolvedModel, config: Config) -> Evaluated:
    """Measure any model on the validation pictures of the configured data, or reuse an earlier evaluation.

    An imported version without scores gets these scores.
    """
    use_threads(config)
    return evaluate_on(workspace, prepare(workspace, config), model, config)


def evaluate_on(workspace: Workspace, prepared: Prepared, model: ResolvedModel, config: Config) -> Evaluated:
    """Do what `evaluate_model` does, on data that are prepared already."""
    if version := _import_without_scores(workspace, model, config):
        return _score_import(workspace, version, prepared, config)
    return find_or_measure(workspace, prepared.prepared_set.validation, model, config)


def find_or_measure(workspace: Workspace, picture_set: PictureSet, model: ResolvedModel, config: Config) -> Evaluated:
    """Measure a model on these pictures, or reuse an earlier evaluation."""
    inputs = keys.evaluate_inputs(config, run_id=None, model=model.digest, evaluation_set=picture_set.digest)
    return report_on(workspace, config, picture_set, model.folder, inputs)


def register_model(workspace: Workspace, model: ResolvedModel, config: Config) -> Registered:
    """Register a model as a candidate version, with a report of its own on the configured data.

    Args:
        workspace: the state folder and its store.
        model: from `model_to_register`. Published weights become a version with a run of its own.
        config: where it goes and what it is measured on; for a run's snapshot, the configuration that made it.

    Raises:
        UserError: the model's run is not finished.
    """
    if model.run is None:
        imported = import_model(workspace, model, config)
        if imported.version.metrics:
            return imported
        use_threads(config)
        _score_import(workspace, imported.version, prepare(workspace, config), config)
        made = versions.get_version(workspace.client, imported.version.name, imported.version.version)
        return replace(imported, version=made)
    result = model.run.result
    if result is None:
        raise UserError(f"register {model.name!r}: the run is not finished; the command that started it resumes it")
    trained = Trained(model.run, result, model.folder, reused=True)
    use_threads(config)
    prepared = prepare(workspace, config)
    return register(workspace, config, prepared, trained, evaluate(workspace, config, prepared, trained))


def find_or_register(workspace: Workspace, name: str, config: Config) -> Version:
    """Return the candidate that a name stands for, to promote it; a run's snapshot or weights are registered first.

    Args:
        workspace: the state folder and its store.
        name: a version number, or what `model_to_register` takes.
        config: the registered model, and the data that published weights are measured on.

    Raises:
        UserError: there is no such model, or it is in production already.
    """
    if name == CHAMPION:
        raise UserError("promote 'champion': it is in production already; name a version, or run:<id>[@step or @best]")
    if name == PREVIOUS:
        raise UserError("promote 'previous': `pikavae rollback --reason TEXT` makes it the champion again")
    if name.isdecimal():
        return versions.get_version(workspace.client, config.registry.model_name, int(name))
    if is_registered_name(name):
        # A run's model is registered with a report on its own pictures, whichever pictures it is compared on.
        own = config_of_model(workspace, name, config.registry.model_name)
        config = own.model_copy(update={"registry": config.registry, "training": config.training})
    return register_model(workspace, model_to_register(workspace, name, config), config).version


def _import_without_scores(workspace: Workspace, model: ResolvedModel, config: Config) -> Version | None:
    """Return the imported version of this number or run, if it was never measured."""
    name, found = config.registry.model_name, list[Version]()
    if model.run is not None:
        found = [one for one in versions.list_versions(workspace.client, name) if one.run_id == model.run.run_id]
    elif model.version is not None and model.version.name == name:
        found = [model.version]
    return next((version for version in found if IMPORT_TAG in version.tags and not version.metrics), None)


def _score_import(workspace: Workspace, version: Version, prepared: Prepared, config: Config) -> Evaluated:
    """Measure an imported version on prepared data, and add the scores to its run and the version."""
    run = runs.run_folder(workspace.home, version.run_id)
    evaluated = evaluate(workspace, config, prepared, Trained(run, run.result, run.snapshot(), reused=True))
    description = workspace.client.get_model_version(version.name, str(version.version)).description or ""
    versions.add_scores(
        workspace.client,
        version,
        step=0,
        metrics=version_metrics(evaluated.report),
        tags=report_tags(evaluated, prepared),
        description=f"{evaluated.report.summary_markdown()}\n\n{description.replace(NOT_MEASURED, '').strip()}",
    )
    return evaluated


def list_models(workspace: Workspace, config: Config) -> list[Version]:
    """Return the registered candidates, the newest first; their aliases include their roles in production."""
    client, name = workspace.client, config.registry.model_name
    roles = promote.roles(client, name)
    return [
        replace(version, aliases=(*version.aliases, *roles.get(version.version, ())))
        for version in versions.list_versions(client, name)
    ]
