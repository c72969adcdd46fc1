"""The training loop. To resume, run the same command: it goes on from the newest whole checkpoint in its folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.data.dataset import PictureSet, PreparedSet
from pikavae.errors import PreemptedError
from pikavae.evaluation.metrics import psnr, ssim
from pikavae.files import folder_atomically, remove_folder
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.training.cadence import Moment, is_due
from pikavae.training.optimizers import total_steps
from pikavae.training.processes import ALONE, Processes
from pikavae.training.state import TrainState, restore_latest, step_name
from pikavae.training.step import Stepper


class Observer:
    """Whom the loop tells what it does. This one does nothing; derive from it to listen."""

    def started(self, step: int) -> None:
        """Training goes on from `step`."""

    def stepped(self, state: TrainState, loss: float, progress: float) -> None:
        """A step was taken; `progress` is the share of the run that is done, in [0, 1]."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """A point of the curves `train/...` or `val/...`."""

    def preview(self, reconstructions: Tensor, step: int) -> None:
        """The fixed validation pictures, reconstructed: (N, 3, H, W) float32 in about [-1, 1], on the CPU."""

    def kept(self, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint is being written, with these validation scores; its snapshot is there."""

    def dropped(self, step: int) -> None:
        """The checkpoint of `step` is being pruned."""

    def saving(self) -> None:
        """A state to resume from is about to be written: what was told so far will not be told again."""


@dataclass(frozen=True)
class TrainResult:
    """What a finished run left.

    Attributes:
        snapshot: folder of the last step's weights.
        start_step: where this attempt began; 0 unless it resumed.
        steps: optimizer steps of the whole run.
        images_seen: pictures of the whole run.
        images_per_second: training throughput of this attempt, everything counted.
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
    processes: Processes = ALONE,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> TrainResult:
    """Train to the configured end, or go on from the newest checkpoint in `folder`.

    Args:
        config: the whole configuration.
        prepared: the prepared data set.
        folder: `checkpoints/` and `snapshots/` are kept in it; the caller holds its lock.
        device: where to compute.
        observer: told of every point, preview and checkpoint.
        start: a snapshot folder with the first weights, instead of new ones.
        processes: who trains together; each calls this with the same arguments, and one of them writes.
        told_to_stop: asked after every step; once it says so the state is saved and training ends.

    Raises:
        NonFiniteLossError: a loss or gradient was NaN or infinite; the step was not taken.
        PreemptedError: it was told to stop; nothing is lost.
        UserError: the processes cannot share a batch evenly.
    """
    observer = observer if observer and processes.is_main else Observer()
    state = TrainState.fresh(config, device, start)
    restore_latest(state, folder / "checkpoints", processes)
    total, num_images = total_steps(config, len(prepared.train)), len(prepared.train)
    start_step, start_images, attempt = state.step, state.images_seen, Stopwatch(state.seconds)
    observer.started(start_step)
    if processes.is_main:
        prune(state, config, folder, observer)  # what a kill left undone
    if start_step == 0 and processes.is_main:
        observer.preview(preview_pictures(state, prepared.validation, config, device), 0)

    stepper = Stepper(state, config, device, processes)
    last = is_finished(state, config, total)
    with stepper.open_loader(prepared.train) as loader:
        while not last:
            before = moment_of(state, num_images)
            metrics = stepper.step(loader, progress_of(state, config, total))
            state.seconds, stopping = agreed(processes, attempt.seconds(), told_to_stop(), device)
            observer.stepped(state, metrics["train/loss"], progress_of(state, config, total))
            last = is_finished(state, config, total)
            due = partial(is_due, before=before, now=moment_of(state, num_images))

            # Points of the curves
            if last or due(config.training.log_every):
                rate = (state.images_seen - start_images) / (state.seconds - attempt.before)
                observer.log(
                    {**metrics, "train/images_per_second": rate, "train/images_seen": state.images_seen}, state.step
                )

            # Pictures
            if (last or due(config.training.preview_every)) and processes.is_main:
                observer.preview(preview_pictures(state, prepared.validation, config, device), state.step)

            # Scores, and what is kept; the last step is measured and saved as every other
            keep = last or due(config.training.checkpoint_every)
            if keep or due(config.training.validate_every):
                scores = validate(state.averaged, prepared.validation, config, device, processes)
                observer.log(scores, state.step)
                state.seconds, stopping = agreed(processes, attempt.seconds(), stopping or told_to_stop(), device)
                if keep:
                    state.scores[state.step] = scores[f"val/{config.evaluation.primary_metric}"]
                    last = last or is_out_of_patience(state, config)
                    if processes.is_main:
                        save(state, config, folder, scores, observer)

            # Told to stop: everything up to this step is kept
            if stopping and not last:
                if processes.is_main and not keep:
                    observer.saving()
                    save_state(state, config, folder)
                processes.wait()
                raise PreemptedError(f"stopped at step {state.step} of {total}; the same command goes on from there")
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
    """Seconds of training: those before this attempt and those since it began."""

    before: float
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._began = self.clock()

    def seconds(self) -> float:
        """Seconds in all."""
        return self.before + self.clock() - self._began


def progress_of(state: TrainState, config: Config, total: int) -> float:
    """How much of the run is done, in [0, 1]: by steps or by minutes, whichever is nearer to its end."""
    minutes = config.training.minutes
    by_time = state.seconds / (60.0 * minutes) if minutes else 0.0
    return min(1.0, max(state.step / total, by_time))


def is_finished(state: TrainState, config: Config, total: int) -> bool:
    """Whether all steps are taken, the minutes are used up (after one step at least) or patience is at its end."""
    return (state.step > 0 and progress_of(state, config, total) >= 1.0) or is_out_of_patience(state, config)


def is_out_of_patience(state: TrainState, config: Config) -> bool:
    """Whether the last `training.patience` checkpoints were no better than one before them."""
    patience = config.training.patience
    return patience is not None and sum(step > best_step(state.scores) for step in state.scores) >= patience


def moment_of(state: TrainState, num_images: int) -> Moment:
    """Where the run stands."""
    return Moment(state.step, state.images_seen / num_images, state.seconds)


def agreed(processes: Processes, seconds: float, stop: bool, device: torch.device) -> tuple[float, bool]:
    """Seconds of training and whether to stop, the same in all processes: one that is told to stop stops all."""
    longest, stopping = processes.largest([seconds, float(stop)], device)
    return longest, stopping > 0


@torch.inference_mode()
def reconstruct(
    model: AutoencoderKL, pictures: PictureSet, indices: list[int], config: Config, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, their reconstructions from the posterior's mode, and its KL (B,), computed in float32 on the device."""
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    images = pictures.batch(indices)["pixel_values"].to(device).contiguous(memory_format=layout)
    posterior = model.encode(images)
    return images, model.decode(posterior.mode()), posterior.kl()


def preview_pictures(state: TrainState, pictures: PictureSet, config: Config, device: torch.device) -> Tensor:
    """The first validation pictures, reconstructed: (N, 3, H, W) float32 on the CPU."""
    indices = pictures.first_alike(config.training.preview_images)
    return reconstruct(state.averaged, pictures, indices, config, device)[1].cpu()


def validate(
    model: AutoencoderKL, pictures: PictureSet, config: Config, device: torch.device, processes: Processes = ALONE
) -> dict[str, float]:
    """Means over all validation pictures: `val/psnr` (dB), `val/ssim`, `val/kl_nats_per_image`.

    The processes share the batches, so that each picture is counted once, and all get the same numbers.
    """
    measured: dict[int, dict[str, Tensor]] = {}
    for number, indices in enumerate(pictures.batches(config.evaluation.batch_size)):
        if number % processes.count == processes.rank:
            images, reconstructions, kl = reconstruct(model, pictures, indices, config, device)
            measured[number] = {
                "val/psnr": psnr(reconstructions, images).cpu(),
                "val/ssim": ssim(reconstructions, images).cpu(),
                "val/kl_nats_per_image": kl.cpu(),
            }
    batches = {number: batch for part in processes.gather(measured) for number, batch in part.items()}
    ordered = [batches[number] for number in sorted(batches)]
    return {name: torch.cat([batch[name] for batch in ordered]).double().mean().item() for name in ordered[0]}


def save(state: TrainState, config: Config, folder: Path, scores: Mapping[str, float], observer: Observer) -> None:
    """Write snapshot and checkpoint of this step, tell the observer, and prune."""
    snapshot = folder / "snapshots" / step_name(state.step)
    with folder_atomically(snapshot) as temporary:
        write_snapshot(temporary, state.averaged, image_size=config.data.image_size, settings=config.to_yaml())
    observer.kept(state.step, scores)
    observer.saving()
    save_state(state, config, folder)
    prune(state, config, folder, observer)


def prune(state: TrainState, config: Config, folder: Path, observer: Observer) -> None:
    """Keep the snapshots of the last few checkpoints and of the best one."""
    steps = sorted(state.scores)
    keep = {*steps[-config.training.keep_checkpoints :], *([best_step(state.scores)] if steps else [])}
    for step in steps:
        old = folder / "snapshots" / step_name(step)
        if step not in keep and old.exists():
            observer.dropped(step)
            remove_folder(old)


def save_state(state: TrainState, config: Config, folder: Path) -> None:
    """Write a checkpoint to resume from, and keep the one before it beside it."""
    state.save(folder / "checkpoints" / step_name(state.step), config.to_yaml())
    for checkpoint in sorted((folder / "checkpoints").glob("step-*"))[:-2]:
        remove_folder(checkpoint)


def best_step(scores: Mapping[int, float]) -> int:
    """The step of the highest score; the later one of equals, and one that is not a number never."""
    return max(scores, key=lambda step: (not math.isnan(scores[step]), scores[step], step))
