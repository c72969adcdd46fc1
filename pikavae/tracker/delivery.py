"""Copies a training's journal to its MLflow run, during the training or later.

The journal is the record and MLflow a copy of it. While the tracker does not answer, training continues and the journal
grows. When the tracker answers again, everything is delivered in order. What MLflow has already is recognised and not
written twice. A preview that is missing or damaged is reported and left out, because nobody can make it again.
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

from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import DamagedFileError, PikavaeError, TransientError
from pikavae.evaluation.report.panels import FILMSTRIP_FRAMES, MOSAIC, choose_evenly, filmstrip, panel
from pikavae.tracker.client import Workspace
from pikavae.tracker.overview import OVERVIEW_NAME, overview
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import RECONSTRUCTIONS
from pikavae.training.journal import JOURNAL_NAME, Event, read_events
from pikavae.training.state import step_name
from pikavae.workspace.disks import explain
from pikavae.workspace.records import warn_once
from pikavae.workspace.runs import step_of

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_TRIES = 5.0
PATIENCE_SECONDS = 600.0
"""How long a finished training waits for a tracker that does not answer."""
GRACE_SECONDS = 10.0
"""How long a training that was stopped waits for it."""
PERMANENT = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "PERMISSION_DENIED"}
"""The error codes of MLflow that another try would not change."""


class Delivery:
    """Delivers the journal of the run in `folder` to MLflow, in a thread of its own, during a `with` block.

    Args:
        workspace: the store that must answer.
        folder: the run folder.
        run: the MLflow run that receives the journal.
        validation: the pictures that the previews reconstruct.
        num_preview_images: how many pictures a preview has.
    """

    def __init__(
        self, workspace: Workspace, folder: Path, run: RunLog, validation: PictureSet, num_preview_images: int
    ) -> None:
        self._workspace, self._folder, self._run = workspace, folder, run
        self._originals = validation.shown(validation.first_alike(num_preview_images))
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
        self._abandoned = True  # the next attempt delivers the rest, and this thread must not interfere

    def finish(self) -> None:
        """Wait until everything is delivered.

        Raises:
            TransientError: the tracker still does not answer.
            PikavaeError: MLflow refuses what it receives.
        """
        self._finish.set()
        ended = self._done.wait(PATIENCE_SECONDS)
        if isinstance(self._error, PikavaeError):
            raise self._error
        if self._error is not None:
            raise PikavaeError(f"MLflow store {self._workspace.tracking_uri}: {self._error}") from self._error
        assert self._delivered or not ended
        if not ended:
            raise TransientError(
                f"MLflow store {self._workspace.tracking_uri}: no answer for {PATIENCE_SECONDS / 60:.0f} minutes; "
                f"training is finished and its record kept in {self._folder / JOURNAL_NAME}: the same command delivers "
                f"it"
            )

    def filmstrip(self) -> Image.Image:
        """Return the training in pictures: the same reconstructions at up to sixteen moments, and the originals."""
        paths = sorted((self._folder / "previews").glob("step-*.png"))
        chosen = [paths[i] for i in choose_evenly(len(paths), FILMSTRIP_FRAMES)]  # only these are read
        frames = [(step_of(path), self._preview(path)) for path in chosen]
        return filmstrip([(step, frame) for step, frame in frames if frame is not None], self._originals)

    def _preview(self, path: Path) -> Tensor | None:
        """Return the pictures of a preview; None if it is missing or damaged, which is reported once."""
        try:
            return read_preview(path, self._originals)
        except DamagedFileError as error:
            warn_once(logger, f"{error}; it is left out, and training continues")
            return None

    def _work(self) -> None:
        """Run as the thread, until everything is delivered and nothing more will come, or delivery is impossible."""
        try:
            self._deliver_all()
        finally:
            self._done.set()

    def _deliver_all(self) -> None:
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        while not self._abandoned:
            last = self._finish.is_set()
            try:
                self._deliver()
                if last:
                    self._delivered = True
                    return
            except (MlflowException, RequestException, SQLAlchemyError, OSError, PikavaeError) as error:
                told = error if isinstance(error, PikavaeError) else explain(error, self._workspace.home)
                # Waiting does not help with a full disk or a database that was removed.
                if getattr(error, "error_code", None) in PERMANENT or (told is not None and last):
                    self._error = told or error
                    return
                self._complain(told or error)
                time.sleep(SECONDS_BETWEEN_TRIES)
            except Exception as error:  # noqa: BLE001  `finish` raises it
                self._error = error
                return
            else:
                self._finish.wait(SECONDS_BETWEEN_LOOKS)

    def _deliver(self) -> None:
        """Deliver what the journal has now."""
        events, self._offset = read_events(self._folder / JOURNAL_NAME, self._offset)
        self._waiting += events
        if not self._waiting and not self._run.is_holding_back:
            return
        self._workspace.require_same_store()
        if not self._workspace.answers():
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
            reconstructions = self._preview(self._folder / "previews" / f"{name}.png")
            if reconstructions is not None:
                picture = panel([("original", self._originals), ("reconstruction", reconstructions)])
                self._run.log_image(RECONSTRUCTIONS, picture, event.step)
                self._run.log_picture(overview(self._originals, reconstructions), OVERVIEW_NAME)
        elif event.kind == "kept":
            snapshot = self._folder / "snapshots" / name
            try:
                if snapshot.is_dir():  # otherwise it was pruned before it could be delivered
                    self._run.log_checkpoint(snapshot, event.step, event.values)
            except OSError:
                if snapshot.is_dir():
                    raise
        elif event.kind == "dropped":
            self._run.drop_checkpoint(event.step)

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            said = " ".join(str(error).split())[:200]
            logger.warning(
                "MLflow store %s: %s; training continues, and its points are delivered later",
                self._workspace.tracking_uri,
                said,
            )
            self._complained = True


def moments(folder: Path, validation: PictureSet) -> list[tuple[str, Tensor]]:
    """Return the reconstructions of the same validation pictures at up to sixteen moments, and the originals last.

    A preview that cannot be read is left out.

    Args:
        folder: the run folder.
        validation: the pictures that the previews reconstruct.

    Returns:
        The label of each, and (N, 3, H, W) float32 in [-1, 1], N at most four; nothing if there is no preview.
    """
    originals = validation.shown(validation.first_alike(MOSAIC))
    paths = sorted((folder / "previews").glob("step-*.png"))
    found = []
    for path in [paths[i] for i in choose_evenly(len(paths), FILMSTRIP_FRAMES)]:
        try:
            frames = read_preview(path, originals)[: len(originals)]
        except DamagedFileError:
            continue
        if frames.shape == originals.shape:
            found.append((f"step {step_of(path):,}", frames))
    return [*found, ("original", originals)] if found else []


def read_preview(path: Path, originals: Tensor) -> Tensor:
    """Return the pictures of a preview strip: (N, 3, H, W) float32 in [-1, 1], of the size of the originals.

    Raises:
        DamagedFileError: the strip is missing, is no picture, or has another size.
    """
    _, channels, height, width = originals.shape
    try:
        with Image.open(path) as picture:
            strip = torch.from_numpy(np.asarray(picture).copy())  # (H, N*W, 3)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "gone" if isinstance(error, FileNotFoundError) else "damaged"
        raise DamagedFileError(f"{path}: {reason}") from None
    count = strip.shape[1] // width if strip.ndim == 3 else 0
    if not count or tuple(strip.shape) != (height, count * width, channels):
        raise DamagedFileError(f"{path}: damaged: another picture than was written")
    frames = torch.stack(torch.chunk(strip, count, dim=1)).permute(0, 3, 1, 2)  # (N, 3, H, W)
    return frames.float() / 127.5 - 1.0
