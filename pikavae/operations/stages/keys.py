"""Compute the inputs and the key of each stage, and explain why a result can or cannot be reused.

A stage's inputs are a flat mapping of readable names to JSON values. Its key is their hash. A result is stored with its
inputs, so the reason why a stage runs can name the input that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pikavae.config import Config, content_hash
from pikavae.workspace.provenance import code_of
from pikavae.workspace.records import Inputs

STAGES = ("prepare", "train", "evaluate", "register")

START = "starting weights"
TEACHER = "teacher"
TEACHERS_SCALING = "scaling of the teacher's latents"
SCHEDULE_STEPS = "optimizer.schedule_steps"
CODE_OF_FOLDER = "code of pikavae/"
"""The prefix of code's names in inputs of an earlier version, which hashed code by folders. They cannot show what
changed since."""

START_FIELD = "training.start"
"""The field that names the starting weights, whose content is an input in its place."""

NOT_IN_KEYS = frozenset(
    f"training.{name}"
    for name in (
        "device",
        "log_every",
        "preview_every",
        "preview_images",
        "validate_every",
        "checkpoint_every",
        "keep_checkpoints",
        "resident",
        "start",
        "teacher",
        "processes",
        "restarts",
        "threads",
        "activations",
        "compile",
    )
)
"""Fields that set where and how a run computes and how often it writes, and change its result by rounding at most.

`training.start` and `training.teacher` are among them because the content that they name is an input."""


LATER_FIELDS: dict[str, Any] = {
    "model.kind": "kl",
    "loss.latent_weight": 1.0,
    "model.padding": "zeros",
    "model.image_channels": 3,
    "model.latent_norm": False,
    "model.mid_block_norm": False,
    "model.decoder_channels": None,
    "training.grow_latents": False,
    "evaluation.whole_pictures": 4,
}
"""Fields that are inputs of a stage only if they differ from these, so that keys from before them remain."""


@dataclass(frozen=True)
class Plan:
    """Holds what would happen to a stage.

    Attributes:
        status: `done` (its result is reused), `resumes` (a training that was cut short), `extends` (a shorter training
            that is finished) or `runs`.
        reason: why, in one line.
    """

    status: Literal["done", "resumes", "extends", "runs"]
    reason: str


def train_inputs(config: Config, fingerprint: str, start: str | None = None, teacher: Inputs | None = None) -> Inputs:
    """Return the inputs of training: the prepared set, the settings that decide the weights, the code, first weights.

    Args:
        config: the whole configuration, with the precision that `auto` stands for.
        fingerprint: the fingerprint of the prepared set.
        start: the digest of the starting weights; an input only if it is given.
        teacher: the inputs that name the teacher and the scaling of its latents, if there is one.
    """
    sections = ("model.", "loss.", "optimizer.", "training.")
    fields = {name: value for name, value in config.flat().items() if name.startswith(sections)}
    if not _is_schedule_declared(config):
        del fields[SCHEDULE_STEPS]
    return {
        **{name: value for name, value in _without_later(fields).items() if name not in NOT_IN_KEYS},
        "data.flip": config.data.flip,
        "prepared set": fingerprint,
        "code of the training": code_of("training"),
        **({START: start} if start else {}),
        **(teacher or {}),
    }


def _without_later(fields: Inputs) -> dict[str, Any]:
    """Return the fields without those of `LATER_FIELDS` that have their default."""
    return {name: value for name, value in fields.items() if name not in LATER_FIELDS or value != LATER_FIELDS[name]}


def _is_schedule_declared(config: Config) -> bool:
    """Return True if `optimizer.schedule_steps` affects the result: a share counts from it, and it is not the end."""
    training, steps = config.training, config.optimizer.schedule_steps
    is_the_end = training.epochs is None and training.minutes is None and steps == training.steps
    return steps is not None and bool(config.shares()) and not is_the_end


def evaluate_inputs(config: Config, *, run_id: str | None, model: str, evaluation_set: str) -> Inputs:
    """Return the inputs of an evaluation: the model's bytes, the frozen pictures, the settings, the code, the weights.

    Raises:
        UserError: a file of weights that the configuration names does not exist.
    """
    return {
        **_evaluation_settings(config),
        "run": run_id,
        "model": model,
        "evaluation set": evaluation_set,
        "code of the evaluation": code_of("evaluation"),
    }


def _evaluation_settings(config: Config) -> Inputs:
    """Return the fields of `evaluation`; files of weights are replaced by digests, so new weights change the key."""
    from pikavae.features.published import OF_EVALUATION, digest_of

    fields = _without_later({name: value for name, value in config.flat().items() if name.startswith("evaluation.")})
    files = {name: weights.find(fields[name], name) for name, weights in OF_EVALUATION.items()}
    return fields | {name: digest_of(path) if path else None for name, path in files.items()}


def register_inputs(config: Config, *, run_id: str, model: str, report: str) -> Inputs:
    """Return the inputs of a registration: the model's bytes, its report, the settings and the code."""
    return {
        **{name: value for name, value in config.flat().items() if name.startswith("registry.")},
        "run": run_id,
        "model": model,
        "report": report,
        "code of the registration": code_of("registration"),
    }


def sweep_inputs(
    config: Config,
    fingerprint: str,
    start: str | None,
    teacher: Inputs | None,
    *,
    space: Mapping[str, Any],
    metric: str,
    seed: int,
) -> Inputs:
    """Return the inputs of a sweep: what its trials have in common, the values to try, the metric and the seed.

    Args:
        config: the whole configuration, with the precision that `auto` stands for.
        fingerprint: the fingerprint of the prepared set.
        start: the digest of the starting weights, if all trials have the same.
        teacher: the inputs that name the teacher, if all trials have the same.
        space: of each field that is swept, by its dotted name, the values to try.
        metric: what trials are ranked by.
        seed: of the choice of values.

    Raises:
        UserError: a file of weights that the configuration names does not exist.
    """
    trained = train_inputs(config, fingerprint, start, teacher)
    common = {name: value for name, value in trained.items() if name not in space}
    return {
        **common,
        **_evaluation_settings(config),
        "code of the evaluation": code_of("evaluation"),
        **{f"sweep of {name}": values for name, values in space.items()},
        "metric": metric,
        "sweep's seed": seed,
    }


def key_of(inputs: Inputs) -> str:
    """Return the stage's key: 16 hexadecimal digits."""
    return content_hash(inputs)


def why_it_runs(inputs: Inputs, earlier: Iterable[Inputs]) -> str:
    """Return how `inputs` differ from the most similar earlier ones, by name."""
    nearest = min((differences(inputs, old) for old in earlier), key=len, default=None)
    if nearest is None:
        return "nothing of the kind was done before"
    return "; ".join(nearest[:4]) + (f"; and {len(nearest) - 4} more" if len(nearest) > 4 else "")


def differences(new: Inputs, old: Inputs) -> list[str]:
    """Return one phrase for each input that differs, and one for all code that an earlier version hashed by folders."""
    phrases = []
    for name in sorted({*new, *old}):
        before, after = old.get(name), new.get(name)
        if before == after or name.startswith(CODE_OF_FOLDER):
            continue
        if name.startswith("code of ") and not (before and after):
            phrases.append(f"{name}: an earlier version of pikavae")
        elif isinstance(before, Mapping | None) and isinstance(after, Mapping | None):
            if before or after:
                phrases.append(f"{name}: {_mapping_difference(before or {}, after or {})}")
        else:
            phrases.append(f"{name}: {before!r} -> {after!r}")
    return phrases


def _mapping_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    parts = []
    for verb, names in (
        ("added", sorted(after.keys() - before.keys())),
        ("removed", sorted(before.keys() - after.keys())),
        ("changed", sorted(name for name in after.keys() & before.keys() if before[name] != after[name])),
    ):
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            parts.append(f"{len(names)} {verb} ({listed})")
    return ", ".join(parts)


def run_key(config: Config, train: Inputs) -> str:
    """Return the key of the whole pipeline: the training's inputs, and the later stages' settings and code.

    Raises:
        UserError: a file of weights that the configuration names does not exist.
    """
    registry = {name: value for name, value in config.flat().items() if name.startswith("registry.")}
    code = {"code of the evaluation": code_of("evaluation"), "code of the registration": code_of("registration")}
    return key_of({**train, **_evaluation_settings(config), **registry, **code})
