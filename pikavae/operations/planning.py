"""What `run` would do at each stage, and which input decides it. Nothing is written."""

from __future__ import annotations

from pathlib import Path

from pikavae import runs, stages
from pikavae.config import Config
from pikavae.data.dataset import PreparedSet
from pikavae.data.prepare import find_prepared, fingerprint_of, prepare_inputs
from pikavae.home import home
from pikavae.operations.imported import starting_weights
from pikavae.operations.pipeline import use_threads
from pikavae.operations.results import (
    Trained,
    evaluated_inputs,
    find_evaluated,
    find_trained,
    find_unfinished,
    prepared_inputs,
    registered_inputs,
)
from pikavae.registry import versions
from pikavae.stages import Plan
from pikavae.tracking import connect


def plan(config: Config, *, start: Path | None = None) -> dict[str, Plan]:
    """The four stages by name, each with what would happen to it and why.

    Args:
        config: the whole configuration.
        start: a snapshot folder with the first weights of the training, instead of those that `training.start` names.
    """
    root = home() / "prepared"
    inputs = prepare_inputs(config.data, root)
    fingerprint = fingerprint_of(config.data, inputs, root)
    pictures = find_prepared(fingerprint, root)
    if pictures is None:
        prepare = Plan("miss", stages.why_miss(inputs, prepared_inputs()))
    else:
        prepare = Plan("hit", f"prepared set {fingerprint}")
    train, trained = _plan_train(config, fingerprint, start)
    if pictures is None or trained is None:
        follows = Plan("miss", f"follows {'train' if trained is None else 'prepare'}")
        return {"prepare": prepare, "train": train, "evaluate": follows, "register": follows}
    return {"prepare": prepare, "train": train, **_plan_evaluate_and_register(config, pictures, trained)}


def _plan_train(config: Config, fingerprint: str, start: Path | None) -> tuple[Plan, Trained | None]:
    start = start or starting_weights(config)
    digest = runs.snapshot_digest(start) if start else None
    inputs = stages.train_inputs(config, fingerprint, use_threads(config), digest)
    key = stages.key_of(inputs)
    if trained := find_trained(key):
        return Plan("hit", f"run {trained.run.run_id}"), trained
    if begun := find_unfinished(key):
        return Plan("resume", f"run {begun.run_id} was begun and is not finished"), None
    earlier = (run.record["inputs"] for run in runs.run_folders(home()))
    return Plan("miss", stages.why_miss(inputs, (old for old in earlier if "imported" not in old))), None


def _plan_evaluate_and_register(config: Config, pictures: PreparedSet, trained: Trained) -> dict[str, Plan]:
    digest, run_id = runs.snapshot_digest(trained.snapshot), trained.run.run_id
    evaluation_set = pictures.validation.digest
    inputs = stages.evaluate_inputs(config, run_id=run_id, model=digest, evaluation_set=evaluation_set)
    evaluated = find_evaluated(stages.key_of(inputs))
    if evaluated is None:
        evaluate = Plan("miss", stages.why_miss(inputs, evaluated_inputs()))
        return {"evaluate": evaluate, "register": Plan("miss", "follows evaluate")}
    evaluate = Plan("hit", f"report {evaluated.folder.name}")
    inputs = stages.register_inputs(config, run_id=run_id, model=digest, report=evaluated.folder.name)
    if version := versions.find_version(connect(home()), config.registry.model_name, stages.key_of(inputs)):
        return {"evaluate": evaluate, "register": Plan("hit", f"{version.name} version {version.version}")}
    return {"evaluate": evaluate, "register": Plan("miss", stages.why_miss(inputs, registered_inputs()))}
