"""How far a training is, for a person who watches it."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pikavae.training.journal import JOURNAL_NAME, PROGRESS_NAME, read_events

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Display:
    """Shows the progress that a training writes into its folder.

    A progress bar when a person watches standard error, a line every ten seconds otherwise.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / PROGRESS_NAME).unlink(missing_ok=True)
        self._bar: tqdm[Any] | None = None
        self._began: tuple[float, int, float] | None = None  # time, step and progress at the first look
        self._last_line, self._shown_step = time.monotonic(), -1
        _, self._offset = read_events(folder / JOURNAL_NAME)
        self._score = ""

    def update(self) -> None:
        """Move the bar, or write a line when one is due."""
        try:
            now = json.loads((self._folder / PROGRESS_NAME).read_text())
        except (OSError, ValueError):
            return  # it has not begun
        step, progress = int(now["step"]), float(now["progress"])
        if self._began is None:
            self._began = (time.monotonic(), step, progress)
            if now["start"]:
                logger.info("training goes on from the checkpoint of step %d", now["start"])
            if sys.stderr.isatty():
                form = "{l_bar}{bar}| {n:.0f}% [{elapsed}<{remaining}{postfix}]"
                self._bar = tqdm(total=100.0, initial=0.0, desc="train", bar_format=form, dynamic_ncols=True)
        if now["loss"] is None or step == self._shown_step:
            return
        self._read_score()
        began, first_step, first_progress = self._began
        elapsed = time.monotonic() - began
        rate = (step - first_step) / max(elapsed, 1e-9)
        if self._bar is not None:
            self._bar.update(100.0 * progress - self._bar.n)
            self._bar.set_postfix_str(f"step {step}, {rate:.2f} steps/s, loss {now['loss']:.4f}{self._score}")
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES or progress >= 1.0:
            self._last_line = time.monotonic()
            done = progress - first_progress
            left = f"{elapsed * (1.0 - progress) / done:.0f} s left" if done > 0 else "just begun"
            logger.info(
                "step %d, %.0f%%, %.2f steps/s, loss %.4f%s, %s",
                *(step, 100 * progress, rate, now["loss"], self._score, left),
            )
        self._shown_step = step

    def close(self) -> None:
        """Show the last, and end the bar."""
        self.update()
        if self._bar is not None:
            self._bar.close()

    def _read_score(self) -> None:
        events, self._offset = read_events(self._folder / JOURNAL_NAME, self._offset)
        for event in events:
            if "val/psnr" in event.values:
                self._score = f", val {event.values['val/psnr']:.2f} dB"
