"""Report what `run` or a retraining would do at each stage, and which input decides it. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass

from pikavae.config import Config
from pikavae.data.prepare import find_prepared, fingerprint_of, prepare_inputs
from pikavae.data.prepared.dataset import PreparedSet
from pikavae.operations.resolving.resolve import ResolvedModel, of_version, starting_weights
from pikavae.operations.resolving.teaching import teacher_of
from pikavae.operations.stages import keys
from pikavae.operations.stages.extending import Extension, find_extension
from pikavae.operations.stages.keys import Plan
from pikavae.operations.stages.results import (
    Trained,
    evaluated_inputs,
    find_evaluated,
    find_trained,
    find_unfinished,
    prepared_inputs,
    registered_inputs,
    registration_path,
)
from pikavae.operations.stages.runtime import for_this_machine
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.registry import versions
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION, RUN_TAG
from pikavae.workspace import runs
from pikavae.workspace.runs import RunFolder


def plan(workspace: Workspace, config: Config, *, start: ResolvedModel | None) -> dict[str, Plan]:
    """Return the four stages by name, each with what would happen to it and why.

    Args:
        workspace: the state folder and its store.
        config: the whole configuration.
        start: the first weights of the training; None for new ones.
    """
    root = workspace.home / "prepared"
    inputs = prepare_inputs(config.data, root)
    fingerprint = fingerprint_of(config.data, inputs, root)
    prepared_set = find_prepared(fingerprint, root)
    if prepared_set is None:
        prepare = Plan("runs", keys.why_it_runs(inputs, prepared_inputs(workspace)))
    else:
        prepare = Plan("done", f"prepared set {fingerprint}")
    train, trained = _plan_train(
        workspace, config, fingerprint, start, None if prepared_set is None else len(prepared_set.train)
    )
    if prepared_set is None or trained is None:
        follows = Plan("runs", f"follows {'train' if trained is None else 'prepare'}")
        return {"prepare": prepare, "train": train, "evaluate": follows, "register": follows}
    return {"prepare": prepare, "train": train, **_plan_evaluate_and_register(workspace, config, prepared_set, trained)}


def _plan_train(
    workspace: Workspace, config: Config, fingerprint: str, start: ResolvedModel | None, num_images: int | None
) -> tuple[Plan, Trained | None]:
    config = for_this_machine(config)
    digest = start.digest if start else None
    teacher = teacher_of(workspace, config)
    inputs = keys.train_inputs(config, fingerprint, digest, teacher.inputs if teacher else None)
    key = keys.key_of(inputs)
    if trained := find_trained(workspace, key):
        return Plan("done", f"run {trained.run.run_id}"), trained
    if begun := find_unfinished(workspace, key):
        why = f"was pruned by a sweep ({begun.pruned.reason})" if begun.pruned else "was begun and is not finished"
        return Plan("resumes", f"run {begun.run_id} {why}"), None
    extension = None if num_images is None else find_extension(workspace, config, inputs, num_images)
    if isinstance(extension, Extension):
        return Plan("extends", extension.reason), None
    earlier = (run.record.inputs for run in runs.run_folders(workspace.home))
    why = keys.why_it_runs(inputs, (old for old in earlier if "imported" not in old))
    return Plan("runs", f"{why}; {extension}" if extension else why), None


def _plan_evaluate_and_register(
    workspace: Workspace, config: Config, prepared_set: PreparedSet, trained: Trained
) -> dict[str, Plan]:
    digest, run_id = runs.snapshot_digest(trained.snapshot), trained.run.run_id
    evaluation_set = prepared_set.validation.digest
    inputs = keys.evaluate_inputs(config, run_id=run_id, model=digest, evaluation_set=evaluation_set)
    evaluated = find_evaluated(workspace, keys.key_of(inputs))
    if evaluated is None:
        evaluate = Plan("runs", keys.why_it_runs(inputs, evaluated_inputs(workspace)))
        return {"evaluate": evaluate, "register": Plan("runs", "follows evaluate")}
    evaluate = Plan("done", f"report {evaluated.folder.name}")
    inputs = keys.register_inputs(config, run_id=run_id, model=digest, report=evaluated.folder.name)
    key = keys.key_of(inputs)
    if version := versions.find_version(workspace.client, config.registry.model_name, key):
        name = f"{version.name} version {version.version}"
        if registration_path(trained.run, key).is_file():
            return {"evaluate": evaluate, "register": Plan("done", name)}
        return {"evaluate": evaluate, "register": Plan("runs", f"{name} was registered and its record is missing")}
    return {"evaluate": evaluate, "register": Plan("runs", keys.why_it_runs(inputs, registered_inputs(workspace)))}


@dataclass(frozen=True)
class Retraining:
    """Holds what a retraining would do.

    Attributes:
        plans: the plans of the four stages by name.
        start: the weights that training begins with; None for new ones.
    """

    plans: dict[str, Plan]
    start: ResolvedModel | None = None

    @property
    def has_news(self) -> bool:
        """Return True if any stage has something to do."""
        return any(stage.status != "done" for stage in self.plans.values())


def plan_retraining(workspace: Workspace, config: Config, *, from_champion: bool = False) -> Retraining:
    """Plan a retraining, which has nothing to do if the same was trained before.

    With `from_champion`, it also has nothing to do if the champion itself was trained on these data with this
    configuration, whatever its first weights. Otherwise each promotion would cause another training.

    Raises:
        UserError: the source cannot be read, or there is no champion to begin with.
    """
    if not from_champion:
        start = starting_weights(workspace, config)
        return Retraining(plan(workspace, config, start=start), start)
    champion = versions.get_by_alias(workspace.client, PRODUCTION_NAME, CHAMPION)
    start = of_version(workspace, champion, CHAMPION)
    if run := _run_of(workspace, champion.tags.get(RUN_TAG, "")):
        root = workspace.home / "prepared"
        fingerprint = fingerprint_of(config.data, prepare_inputs(config.data, root), root)
        teacher = teacher_of(workspace, config)
        taught_by = teacher.inputs if teacher else None
        inputs = keys.train_inputs(for_this_machine(config), fingerprint, teacher=taught_by)
        earlier = {name: value for name, value in run.record.inputs.items() if name != keys.START}
        if earlier == inputs:
            return Retraining(dict.fromkeys(keys.STAGES, Plan("done", f"the champion's own run {run.run_id}")), start)
    return Retraining(plan(workspace, config, start=start), start)


def _run_of(workspace: Workspace, run_id: str) -> RunFolder | None:
    return next((run for run in runs.run_folders(workspace.home) if run.run_id == run_id), None)
