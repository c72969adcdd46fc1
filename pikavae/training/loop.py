"""Train an autoencoder. To resume, run the same command: it continues from the folder's newest whole checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from pikavae.config import Cadence, Config
from pikavae.data.prepared.dataset import PreparedSet
from pikavae.errors import PreemptedError
from pikavae.training.cadence import Moment, Pace, is_due
from pikavae.training.observer import Observer
from pikavae.training.optimizers import total_steps
from pikavae.training.precision import resolve_precision
from pikavae.training.processes import ALONE, Processes
from pikavae.training.saving import Saver, best_step, drop_old_snapshots
from pikavae.training.state import TrainState, restore_latest, step_name
from pikavae.training.step import Stepper
from pikavae.training.teacher import Teacher
from pikavae.training.validation import Validation
from pikavae.workspace.run_record import TeacherRecord


@dataclass(frozen=True)
class TrainResult:
    """Describes a finished run.

    Attributes:
        snapshot: folder of the last step's weights.
        start_step: where this attempt began; 0 unless it resumed.
        steps: optimizer steps of the whole run.
        images_seen: pictures of the whole run.
        images_per_second: training throughput of this attempt, over its whole time.
        best_step: the step of the best validation score among the checkpoints.
    """

    snapshot: Path
    start_step: int
    steps: int
    images_seen: int
    images_per_second: float
    best_step: int


def train(
    config: Config,
    prepared: PreparedSet,
    folder: Path,
    device: torch.device,
    observer: Observer | None = None,
    *,
    start: Path | None = None,
    teacher: TeacherRecord | None = None,
    processes: Processes = ALONE,
    should_stop: Callable[[], bool] = lambda: False,
    beside: bool | None = None,
) -> TrainResult:
    """Train to the configured end, from the newest checkpoint in `folder` if there is one.

    Args:
        config: the whole configuration.
        prepared: the prepared data set.
        folder: holds `checkpoints/` and `snapshots/`; the caller holds its lock.
        device: where to compute.
        observer: receives every point, preview and checkpoint.
        start: a snapshot folder with the first weights, instead of new ones.
        teacher: the autoencoder whose latents a tiny one learns.
        processes: the processes that train together; each calls this with the same arguments, and one of them writes.
        should_stop: called after every step; if it returns True, the state is saved and training ends.
        beside: write in a thread beside the next steps; by default if the device is not the CPU, whose time it takes.

    Raises:
        NonFiniteLossError: a loss or gradient was NaN or infinite; the step was not taken.
        PreemptedError: training was told to stop; nothing is lost.
        UserError: the processes cannot share a batch evenly.
    """
    observer = observer if observer and processes.is_main else Observer()
    config, taught_by = resolve_precision(config, device), None if teacher is None else Teacher(teacher, device)
    state = TrainState.fresh(config, device, start)
    restore_latest(state, folder / "checkpoints", processes)
    total, num_images = total_steps(config, len(prepared.train)), len(prepared.train)
    start_step, start_images, attempt = state.step, state.images_seen, Stopwatch(state.seconds)
    observer.on_start(start_step)
    if processes.is_main:
        drop_old_snapshots(state.scores, config, folder, observer)  # if a kill interrupted it
    validation = Validation(prepared.validation, config, device, processes, teacher=taught_by)
    if start_step == 0 and processes.is_main:
        observer.preview(validation.preview(state.averaged), 0)

    stepper, pace = Stepper(state, config, device, processes, teacher=taught_by), Pace()
    pace.look(state.seconds, state.images_seen)
    last = is_finished(state, config, total)
    with (
        stepper.open_loader(prepared.train) as loader,
        Saver(config, folder, observer, device, beside=beside) as saver,
    ):
        while not last:
            saver.check()
            before = moment_of(state, num_images)
            stepper.step(loader, schedule_of(state, config, total))
            state.seconds, stopping = agree(processes, attempt.seconds(), should_stop())
            pace.look(state.seconds, state.images_seen)
            stepper.compiler.after_step(total - state.step, state.seconds)
            last = is_finished(state, config, total)
            due = partial(is_due, before=before, now=moment_of(state, num_images))
            # Reading refuses steps that are not finite, so it comes before anything is written
            read = last or stopping or any(map(due, cadences(config)))
            observer.on_step(state, stepper.last_loss(read=read), progress_of(state, config, total))

            # Points of the curves
            if last or due(config.training.log_every):
                observer.log({**stepper.read(), **speed_of(state, pace)}, state.step)

            # Pictures and scores; the last step is measured and saved like every other
            keep = last or due(config.training.checkpoint_every)
            scores, pictures = validation.look(
                state.averaged,
                measure=keep or due(config.training.validate_every),
                show=processes.is_main and (last or due(config.training.preview_every)),
            )
            if pictures is not None:
                saver.preview(pictures, state.step)
            if scores:
                observer.log(scores, state.step)
                state.seconds, stopping = agree(processes, attempt.seconds(), stopping or should_stop())
            if keep:
                state.scores[state.step] = scores[f"val/{config.evaluation.primary_metric}"]
                last = last or is_out_of_patience(state, config)
                if processes.is_main:
                    saver.save(state, scores)

            # Told to stop: save everything up to this step
            if stopping and not last:
                if processes.is_main and not keep:
                    saver.save_state(state)
                saver.wait()
                processes.wait()
                raise PreemptedError(f"stopped at step {state.step} of {total}; run the same command to resume there")
    processes.wait()  # until the last checkpoint is written

    chosen = best_step(state.scores) if config.training.patience else state.step
    return TrainResult(
        snapshot=folder / "snapshots" / step_name(chosen),
        start_step=start_step,
        steps=state.step,
        images_seen=state.images_seen,
        images_per_second=(state.images_seen - start_images) / max(state.seconds - attempt.before, 1e-9),
        best_step=best_step(state.scores),
    )


@dataclass
class Stopwatch:
    """Counts seconds of training, from before this attempt and since it began."""

    before: float
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()

    def seconds(self) -> float:
        """Return the seconds of all attempts."""
        return self.before + self.clock() - self._began


def progress_of(state: TrainState, config: Config, total: int) -> float:
    """Return the share of the run that is done, in [0, 1]: by steps or by minutes, whichever is nearer to its end."""
    minutes = config.training.minutes
    by_time = state.seconds / (60.0 * minutes) if minutes else 0.0
    return min(1.0, max(state.step / total, by_time))


def schedule_of(state: TrainState, config: Config, total: int) -> float:
    """Return how far rates and phases are, in [0, 1]: by `optimizer.schedule_steps` if set, else the share done."""
    steps = config.optimizer.schedule_steps
    return min(1.0, state.step / steps) if steps else progress_of(state, config, total)


def is_finished(state: TrainState, config: Config, total: int) -> bool:
    """Return True if all steps are taken, the minutes are used up (after at least one step) or patience has run out."""
    return (state.step > 0 and progress_of(state, config, total) >= 1.0) or is_out_of_patience(state, config)


def is_out_of_patience(state: TrainState, config: Config) -> bool:
    """Return True if the last `training.patience` checkpoints were no better than one before them."""
    patience = config.training.patience
    return patience is not None and sum(step > best_step(state.scores) for step in state.scores) >= patience


def moment_of(state: TrainState, num_images: int) -> Moment:
    """Return how far the run is."""
    return Moment(state.step, state.images_seen / num_images, state.seconds)


def speed_of(state: TrainState, pace: Pace) -> dict[str, float]:
    """Return the points that say how fast the run is, and how far."""
    return {"train/images_per_second": pace.per_second, "train/images_seen": state.images_seen}


def cadences(config: Config) -> tuple[Cadence, ...]:
    """Return how often something is written: points, previews, scores and checkpoints."""
    training = config.training
    return training.log_every, training.preview_every, training.validate_every, training.checkpoint_every


def agree(processes: Processes, seconds: float, stop: bool) -> tuple[float, bool]:
    """Agree between processes on the seconds of training and on stopping: one that is told to stop stops all."""
    longest, stopping = processes.largest([seconds, float(stop)])
    return longest, stopping > 0
