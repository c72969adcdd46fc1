"""Describe what a sweep is asked to do, and what it has when its command ends."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.operations.sweeps.objective import Objective
from pikavae.operations.sweeps.space import Space
from pikavae.operations.sweeps.trials import Entry
from pikavae.presets import load_config, parse_config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
TRIALS = 30
"""How many trials a sweep has by default."""


@dataclass(frozen=True)
class Plan:
    """Describes a sweep.

    Attributes:
        config: the settings that all trials have.
        space: what is tried.
        preset: the preset that the configuration began with, by name or path.
        trials: how many trials the sweep has in all.
        minutes: no trial is begun after this time.
        metric: what trials are ranked by; by default `evaluation.primary_metric`.
        name: the sweep's name; by default one that follows from the preset and from all that decides the sweep.
        seed: of the choice of values, if not all combinations are tried.
        prune: stop a trial whose validation scores are worse than the others'.
        retry_failed: try again what failed.
    """

    config: Config
    space: Space
    preset: str
    trials: int = TRIALS
    minutes: float | None = None
    metric: str | None = None
    name: str = ""
    seed: int = 0
    prune: bool = True
    retry_failed: bool = False

    @property
    def is_grid(self) -> bool:
        """Return True if every combination is tried: all fields have lists, and the trials suffice."""
        number = self.space.num_combinations
        return number is not None and number <= self.trials

    @property
    def budget(self) -> int:
        """Return how many trials there are in all."""
        return self.space.num_combinations or 0 if self.is_grid else self.trials


@dataclass(frozen=True)
class Swept:
    """Holds a sweep as it is when its command ends.

    Attributes:
        name: its name.
        objective: what trials are ranked by.
        entries: its trials, the best first.
        best: the best trial; None if none has a score.
        command: what runs the best trial's settings, and registers them.
        page: the page.
        run_id: its own run in MLflow, above those of its trials.
        is_done: True if no trial is left.
    """

    name: str
    objective: Objective
    entries: list[Entry]
    best: Entry | None
    command: str | None
    page: Path
    run_id: str
    is_done: bool

    def summary(self) -> dict[str, Any]:
        """Return the keys of `pikavae sweep --json`."""
        return {
            "name": self.name,
            "metric": self.objective.metric.name,
            "direction": self.objective.direction,
            "done": self.is_done,
            "run_id": self.run_id,
            "page": str(self.page),
            "best": None if self.best is None else _content_of(self.best),
            "command": self.command,
            "trials": [_content_of(one) for one in self.entries],
        }


def check_plan(plan: Plan) -> None:
    """Check what a plan states, before anything is done.

    Raises:
        UserError: a number is out of its bounds, or the name cannot be one of a folder.
    """
    if plan.trials < 1:
        raise UserError(f"--trials {plan.trials}: give 1 or more")
    if plan.minutes is not None and not 0 < plan.minutes < math.inf:
        raise UserError(f"--minutes {plan.minutes:g}: give a number above 0, or leave the flag out")
    if plan.name and not NAME.fullmatch(plan.name):
        raise UserError(f"--name {plan.name!r}: use letters, digits, and . _ - after the first, 100 at most")


def command_of(plan: Plan, values: Mapping[str, Any]) -> str:
    """Return the command line that runs a combination's settings."""
    base, wanted = load_config(plan.preset).flat(), with_values(plan.config, values).flat()
    words = ["pikavae", "run", plan.preset]
    for field, value in wanted.items():
        if value != base[field]:
            words += _words_of(f"--{field.replace('_', '-')}", value)
    return shlex.join(words)


def _words_of(flag: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [flag, *map(str, value)]
    text = value if isinstance(value, str) else json.dumps(value)
    return [f"{flag}={text}"] if text.startswith("-") or not text else [flag, "none" if value is None else text]


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the configuration of a combination.

    Raises:
        UserError: these settings do not go together.
    """
    return parse_config(config.model_dump(mode="json"), where="these settings", overrides=values)


def _content_of(one: Entry) -> dict[str, Any]:
    """Return a trial with JSON's types; a score that is not finite is null."""
    content = asdict(one)
    content["scores"] = {str(s): v if math.isfinite(v) else None for s, v in (one.scores or {}).items()}
    return content
