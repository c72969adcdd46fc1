"""Show a training in Prefect while it works: progress, scores, pictures and the link to MLflow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import cast
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate

from pikavae.operations import Moment, TrainingView

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_UPDATES = 10.0
PATIENCE_SECONDS = 15.0
"""How long the end of a training waits for a page that is being written."""


@contextmanager
def live_page(view: TrainingView) -> Iterator[None]:
    """Keep the artifacts of this task's run up to date during the block. A server that is away delays no training."""
    page = _Page(view)
    try:
        page.create()
    except Exception as error:  # noqa: BLE001 - whatever keeps the page from being shown, the training is worth more
        logger.warning("this training is not shown in Prefect while it works: %s", _brief(error))
        yield
        return
    stop = threading.Event()
    context = copy_context()  # with the settings of the flow's server
    thread = threading.Thread(target=context.run, args=(page.follow, stop), name="pikavae-page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)


class _Page:
    """Holds the artifacts of a training."""

    def __init__(self, view: TrainingView) -> None:
        self._view = view
        self._shown: Moment | None = None
        self._progress: UUID
        self._text: UUID
        self._complained = False

    def create(self) -> None:
        """Make the artifacts; in the task's own thread they become those of its run."""
        self._shown = self._view.look()
        about = self._shown.line if self._shown else "not begun"
        percent, text = _percent(self._shown), self._view.markdown(self._shown)
        self._progress = cast("UUID", create_progress_artifact(percent, key="training-progress", description=about))
        self._text = cast(
            "UUID", create_markdown_artifact(text, key="training", description="Scores and newest reconstructions")
        )
        if self._view.url:
            create_link_artifact(
                self._view.url, key="mlflow-run", link_text=self._view.name, description="The run in MLflow"
            )

    def follow(self, stop: threading.Event) -> None:
        """Write what is new, now and then, and a last time when the training has ended."""
        ended = False
        while not ended:
            ended = stop.wait(SECONDS_BETWEEN_UPDATES)
            try:
                self._update()
            except Exception as error:  # noqa: BLE001 - the next look may succeed, and the training continues
                if not self._complained:
                    logger.warning("the page of this training in Prefect is not up to date: %s", _brief(error))
                    self._complained = True

    def _update(self) -> None:
        moment = self._view.look()
        if moment is None or moment == self._shown:
            return
        with get_client(sync_client=True) as client:
            progress = ArtifactUpdate(data=_percent(moment), description=moment.line)
            client.update_artifact(self._progress, progress)
            client.update_artifact(self._text, ArtifactUpdate(data=self._view.markdown(moment)))
        self._shown = moment


def _percent(moment: Moment | None) -> float:
    return 0.0 if moment is None else round(100.0 * min(max(moment.progress, 0.0), 1.0), 1)


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
