"""What a person and the tracker learn of a training while it runs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from pikavae.data.dataset import PictureSet
from pikavae.evaluation.panels import FILMSTRIP_FRAMES, choose_evenly, filmstrip, panel, to_uint8
from pikavae.files import remove_leftovers
from pikavae.runs import step_of
from pikavae.tracking import RunLog
from pikavae.training.loop import Observer
from pikavae.training.state import TrainState, step_name

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Recorder(Observer):
    """Passes points, previews and checkpoints on to the MLflow run, and shows how far the training is.

    A progress bar when a person watches standard error, a line every ten seconds otherwise.
    """

    def __init__(self, run: RunLog, previews: Path, validation: PictureSet, num_preview_images: int) -> None:
        self.run = run
        self.previews = previews
        self.originals = validation.batch(validation.first_alike(num_preview_images))["pixel_values"]
        self.count = len(self.originals)
        self.model_ids = {checkpoint.step: checkpoint.model_id for checkpoint in run.checkpoints()}
        self.bar: tqdm[Any] | None = None
        self.score = ""

    def started(self, step: int) -> None:
        """Open the bar, or say where the training goes on."""
        self.previews.mkdir(exist_ok=True)
        remove_leftovers(self.previews)
        if step:
            logger.info("training goes on from the checkpoint of step %d", step)
        self._began, self._begin_step, self._last_line = time.monotonic(), step, time.monotonic()
        self._begin_progress: float | None = None
        if sys.stderr.isatty():
            bar = "{l_bar}{bar}| {n:.0f}% [{elapsed}<{remaining}{postfix}]"
            self.bar = tqdm(total=100.0, initial=0.0, desc="train", bar_format=bar, dynamic_ncols=True)

    def stepped(self, state: TrainState, loss: float, progress: float) -> None:
        """Move the bar, or write a line when one is due."""
        if self._begin_progress is None:
            self._begin_progress = progress
        elapsed = time.monotonic() - self._began
        rate = (state.step - self._begin_step) / max(elapsed, 1e-9)
        if self.bar is not None:
            self.bar.update(100.0 * progress - self.bar.n)
            self.bar.set_postfix_str(f"step {state.step}, {rate:.2f} steps/s, loss {loss:.4f}{self.score}")
            if progress >= 1.0:
                self.bar.close()
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or progress >= 1.0:
            self._last_line = time.monotonic()
            done = progress - self._begin_progress
            left = f"{elapsed * (1.0 - progress) / done:.0f} s left" if done > 0 else "just begun"
            logger.info(
                "step %d, %.0f%%, %.2f steps/s, loss %.4f%s, %s",
                *(state.step, 100 * progress, rate, loss, self.score, left),
            )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Pass the point on."""
        if "val/psnr" in metrics:
            self.score = f", val {metrics['val/psnr']:.2f} dB"
        self.run.log(metrics, step)

    def preview(self, reconstructions: Tensor, step: int) -> None:
        """Log originals over reconstructions, and keep the reconstructions for the filmstrip."""
        strip = np.concatenate(list(to_uint8(reconstructions).permute(0, 2, 3, 1).numpy()), axis=1)  # (H, N*W, 3)
        temporary = self.previews / f".{step_name(step)}.tmp"
        Image.fromarray(strip).save(temporary, format="PNG")
        temporary.replace(self.previews / f"{step_name(step)}.png")
        picture = panel([("original", self.originals), ("reconstruction", reconstructions)])
        self.run.log_image("reconstructions", picture, step)

    def kept(self, snapshot: Path, step: int, metrics: Mapping[str, float]) -> None:
        """Log the checkpoint as a model with its scores."""
        self.model_ids[step] = self.run.log_checkpoint(snapshot, step, metrics)

    def dropped(self, step: int) -> None:
        """Delete the checkpoint's model."""
        if model_id := self.model_ids.pop(step, None):
            self.run.drop_checkpoint(model_id)

    def filmstrip(self) -> Image.Image:
        """The training in pictures: the same reconstructions at up to sixteen moments, and the originals."""
        return filmstrip(self._frames(), self.originals)

    def _frames(self) -> list[tuple[int, Tensor]]:
        paths = sorted(self.previews.glob("step-*.png"))
        chosen = [paths[i] for i in choose_evenly(len(paths), FILMSTRIP_FRAMES)]  # only these are read
        return [(step_of(path), self._read(path)) for path in chosen]

    def _read(self, path: Path) -> Tensor:
        with Image.open(path) as picture:
            strip = torch.from_numpy(np.asarray(picture).copy())  # (H, N*W, 3)
        frames = torch.stack(torch.split(strip, strip.shape[0], dim=1)).permute(0, 3, 1, 2)  # (N, 3, H, W)
        return frames.float() / 127.5 - 1.0
