"""The training loop. To resume, run the same command: it goes on from the newest whole checkpoint in its folder."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.data.dataset import PictureSet, PreparedSet
from pikavae.data.loader import Loader, Order, way_of
from pikavae.errors import NonFiniteLossError
from pikavae.evaluation.metrics import psnr, ssim
from pikavae.files import folder_atomically
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.training.losses import loss_terms
from pikavae.training.optimizers import learning_rate_factor, set_learning_rate, total_steps, update_ema
from pikavae.training.order import BucketOrder, indices_at, noise_at
from pikavae.training.state import TrainState, restore_latest, step_name

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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

    def kept(self, snapshot: Path, step: int, metrics: Mapping[str, float]) -> None:
        """A checkpoint is being written: its snapshot folder and validation scores."""

    def dropped(self, step: int) -> None:
        """The checkpoint of `step` is being pruned."""


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
) -> TrainResult:
    """Train to the configured end, or go on from the newest checkpoint in `folder`.

    Args:
        config: the whole configuration.
        prepared: the prepared data set.
        folder: `checkpoints/` and `snapshots/` are kept in it; the caller holds its lock.
        device: where to compute.
        observer: told of every point, preview and checkpoint.
        start: a snapshot folder with the first weights, instead of new ones.

    Raises:
        NonFiniteLossError: a loss or gradient was NaN or infinite; the step was not taken.
    """
    observer = observer or Observer()
    state = TrainState.fresh(config, device, start)
    restore_latest(state, folder / "checkpoints")
    total = total_steps(config, len(prepared.train))
    start_step, start_images, attempt = state.step, state.images_seen, Stopwatch(state.seconds)
    observer.started(start_step)
    if start_step == 0:
        observer.preview(preview_pictures(state, prepared.validation, config, device), 0)

    last = is_finished(state, config, total)
    with open_loader(state, config, prepared.train, device) as loader:
        while not last:
            metrics = optimizer_step(state, config, loader, device, total)
            state.seconds = attempt.seconds()
            observer.stepped(state, metrics["train/loss"], progress_of(state, config, total))
            last = is_finished(state, config, total)

            # Points of the curves
            if last or state.step % config.training.log_every == 0:
                rate = (state.images_seen - start_images) / (state.seconds - attempt.before)
                observer.log(
                    {**metrics, "train/images_per_second": rate, "train/images_seen": state.images_seen}, state.step
                )

            # Pictures
            if last or state.step % config.training.preview_every == 0:
                observer.preview(preview_pictures(state, prepared.validation, config, device), state.step)

            # Scores, and what is kept; the last step is measured and saved as every other
            keep = last or state.step % config.training.checkpoint_every == 0
            if keep or state.step % config.training.validate_every == 0:
                scores = validate(state.averaged, prepared.validation, config, device)
                observer.log(scores, state.step)
                state.seconds = attempt.seconds()
                if keep:
                    state.scores[state.step] = scores[f"val/{config.evaluation.primary_metric}"]
                    save(state, config, folder, scores, observer)

    elapsed = max(state.seconds - attempt.before, 1e-9)
    return TrainResult(
        snapshot=folder / "snapshots" / step_name(state.step),
        start_step=start_step,
        steps=state.step,
        images_seen=state.images_seen,
        images_per_second=(state.images_seen - start_images) / elapsed,
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
    """Whether all steps are taken or the minutes are used up (after one step at least)."""
    return state.step > 0 and progress_of(state, config, total) >= 1.0


def optimizer_step(
    state: TrainState, config: Config, loader: Loader, device: torch.device, total: int
) -> dict[str, float]:
    """One step over `accumulation` batches, whose gradients are averaged; returns the loss terms as `train/...`.

    With them `train/data_wait_fraction`: the share of the step's time that went into waiting for pictures, in [0, 1].
    """
    began, waited, training = time.perf_counter(), loader.seconds_waited, config.training
    factor = learning_rate_factor(config.optimizer, state.step, progress_of(state, config, total))
    set_learning_rate(state.optimizer, factor)
    sums: dict[str, Tensor] = {}
    for _ in range(training.accumulation):
        images, noise = next_batch(state, config, loader)
        with autocast(config, device):
            reconstructions, posterior = state.model(images, noise)
        terms = loss_terms(config.loss, images, reconstructions, posterior)
        torch.autograd.backward(state.scaler.scale(terms["loss"] / training.accumulation))
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach() / training.accumulation
    means = {name: value.item() for name, value in sums.items()}
    learning_rate = state.optimizer.param_groups[0]["lr"]
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.optimizer.max_grad_norm or math.inf).item()
    overflow = state.scaler.is_enabled() and not math.isfinite(norm)  # the scaler skips this step and lowers its scale
    if not math.isfinite(means["loss"]) or not (math.isfinite(norm) or overflow):
        listed = ", ".join(f"{name} {value:.6g}" for name, value in means.items())
        raise NonFiniteLossError(
            f"step {state.step + 1}: {listed}, gradient norm {norm:.6g}, learning rate {learning_rate:.3g}: not "
            f"finite, so the step was not taken; lower optimizer.learning_rate, set optimizer.max_grad_norm or raise "
            f"optimizer.warmup_steps (checkpoints up to step {max(state.scores, default=0)} are whole)"
        )
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    if state.ema is not None and training.ema_decay is not None:
        update_ema(state.ema, state.model, training.ema_decay, state.step)
    values = {f"train/{name}": value for name, value in means.items()}
    waiting = (loader.seconds_waited - waited) / (time.perf_counter() - began)
    return {
        **values,
        "train/learning_rate": learning_rate,
        "train/gradient_norm": norm,
        "train/data_wait_fraction": waiting,
    }


def open_loader(state: TrainState, config: Config, pictures: PictureSet, device: torch.device) -> Loader:
    """The training pictures from where the state stands, to be closed by a `with`."""
    count, seed = config.training.batch_size, config.training.seed
    if config.data.crop == "buckets":
        order: Order = BucketOrder(pictures.by_shape, count, seed)
    else:
        order = partial(indices_at, count=count, num_images=len(pictures), seed=seed)
    way = way_of(pictures, config.training.resident, device)
    return Loader(pictures, order, state.images_seen, config, device, way)


def next_batch(state: TrainState, config: Config, loader: Loader) -> tuple[Tensor, Tensor]:
    """The next pictures of the stream, (B, 3, H, W) float32 in [-1, 1], and their noise, (B, Z, H/f, W/f)."""
    assert loader.position == state.images_seen, "the loader was opened for another place in the stream"
    images, factor = next(loader), config.model.downsampling_factor
    count, height, width = len(images), images.shape[2] // factor, images.shape[3] // factor
    shape = (config.model.latent_channels, height, width)
    noise = noise_at(state.images_seen, count, shape=shape, seed=config.training.seed)
    state.images_seen += count
    return images, noise.to(images.device)


def autocast(config: Config, device: torch.device) -> AbstractContextManager[object]:
    """The forward pass's precision; losses are computed outside of it."""
    dtype = AUTOCAST_DTYPES.get(config.training.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


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


def validate(model: AutoencoderKL, pictures: PictureSet, config: Config, device: torch.device) -> dict[str, float]:
    """Means over all validation pictures: `val/psnr` (dB), `val/ssim`, `val/kl_nats_per_image`."""
    columns: dict[str, list[Tensor]] = {"val/psnr": [], "val/ssim": [], "val/kl_nats_per_image": []}
    for indices in pictures.batches(config.evaluation.batch_size):
        images, reconstructions, kl = reconstruct(model, pictures, indices, config, device)
        columns["val/psnr"].append(psnr(reconstructions, images))
        columns["val/ssim"].append(ssim(reconstructions, images))
        columns["val/kl_nats_per_image"].append(kl)
    return {name: torch.cat(values).double().mean().item() for name, values in columns.items()}


def save(state: TrainState, config: Config, folder: Path, scores: Mapping[str, float], observer: Observer) -> None:
    """Write snapshot and checkpoint of this step, tell the observer, and prune."""
    snapshot = folder / "snapshots" / step_name(state.step)
    with folder_atomically(snapshot) as temporary:
        write_snapshot(temporary, state.averaged, image_size=config.data.image_size, settings=config.to_yaml())
    observer.kept(snapshot, state.step, scores)
    state.save(folder / "checkpoints" / step_name(state.step), config.to_yaml())
    prune(state, config, folder, observer)


def prune(state: TrainState, config: Config, folder: Path, observer: Observer) -> None:
    """Keep the snapshots of the last few checkpoints and of the best one, and the last two states to resume from."""
    steps = sorted(state.scores)
    keep = {*steps[-config.training.keep_checkpoints :], best_step(state.scores)}
    for step in steps:
        snapshot = folder / "snapshots" / step_name(step)
        if step not in keep and snapshot.exists():
            observer.dropped(step)
            shutil.rmtree(snapshot)
    for checkpoint in sorted((folder / "checkpoints").glob("step-*"))[:-2]:
        shutil.rmtree(checkpoint)


def best_step(scores: Mapping[int, float]) -> int:
    """The step of the highest score; the later one of equals, and one that is not a number never."""
    return max(scores, key=lambda step: (not math.isnan(scores[step]), scores[step], step))
