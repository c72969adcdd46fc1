"""What a training writes into its journal, brought to its MLflow run while it goes on, or later.

The journal is the record and MLflow a copy of it. While the tracker is away the journal grows, and training with it;
when it answers again everything follows, in order. What MLflow has already is recognised and not written twice.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pikavae.data.dataset import PictureSet
from pikavae.errors import PikavaeError, TransientError
from pikavae.evaluation.panels import FILMSTRIP_FRAMES, choose_evenly, filmstrip, panel
from pikavae.home import home
from pikavae.runs import step_of
from pikavae.tracking import RunLog, answers, tracking_uri
from pikavae.training.journal import JOURNAL_NAME, Event, read_events
from pikavae.training.state import step_name

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_TRIES = 5.0
PATIENCE_SECONDS = 600.0
"""How long a finished training waits for a tracker that is away."""
GRACE_SECONDS = 10.0
"""How long one that was stopped does."""
PERMANENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "PERMISSION_DENIED"}
"""Answers of MLflow that another try would not change."""


class Delivery:
    """Brings the journal of the run in `folder` to MLflow, in a thread of its own, for the time of a `with`.

    Args:
        folder: the run's.
        run: where it is brought.
        validation: the pictures whose reconstructions the previews are.
        num_preview_images: how many they are.
    """

    def __init__(self, folder: Path, run: RunLog, validation: PictureSet, num_preview_images: int) -> None:
        self._folder, self._run = folder, run
        self._originals = validation.batch(validation.first_alike(num_preview_images))["pixel_values"]
        self._waiting: list[Event] = []
        self._offset = 0
        self._finish, self._done = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self._delivered = False
        self._abandoned = False
        self._complained = False
        self._thread = threading.Thread(target=self._work, name="pikavae-delivery", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish.set()
        self._done.wait(GRACE_SECONDS)
        self._abandoned = True  # what is left is for the next attempt, with which this thread must not interfere

    def finish(self) -> None:
        """Wait until everything is delivered.

        Raises:
            TransientError: the tracker stays away.
            PikavaeError: MLflow refuses what it is given.
        """
        self._finish.set()
        ended = self._done.wait(PATIENCE_SECONDS)
        if self._error is not None:
            raise PikavaeError(f"MLflow store {tracking_uri(home())}: {self._error}") from self._error
        assert self._delivered or not ended, "the thread's own traceback says why"
        if not ended:
            raise TransientError(
                f"MLflow store {tracking_uri(home())}: no answer for {PATIENCE_SECONDS / 60:.0f} minutes; training is "
                f"finished and its record kept in {self._folder / JOURNAL_NAME}: the same command delivers it"
            )

    def filmstrip(self) -> Image.Image:
        """The training in pictures: the same reconstructions at up to sixteen moments, and the originals."""
        paths = sorted((self._folder / "previews").glob("step-*.png"))
        chosen = [paths[i] for i in choose_evenly(len(paths), FILMSTRIP_FRAMES)]  # only these are read
        return filmstrip(
            [(step_of(path), read_preview(path, len(self._originals))) for path in chosen], self._originals
        )

    def _work(self) -> None:
        """The thread: it ends when all is delivered and no more will come, or when that cannot be."""
        try:
            self._deliver_all()
        finally:
            self._done.set()

    def _deliver_all(self) -> None:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        while not self._abandoned:
            last = self._finish.is_set()
            try:
                self._deliver()
                if last:
                    self._delivered = True
                    return
            except (MlflowException, RequestException, OSError) as error:
                if getattr(error, "error_code", None) in PERMANENT:
                    self._error = error
                    return
                self._complain(error)
                time.sleep(SECONDS_BETWEEN_TRIES)
            else:
                self._finish.wait(SECONDS_BETWEEN_LOOKS)

    def _deliver(self) -> None:
        """Deliver what is there."""
        events, self._offset = read_events(self._folder / JOURNAL_NAME, self._offset)
        self._waiting += events
        if not self._waiting and not self._run.is_holding_back:
            return
        if not answers(home()):
            raise OSError("no answer")
        while self._waiting:
            self._deliver_one(self._waiting[0])
            del self._waiting[0]
        self._run.flush()
        if self._complained:
            logger.info("MLflow answers again; everything is delivered")
            self._complained = False

    def _deliver_one(self, event: Event) -> None:
        name = step_name(event.step)
        if event.kind == "metrics":
            self._run.log(event.values, event.step, time_ms=event.time)
        elif event.kind == "preview":
            reconstructions = read_preview(self._folder / "previews" / f"{name}.png", len(self._originals))
            picture = panel([("original", self._originals), ("reconstruction", reconstructions)])
            self._run.log_image("reconstructions", picture, event.step)
        elif event.kind == "kept":
            snapshot = self._folder / "snapshots" / name
            try:
                if snapshot.is_dir():  # else it was pruned before it could be delivered
                    self._run.log_checkpoint(snapshot, event.step, event.values)
            except OSError:
                if snapshot.is_dir():
                    raise
        elif event.kind == "dropped":
            self._run.drop_checkpoint(event.step)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            said = " ".join(str(error).split())[:200]
            logger.warning("MLflow store %s: %s; training goes on, and is delivered later", tracking_uri(home()), said)
            self._complained = True


def read_preview(path: Path, count: int) -> Tensor:
    """The `count` pictures of a preview strip: (N, 3, H, W) float32 in [-1, 1]."""
    with Image.open(path) as picture:
        strip = torch.from_numpy(np.asarray(picture).copy())  # (H, N*W, 3)
    frames = torch.stack(torch.chunk(strip, count, dim=1)).permute(0, 3, 1, 2)  # (N, 3, H, W)
    return frames.float() / 127.5 - 1.0
