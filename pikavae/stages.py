"""What each stage consumes, the key that follows from it, and why a result can or cannot be used again.

A stage's inputs are a flat mapping of names that a person understands to values that JSON can hold. Its key is their
hash. A result is stored with its inputs, so that a miss can name the input that changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pikavae.config import Config, content_hash
from pikavae.versions import code_version

Inputs = Mapping[str, Any]

STAGES = ("prepare", "train", "evaluate", "register")

START = "starting weights"

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
        "processes",
        "restarts",
        "gradient_checkpointing",
        "compile",
    )
)
"""Fields that decide where and how a run computes and how often it writes, but not what comes out, but for rounding.

What `training.start` names is an input by its content."""


@dataclass(frozen=True)
class Plan:
    """What would happen to a stage.

    Attributes:
        status: `hit` (its result is used again), `resume` (it was begun and goes on) or `miss` (it runs).
        reason: why, in one line.
    """

    status: Literal["hit", "resume", "miss"]
    reason: str


def train_inputs(config: Config, fingerprint: str, threads: int, start: str | None = None) -> dict[str, Any]:
    """What training consumes: the prepared set, the settings that decide the weights, the code, and first weights.

    Args:
        config: the whole configuration.
        fingerprint: of the prepared set.
        threads: CPU threads that it will use.
        start: the digest of the starting weights; an input only when they are given.
    """
    sections = ("model.", "loss.", "optimizer.", "training.")
    fields = {name: value for name, value in config.flat().items() if name.startswith(sections)}
    return {
        **{name: value for name, value in fields.items() if name not in NOT_IN_KEYS},
        "data.flip": config.data.flip,
        "training.threads": threads,
        "prepared set": fingerprint,
        "code of pikavae/model": code_version("model"),
        "code of pikavae/training": code_version("training"),
        "code of pikavae/features": code_version("features", without="inception"),
        **({START: start} if start else {}),
    }


def evaluate_inputs(config: Config, *, run_id: str | None, model: str, evaluation_set: str) -> dict[str, Any]:
    """What an evaluation consumes: the model's bytes, the frozen pictures, the settings, the code, and the weights.

    Raises:
        UserError: a file of weights that the configuration names is not there.
    """
    return {
        **_evaluation_settings(config),
        "run": run_id,
        "model": model,
        "evaluation set": evaluation_set,
        "code of pikavae/model": code_version("model"),
        "code of pikavae/evaluation": code_version("evaluation"),
        "code of pikavae/features": code_version("features"),
    }


def _evaluation_settings(config: Config) -> dict[str, Any]:
    """The fields of `evaluation`. For files of weights stand what they hold, so that weights that came are noticed."""
    from pikavae.features.weights import OF_EVALUATION, digest_of

    fields = {name: value for name, value in config.flat().items() if name.startswith("evaluation.")}
    files = {name: weights.find(fields[name], name) for name, weights in OF_EVALUATION.items()}
    return fields | {name: digest_of(path) if path else None for name, path in files.items()}


def register_inputs(config: Config, *, run_id: str, model: str, report: str) -> dict[str, Any]:
    """What a registration consumes: the model's bytes, its report, the settings and the code."""
    return {
        **{name: value for name, value in config.flat().items() if name.startswith("registry.")},
        "run": run_id,
        "model": model,
        "report": report,
        "code of pikavae/model": code_version("model"),
        "code of pikavae/registry": code_version("registry"),
    }


def key_of(inputs: Inputs) -> str:
    """The stage's key: 16 hexadecimal digits."""
    return content_hash(inputs)


def why_miss(inputs: Inputs, earlier: Iterable[Inputs]) -> str:
    """What sets `inputs` apart from the earlier ones that come nearest, by name."""
    nearest = min((differences(inputs, old) for old in earlier), key=len, default=None)
    if nearest is None:
        return "nothing of the kind was done before"
    return "; ".join(nearest[:4]) + (f"; and {len(nearest) - 4} more" if len(nearest) > 4 else "")


def differences(new: Inputs, old: Inputs) -> list[str]:
    """One phrase for each input that differs."""
    phrases = []
    for name in sorted({*new, *old}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            phrases.append(f"{name}: {_mapping_difference(before, after)}")
        elif name.startswith("code of "):
            phrases.append(f"{name} changed")
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
    """Which work of the whole pipeline is the same: the training's inputs, the later stages' settings and code.

    Raises:
        UserError: a file of weights that the configuration names is not there.
    """
    registry = {name: value for name, value in config.flat().items() if name.startswith("registry.")}
    code = {f"code of pikavae/{package}": code_version(package) for package in ("evaluation", "registry")}
    return key_of({**train, **_evaluation_settings(config), **registry, **code})
