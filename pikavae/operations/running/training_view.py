"""Look at a training from beside it: how far it is, its scores, its newest pictures, and where MLflow shows it."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import DamagedFileError
from pikavae.tracker.delivery import read_preview
from pikavae.tracker.overview import two_rows
from pikavae.training.journal import JOURNAL_NAME, PROGRESS_NAME, read_events
from pikavae.workspace.runs import RunFolder, step_of

SCORE = "val/psnr"
SCORES_SHOWN = 8
QUALITY = 88


@dataclass(frozen=True)
class Moment:
    """Holds how far a training is.

    Attributes:
        step: its optimizer step.
        progress: the part of it that is done, from 0 to 1.
        loss: of the last step; None before the first.
        scores: the PSNR in dB on validation pictures, by step, the newest last.
        picture: validation pictures above their newest reconstructions, a JPEG file; None before the first.
        picture_step: the step of that picture.
    """

    step: int
    progress: float
    loss: float | None
    scores: tuple[tuple[int, float], ...]
    picture: bytes | None
    picture_step: int

    @property
    def line(self) -> str:
        """Return how far it is, in a line."""
        parts = [f"step {self.step:,}, {self.progress:.0%}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        if self.scores:
            parts.append(f"{self.scores[-1][1]:.2f} dB on validation pictures")
        return ", ".join(parts)


class TrainingView:
    """Reads what a training writes into its run folder; it may be used while the training works, and after it.

    Args:
        run: the run folder.
        validation: the pictures that the previews reconstruct.
        num_preview_images: how many pictures a preview has.
        name: what the run is called.
        url: the address of the run's page in MLflow; None if no server is known.
    """

    def __init__(
        self, run: RunFolder, validation: PictureSet, num_preview_images: int, *, name: str, url: str | None
    ) -> None:
        self.run_id, self.name, self.url = run.run_id, name, url
        self._folder = run.path
        self._originals = validation.shown(validation.first_alike(num_preview_images))
        self._offset = 0
        self._scores: dict[int, float] = {}
        self._picture: tuple[int, bytes] | None = None

    def look(self) -> Moment | None:
        """Return how far the training is; None if it has not begun."""
        try:
            now = json.loads((self._folder / PROGRESS_NAME).read_text())
            step, progress, loss = int(now["step"]), float(now["progress"]), now["loss"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        events, self._offset = read_events(self._folder / JOURNAL_NAME, self._offset)
        self._scores |= {event.step: event.values[SCORE] for event in events if SCORE in event.values}
        self._read_picture()
        picture_step, picture = self._picture or (0, None)
        return Moment(step, progress, loss, tuple(sorted(self._scores.items())), picture, picture_step)

    def markdown(self, moment: Moment | None) -> str:
        """Describe the training in Markdown, with its newest pictures."""
        where = f"[{self.run_id}]({self.url})" if self.url else f"`{self.run_id}`: `pikavae ui --run {self.run_id}`"
        lines = [f"## {_escape(self.name)}", "", f"MLflow run {where}", ""]
        if moment is None:
            return "\n".join([*lines, "The training has not begun yet."])
        lines += [f"**{moment.line}**", ""]
        if moment.picture is not None:
            picture = base64.b64encode(moment.picture).decode()
            lines += [
                f"Validation pictures, and below them their reconstructions at step {moment.picture_step:,}:",
                "",
                f"![reconstructions](data:image/jpeg;base64,{picture})",
                "",
            ]
        if moment.scores:
            rows = [f"| {step:,} | {score:.2f} |" for step, score in reversed(moment.scores[-SCORES_SHOWN:])]
            lines += ["| step | PSNR in dB |", "| ---: | ---: |", *rows]
        return "\n".join(lines)

    def _read_picture(self) -> None:
        """Draw the newest preview, unless it is drawn already; a damaged one is passed over."""
        newest = max((self._folder / "previews").glob("step-*.png"), default=None)
        if newest is None or (self._picture is not None and self._picture[0] == step_of(newest)):
            return
        drawn = self._draw(newest)
        self._picture = self._picture if drawn is None else (step_of(newest), drawn)

    def _draw(self, path: Path) -> bytes | None:
        try:
            reconstructions = read_preview(path, self._originals)
        except DamagedFileError:
            return None
        two_rows(self._originals, reconstructions).save(content := BytesIO(), format="JPEG", quality=QUALITY)
        return content.getvalue()


def _escape(text: str) -> str:
    """Return a text for a heading in Markdown, with its marks as they are."""
    return text.translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#"})
