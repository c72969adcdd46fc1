"""Run a sweep: train and measure one combination of settings after the other, each as an ordinary run.

Nothing is registered or promoted. To resume, run the same command: finished trials are kept, and one that was cut off
continues.
"""

from __future__ import annotations

import gc
import json
import logging
import re
import time
from pathlib import Path

import torch

from pikavae.errors import NonFiniteLossError, PikavaeError, PrunedError, UserError
from pikavae.operations.resolving.resolve import ResolvedModel, starting_weights
from pikavae.operations.resolving.teaching import teacher_of
from pikavae.operations.running.pipeline import evaluate, prepare, refuse_what_cannot_begin, train
from pikavae.operations.stages import keys
from pikavae.operations.stages.results import Prepared
from pikavae.operations.stages.runtime import choose_device, for_this_machine, recording
from pikavae.operations.sweeps.objective import Objective, objective_of
from pikavae.operations.sweeps.page import About, best_of, ranked, state_text, sweep_page, value_text
from pikavae.operations.sweeps.plan import Plan, Swept, check_plan, command_of, with_values
from pikavae.operations.sweeps.pruning import Pruner
from pikavae.operations.sweeps.trials import Trial, Trials
from pikavae.process.stopping import ignore_stops
from pikavae.tracker.client import Workspace
from pikavae.tracker.labels import Labels
from pikavae.tracker.queries import query_runs
from pikavae.tracker.run_log import RunLog, tag_run
from pikavae.tracker.tags import PARENT_TAG, SWEEP_KEY_TAG, SWEEP_TAG, TRIAL_TAG
from pikavae.training.memory import out_of_memory_advice
from pikavae.training.optimizers import total_steps
from pikavae.workspace.files import exclusive, write_atomically

logger = logging.getLogger(__name__)

FOLDER = "sweeps"
PAGE_NAME = "sweep.html"
RECORD_NAME = "sweep.json"
NAME_LENGTH = 200
START_FIELDS = ("training.start", "training.trainable", "loss.perceptual_weight")
"""Fields that decide whether a training can begin at all."""


def sweep(workspace: Workspace, plan: Plan) -> Swept:
    """Run the trials that are left, one after the other, and write the sweep's page after each.

    Raises:
        UserError: the metric, the name or the pictures cannot be used, or the name is another sweep's.
        BusyError: another process of this home runs the sweep.
        PikavaeError: no trial has a score; or as training and evaluation, if that is no matter of the combination.
    """
    check_plan(plan)
    objective = objective_of(plan.metric or plan.config.evaluation.primary_metric, plan.config)
    config = for_this_machine(plan.config)
    choose_device(config)
    prepared = prepare(workspace, config)
    start = None if "training.start" in plan.space else starting_weights(workspace, config)
    if not any(field in plan.space for field in START_FIELDS):
        refuse_what_cannot_begin(config, start)
    teacher = None if "training.teacher" in plan.space else teacher_of(workspace, config)
    inputs = keys.sweep_inputs(
        config,
        prepared.prepared_set.fingerprint,
        start.digest if start else None,
        teacher.inputs if teacher else None,
        space=plan.space.content(),
        metric=objective.metric.name,
        seed=plan.seed,
    )
    key = keys.key_of(inputs)
    name = plan.name or f"{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(plan.preset).stem).lstrip('._-') or 'sweep'}-{key[:8]}"
    folder = workspace.home / FOLDER / name
    busy = f"sweep {name!r}: another process of this state folder runs it; wait for its end, or stop it"
    with exclusive(folder / "sweep.lock", busy=busy):
        trials = Trials(workspace.home, name, inputs, space=plan.space, objective=objective, seed=plan.seed)
        log = _open_parent(workspace, plan, name, key, objective)
        running = _Running(workspace, plan, prepared, start, objective, trials, log, folder)
        with recording(workspace, log):
            done = running.run()
    if done.best is None and done.is_done:
        reasons = [one.reason for one in done.entries if one.reason] or ["it has no trial"]
        error = PikavaeError(f"sweep {name!r}: no trial has a score: {reasons[0]}; the page is {done.page}")
        error.result = done.summary()
        raise error
    return done


def _open_parent(workspace: Workspace, plan: Plan, name: str, key: str, objective: Objective) -> RunLog:
    """Return the sweep's own run, above those of its trials: the one that it has, or a new one."""
    client, experiment = workspace.client, workspace.experiment_id(plan.config.tracking.experiment)
    found = query_runs(client, experiment, {SWEEP_KEY_TAG: key, SWEEP_TAG: name})
    if found:
        return RunLog.resume(client, found[-1].run_id)
    params = {f"sweep.{field}": what for field, what in plan.space.content().items()}
    about = {"sweep.metric": objective.metric.name, "sweep.direction": objective.direction, "sweep.seed": plan.seed}
    log = RunLog.start(
        client,
        experiment,
        f"sweep {name}",
        tags={SWEEP_TAG: name, SWEEP_KEY_TAG: key},
        params={**params, **about, "data.source": plan.config.data.source},
    )
    log.log_text(plan.config.to_yaml(), "config.yaml")
    return log


class _Running:
    """Runs the trials of a sweep, and keeps its page and its MLflow run up to date."""

    def __init__(
        self,
        workspace: Workspace,
        plan: Plan,
        prepared: Prepared,
        start: ResolvedModel | None,
        objective: Objective,
        trials: Trials,
        log: RunLog,
        folder: Path,
    ) -> None:
        self._workspace, self._plan, self._prepared, self._start = workspace, plan, prepared, start
        self._objective, self._trials, self._log, self._folder = objective, trials, log, folder
        self._is_exhausted = False
        config, pictures = plan.config, prepared.prepared_set
        self._about = About(
            name=trials.name,
            space=plan.space,
            objective=objective,
            source=config.data.source,
            image_size=config.data.image_size,
            num_images=len(pictures.validation),
            is_grid=plan.is_grid,
            budget=plan.budget,
            prunes=plan.prune and objective.curve is not None,
            seed=plan.seed,
        )

    def run(self) -> Swept:
        """Run what is left, and return the sweep."""
        if self._plan.prune and self._objective.curve is None:
            logger.info("%s is not measured during training, so no trial is pruned", self._objective.metric.name)
        if self._plan.retry_failed and (again := self._trials.retry_failed()):
            logger.info("%d failed trials are tried again", again)
        began = time.monotonic()
        try:
            while not self._is_over(began):
                if (trial := self._trials.next(is_grid=self._plan.is_grid)) is None:
                    self._is_exhausted = True
                    break
                self._run_trial(trial)
                self._write()
        except BaseException:
            with ignore_stops():
                self._write(stopped=True)
            raise
        return self._write()

    def _is_over(self, began: float) -> bool:
        """Return True if no trial may be begun: all are, or the time is over."""
        minutes = self._plan.minutes
        if minutes is not None and time.monotonic() - began >= 60 * minutes:
            logger.info("--minutes %g are over; the same command continues", minutes)
            return True
        return sum(one.state != "waiting" for one in self._trials.entries(stopped=True)) >= self._plan.budget

    def _run_trial(self, trial: Trial) -> None:
        """Train and measure a combination, and record how it ended.

        Raises:
            PikavaeError: it ended for a reason that the next trial would meet too, such as a full disk.
        """
        settings = ", ".join(f"{field} {value_text(value)}" for field, value in trial.values.items())
        ended = sum(one.state not in {"waiting", "running"} for one in self._trials.entries())
        logger.info("trial %d (%d of %d ended): %s", trial.number, ended, self._plan.budget, settings)
        began = time.monotonic()
        try:
            try:
                score = self._score(trial, settings)
            finally:
                _free_device_memory()
                trial.note(seconds=round(trial.seconds + time.monotonic() - began, 1))
            trial.complete(score)
            self._tell(trial, score)
        except PrunedError as error:
            trial.prune(str(error))
            logger.info("trial %d: pruned", trial.number)
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._fail(trial, out_of_memory_advice(self._plan.config, error))
        except PikavaeError as error:
            if not isinstance(error, UserError | NonFiniteLossError) and type(error) is not PikavaeError:
                raise
            self._fail(trial, str(error))

    def _score(self, trial: Trial, settings: str) -> float:
        """Train and measure a combination, or find that it was.

        Raises:
            PrunedError: others are better.
            UserError: these settings do not go together, or the report has no score.
            PikavaeError: as training and evaluation.
        """
        plan, workspace = self._plan, self._workspace
        config = with_values(plan.config, trial.values)
        start = starting_weights(workspace, config) if "training.start" in plan.space else self._start
        if any(field in plan.space for field in START_FIELDS):
            refuse_what_cannot_begin(config, start)
        tags = {PARENT_TAG: self._log.run_id, SWEEP_TAG: self._trials.name, TRIAL_TAG: str(trial.number)}
        total = total_steps(config, len(self._prepared.prepared_set.train))
        pruner = Pruner(trial, self._objective, total, prunes=self._about.prunes)
        trained = train(
            workspace,
            config,
            self._prepared,
            start=start,
            links=tags,
            labels=Labels(preset=plan.preset),
            default_name=f"{self._trials.name} · trial {trial.number}: {settings}"[:NAME_LENGTH],
            stop_rule=pruner,
        )
        pruner.look(trained.run.path)  # at the last scores, or at those of a training that was there before
        trial.note(run_id=trained.run.run_id, is_reused=trained.reused)
        if trained.reused:
            tag_run(workspace.client, trained.run.run_id, tags, unless=PARENT_TAG)
        evaluated = evaluate(workspace, config, self._prepared, trained)
        trial.note(report=evaluated.folder.name)
        if (score := self._objective.score(evaluated.report)) is None:
            raise UserError(f"it has no {self._objective.metric.name}: {self._objective.reason(evaluated.report)}")
        return score

    def _tell(self, trial: Trial, score: float) -> None:
        """Report a trial's score, in the log and in the sweep's MLflow run."""
        metric = self._objective.metric
        best = best_of(self._trials.entries(), self._objective)
        assert best is not None
        assert best.score is not None
        is_best = best.number == trial.number
        beside = "the best so far" if is_best else f"the best has {metric.text(best.score)}"
        logger.info("trial %d: %s, %s", trial.number, metric.text(score), beside)
        points = {f"sweep/{metric.name}": score, f"sweep/best_{metric.name}": best.score}
        self._log.log(points, trial.number, again=True)

    def _fail(self, trial: Trial, reason: str) -> None:
        logger.warning("trial %d: failed: %s", trial.number, reason)
        trial.fail(reason)

    def _write(self, *, stopped: bool = False) -> Swept:
        """Write page and record, here and in the sweep's MLflow run."""
        entries = self._trials.entries(stopped=stopped)
        best = best_of(entries, self._objective)
        command = None if best is None else command_of(self._plan, best.values)
        done = Swept(
            name=self._trials.name,
            objective=self._objective,
            entries=ranked(entries, self._objective),
            best=best,
            command=command,
            page=self._folder / PAGE_NAME,
            run_id=self._log.run_id,
            is_done=all(one.state not in {"waiting", "running"} for one in entries)
            and (self._is_exhausted or len(entries) >= self._plan.budget),
        )
        write_atomically(done.page, sweep_page(self._about, entries, command))
        record = json.dumps(done.summary(), indent=2, ensure_ascii=False) + "\n"
        write_atomically(self._folder / RECORD_NAME, record)
        if self._workspace.answers():
            for name in (PAGE_NAME, RECORD_NAME):
                self._log.log_file(self._folder / name)
            self._log.set_note(_note_of(done))
            self._log.flush()
        return done


def _free_device_memory() -> None:
    """Return what an evaluation used to the device: the next training is another process."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing, where no GPU was used


def _note_of(done: Swept) -> str:
    """Return the Markdown at the head of the sweep's MLflow run."""
    fields = list(done.entries[0].values) if done.entries else []
    lines = [
        f"Sweep `{done.name}`, ranked by {done.objective.title}. The page with parallel coordinates is the artifact "
        f"`{PAGE_NAME}`.",
        "",
        f"| trial | {' | '.join(fields)} | {done.objective.title} | state |",
        f"| ---: | {' | '.join('---:' for _ in fields)} | ---: | --- |",
    ]
    for one in done.entries[:50]:
        values = [value_text(one.values.get(field)) for field in fields]
        state = state_text(one, done.objective).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {one.number} | {' | '.join(values)} | {done.objective.metric.format(one.score)} | {state} |")
    return "\n".join([*lines, *(["", f"The best: `{done.command}`"] if done.command else [])])
