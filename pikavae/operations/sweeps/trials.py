"""Keep the trials of a sweep in a study of Optuna: which are next, how they are, and whether one is worth going on.

A trial that a killed process left is begun again under its number: its training resumes from its last checkpoint.
Values follow from the seed, the trial's number and the trials before it, so a sweep that is resumed tries what one
without a break would try.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pikavae.errors import UserError
from pikavae.operations.stages.keys import differences
from pikavae.operations.sweeps.objective import Objective
from pikavae.operations.sweeps.space import Choices, Range, Space
from pikavae.operations.sweeps.storage import is_shared, open_storage, shown_url, translating
from pikavae.process.marks import ended_here, mark_here
from pikavae.workspace.records import Inputs

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

PRUNE_AFTER_TRIALS = 4
"""How many trials must have ended before one is compared with them during its training."""
PRUNE_AFTER_SHARE = 0.25
"""The share of its training that a trial is given before it is compared."""
TRIES = 40
"""How often new values are drawn until they are ones that were not tried."""
TRIES_BY_MODEL = 3
"""How many of these are drawn by the model of what is good; the others by chance."""

State = Literal["complete", "pruned", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Entry:
    """Holds one trial, as it was when it was looked up.

    Attributes:
        number: its number in the study, from 1.
        state: `waiting` if its process ended before it did: the same command continues it.
        values: what it tries, by the fields' dotted names.
        score: the metric of its report, for a metric with a best number the distance from it; None without one.
        scores: the validation scores during its training, by step.
        reason: why it was pruned or failed; empty otherwise.
        run_id: its MLflow run; empty if it has none.
        report: the folder of its report below `evaluations/`; empty if it has none.
        seconds: how long it took, over all attempts.
        is_reused: True if the training was there before.
        where: the machine that is at it.
    """

    number: int
    state: State
    values: Mapping[str, Any]
    score: float | None = None
    scores: Mapping[int, float] | None = None
    reason: str = ""
    run_id: str = ""
    report: str = ""
    seconds: float = 0.0
    is_reused: bool = False
    where: str = ""


class Trial:
    """Represents a trial that this process is at."""

    def __init__(self, study: Trials, trial: OptunaTrial, values: Mapping[str, Any]) -> None:
        self.number, self.values = trial.number + 1, values
        self._study, self._trial = study, trial
        self._reported = {*study.frozen(trial.number).intermediate_values}

    @property
    def seconds(self) -> float:
        """Return how long earlier attempts took."""
        return float(self._trial.user_attrs.get("seconds", 0.0))

    def note(self, **facts: Any) -> None:
        """Record facts of `Entry` about the trial."""
        with self._study.translating():
            for name, value in facts.items():
                self._trial.set_user_attr(name, value)

    def report(self, score: float, step: int, *, total_steps: int) -> bool:
        """Record a validation score during the training, and return True if others at this step make it pointless."""
        import optuna

        with self._study.translating():
            if step in self._reported:
                return False
            self._reported.add(step)
            self._trial.report(score, step)
            warm_up = max(1, int(PRUNE_AFTER_SHARE * total_steps))
            self._trial.study.pruner = optuna.pruners.MedianPruner(PRUNE_AFTER_TRIALS, warm_up)
            return self._trial.should_prune()

    def complete(self, score: float) -> None:
        """Record that the trial ended with a score."""
        self._tell("COMPLETE", score)

    def prune(self, reason: str) -> None:
        """Record that the trial was stopped because others are better."""
        self.note(reason=reason)
        self._tell("PRUNED")

    def fail(self, reason: str) -> None:
        """Record that the trial's combination does not work."""
        self.note(reason=reason)
        self._tell("FAIL")

    def _tell(self, state: str, score: float | None = None) -> None:
        from optuna.trial import TrialState

        with self._study.translating():
            self._trial.study.tell(self._trial, score, state=TrialState[state])


class Trials:
    """Represents the study of a sweep. The caller holds the sweep's lock in this home.

    Args:
        home: the state folder.
        name: the sweep's name.
        inputs: the sweep's inputs, from `keys.sweep_inputs`.
        space: what is tried.
        objective: what trials are ranked by.
        seed: of the choice of values.

    Raises:
        UserError: there is a sweep of this name with other inputs.
        PikavaeError: as `open_storage`.
    """

    def __init__(self, home: Path, name: str, inputs: Inputs, *, space: Space, objective: Objective, seed: int) -> None:
        import optuna

        self.home, self.name, self._space, self._seed, self._objective = home, name, space, seed, objective
        storage = open_storage(home)
        with self.translating():
            self._study: Study = optuna.create_study(
                storage=storage, study_name=name, direction=objective.direction, load_if_exists=True
            )
            if (earlier := self._study.user_attrs.get("inputs")) is None:
                self._study.set_user_attr("inputs", dict(inputs))
        if earlier is not None and (changed := differences(inputs, earlier)):
            more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise UserError(
                f"sweep {name!r}: it is another sweep ({'; '.join(changed[:3])}{more}); give this one another --name"
            )

    def translating(self) -> AbstractContextManager[None]:
        """Raise what the database refuses as an error in one line, during a `with` block."""
        return translating(self.home)

    def frozen(self, number: int) -> FrozenTrial:
        """Return a trial as the study has it now."""
        return next(trial for trial in self._trials() if trial.number == number)

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def entries(self, *, stopped: bool = False) -> list[Entry]:
        """Return all trials, by number, without those that were tried again; `stopped` if this process is at none."""
        with self.translating():
            trials = self._trials()
        retried = {trial.user_attrs.get("retry_of") for trial in trials}
        shown = [trial for trial in trials if trial.number not in retried and "void" not in trial.user_attrs]
        return [self._entry(trial, stopped=stopped) for trial in shown]

    def next(self, *, is_grid: bool) -> Trial | None:
        """Begin the next trial: one that was cut off, one that waits, or one with new values; None if there is none."""
        with self.translating():
            if (lost := next((trial for trial in self._trials() if self._is_lost(trial)), None)) is not None:
                return self._begin(lost)
            while True:
                if not self._is_any_waiting():
                    values = self._next_combination() if is_grid else self._draw()
                    if values is None:
                        return None
                    self._study.enqueue_trial(self._stored(values), skip_if_exists=True)
                if (begun := self._begin(None)) is not None:
                    return begun

    def retry_failed(self) -> int:
        """Let the trials that failed be tried again, as new trials; return how many."""
        with self.translating():
            failed = [entry for entry in self.entries() if entry.state == "failed"]
            for entry in failed:
                self._study.enqueue_trial(self._stored(entry.values), user_attrs={"retry_of": entry.number - 1})
            return len(failed)

    def _begin(self, lost: FrozenTrial | None) -> Trial | None:
        """Begin a trial that was cut off, or the first that waits; None if another process took it."""
        import optuna

        self._study.sampler = optuna.samplers.RandomSampler(seed=0)  # all values are fixed
        trial = self._study.ask() if lost is None else optuna.trial.Trial(self._study, lost._trial_id)
        fixed = self.frozen(trial.number).system_attrs.get("fixed_params")
        if not fixed or self._is_double(trial.number):
            trial.set_user_attr("void", True)
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return None
        for field in fixed:
            _suggest(trial, field, self._space.dimensions[field])
        trial.set_user_attr("owner", mark_here())
        trial.set_user_attr("home", str(self.home))
        return Trial(self, trial, self._values_of(self.frozen(trial.number)))

    def _stored(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {field: _stored(value, self._space.dimensions[field]) for field, value in values.items()}

    def _is_any_waiting(self) -> bool:
        return any(trial.state.name == "WAITING" for trial in self._trials())

    def _is_lost(self, trial: FrozenTrial) -> bool:
        """Return True if the process that was at a trial has ended."""
        if trial.state.name != "RUNNING":
            return False
        if not is_shared():  # this process holds the sweep's lock
            return True
        owner, home = trial.user_attrs.get("owner", ""), trial.user_attrs.get("home")
        return home == str(self.home) and ended_here(owner)

    def _is_double(self, number: int) -> bool:
        """Return True if two machines chose the same values at the same time, and this trial is the later one."""
        trials = {trial.number: trial for trial in self._trials()}
        if "retry_of" in trials[number].user_attrs:
            return False
        values = self._values_of(trials[number])
        return any(other < number and self._values_of(trial) == values for other, trial in trials.items())

    def _tried(self) -> list[dict[str, Any]]:
        return [self._values_of(trial) for trial in self._trials()]

    def _next_combination(self) -> dict[str, Any] | None:
        tried = self._tried()
        return next((values for values in self._space.combinations() if values not in tried), None)

    def _draw(self) -> dict[str, Any] | None:
        """Draw values that were not tried, from the seed and the trials so far; None if there seem to be none."""
        import optuna

        trials, tried = self._trials(), self._tried()
        ended = [trial for trial in trials if trial.state.is_finished() or trial.state.name == "RUNNING"]
        for attempt in range(TRIES):
            seed = _seed_of(self._seed, len(trials), attempt)
            by_model = attempt < TRIES_BY_MODEL
            sampler = optuna.samplers.TPESampler(seed=seed) if by_model else optuna.samplers.RandomSampler(seed=seed)
            copy = optuna.create_study(direction=self._objective.direction, sampler=sampler)
            copy.add_trials([trial for trial in ended if set(trial.params) == set(self._space.dimensions)])
            asked = copy.ask({field: _distribution(one) for field, one in self._space.dimensions.items()})
            values = {field: self._loaded(field, asked.params[field]) for field in self._space.dimensions}
            if values not in tried:
                return values
        return None

    def _values_of(self, trial: FrozenTrial) -> dict[str, Any]:
        stored = trial.system_attrs.get("fixed_params") or trial.params
        return {field: self._loaded(field, stored[field]) for field in self._space.dimensions if field in stored}

    def _loaded(self, field: str, stored: Any) -> Any:
        one = self._space.dimensions[field]
        if isinstance(one, Choices):
            return json.loads(stored) if _are_texts(one) else stored
        return int(stored) if one.is_whole else float(stored)

    def _entry(self, trial: FrozenTrial, *, stopped: bool) -> Entry:
        facts, state = trial.user_attrs, trial.state.name
        states: dict[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "WAITING": "waiting"}
        owner = facts.get("owner", "")
        is_lost = state == "RUNNING" and (not owner or ended_here(owner) or (stopped and owner == mark_here()))
        return Entry(
            number=trial.number + 1,
            state="waiting" if is_lost else states.get(state, "running"),
            values=self._values_of(trial),
            score=trial.value if state == "COMPLETE" else None,
            scores=dict(trial.intermediate_values),
            where=owner.partition(" ")[0],
            **{name: facts[name] for name in ("reason", "run_id", "report", "seconds", "is_reused") if name in facts},
        )

    def __str__(self) -> str:
        return f"{self.name} in {shown_url(self.home)}"


def _distribution(one: Choices | Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(one, Choices):
        return CategoricalDistribution([_stored(value, one) for value in one.values])
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.is_log, step=int(one.step or 1))
    return FloatDistribution(one.low, one.high, log=one.is_log, step=one.step)


def _suggest(trial: OptunaTrial, field: str, one: Choices | Range) -> None:
    """Give a trial the value of a field that it was enqueued with."""
    if isinstance(one, Choices):
        trial.suggest_categorical(field, [_stored(value, one) for value in one.values])
    elif one.is_whole:
        trial.suggest_int(field, int(one.low), int(one.high), log=one.is_log, step=int(one.step or 1))
    else:
        trial.suggest_float(field, one.low, one.high, log=one.is_log, step=one.step)


def _stored(value: Any, one: Choices | Range) -> Any:
    """Return a value as the study holds it: lists, which Optuna has none of, make texts of all of a field's choices."""
    return json.dumps(value) if isinstance(one, Choices) and _are_texts(one) else value


def _are_texts(one: Choices) -> bool:
    return any(isinstance(value, list) for value in one.values)


def _seed_of(*parts: int) -> int:
    """Return a seed that follows from several numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4])
