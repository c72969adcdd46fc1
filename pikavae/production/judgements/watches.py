"""Keep what each watch of the champion found: `watches/<id>/watch.json` in the state folder, beside its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pikavae.workspace.records import Record

FOLDER_NAME = "watches"
RECORD_NAME = "watch.json"
PAGE_NAME = "page.html"

SETTINGS = (
    "data.source",
    "data.hub_config",
    "data.split",
    "data.image_column",
    "data.caption_column",
    "data.exclude",
    "data.links_into",
    "data.max_pixels",
    "data.max_unreadable_fraction",
    "data.workers",
    "training.device",
    "training.threads",
)
"""The settings that a watch takes; all others are those of the champion, or the scores could not be compared."""


class Watch(Record):
    """Holds what one watch of the champion found. Paths are relative to the state folder."""

    id: str
    time: str
    """When it ended, in UTC, ISO 8601."""
    model: str
    """The registered model of the champion's candidate."""
    version: int
    """The candidate that is champion."""
    source: str
    """Where the fresh pictures came from."""
    fell: bool
    """True if the interval shows that the champion does worse than in its report, by more than the tolerance."""
    line: str
    """How it does, in one line."""
    findings: Sequence[str]
    """What was found, a sentence each."""
    metric: str
    tolerance: float
    num_fresh: int
    num_trained_on: int
    """How many pictures of the source were left out, because the champion was trained on them."""
    num_alike: int | None = None
    """How many fresh pictures look like one that the champion knows; None if that is not known."""
    scores: Mapping[str, Any]
    """The comparison of the fresh pictures' scores with those of the champion's report."""
    paired: Mapping[str, Any] | None = None
    """The pictures that are in the report too."""
    drift: Mapping[str, Any]
    """By quantity."""
    evaluation_set: str
    """The digest of the pictures that were measured."""
    report: str
    """The name of their report."""
    champion_report: str
    """The name of the report that it was compared with."""
    page: str
    run_id: str
    """The run in MLflow that holds page and numbers."""
    experiment_id: str

    @property
    def subject(self) -> str:
        """Return what was watched: a champion on pictures of one source."""
        return f"{self.model} {self.version} {self.source}"


def watch_files(home: Path) -> list[Path]:
    """Return the records of all watches, the oldest first."""
    return sorted((home / FOLDER_NAME).glob(f"*/{RECORD_NAME}"))
