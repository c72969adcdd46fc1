"""Show a person how far a training is."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pikavae.training.cadence import Pace
from pikavae.training.journal import JOURNAL_NAME, PROGRESS_NAME, read_events

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Shows the progress that a training writes into its folder.

    It is a progress bar if standard error is a terminal, otherwise a line every ten seconds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / PROGRESS_NAME).unlink(missing_ok=True)
        self._bar: tqdm[Any] | None = None
        self._begun, self._steps, self._shares = False, Pace(), Pace()
        self._last_line, self._shown_step = time.monotonic(), -1
        _, self._offset = read_events(folder / JOURNAL_NAME)
        self._score = ""

    def update(self) -> None:
        """Move the bar, or write a line when one is due."""
        try:
            now = json.loads((self._folder / PROGRESS_NAME).read_text())
        except (OSError, ValueError):
            return  # training has not begun
        step, progress = int(now["step"]), float(now["progress"])
        if not self._begun:
            self._begun = True
            if now["start"]:
                logger.info("training resumes from the checkpoint of step %d", now["start"])
            if sys.stderr.isatty():
                form = "{l_bar}{bar}| {n:.0f}% [{elapsed}{postfix}]"
                self._bar = tqdm(total=100.0, initial=0.0, desc="train", bar_format=form, dynamic_ncols=True)
        if now["loss"] is None or step == self._shown_step:
            return
        self._read_score()
        self._steps.look(time.monotonic(), step)
        self._shares.look(time.monotonic(), progress)
        reached = f"loss {now['loss']:.4f}{self._score}"
        if rate := self._steps.per_second:
            seconds = (1.0 - progress) / self._shares.per_second
            reached = f"{rate:.2f} steps/s, {reached}, {seconds:.0f} s left"
        if self._bar is not None:
            self._bar.update(100.0 * progress - self._bar.n)
            self._bar.set_postfix_str(f"step {step}, {reached}")
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or progress >= 1.0:
            self._last_line = time.monotonic()
            logger.info("step %d, %.0f%%, %s", step, 100 * progress, reached)
        self._shown_step = step

    def close(self) -> None:
        """Show the last progress and close the bar."""
        self.update()
        if self._bar is not None:
            self._bar.close()

    def _read_score(self) -> None:
        events, self._offset = read_events(self._folder / JOURNAL_NAME, self._offset)
        for event in events:
            if "val/psnr" in event.values:
                self._score = f", val {event.values['val/psnr']:.2f} dB"
