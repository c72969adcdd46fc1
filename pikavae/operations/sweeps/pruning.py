"""Follow a trial's training: report its validation scores to the study, and stop it if others are better."""

from __future__ import annotations

from pathlib import Path

from pikavae.operations.sweeps.objective import Objective
from pikavae.operations.sweeps.trials import Trial
from pikavae.training.journal import JOURNAL_NAME, read_events


class Pruner:
    """Reports a training's validation scores to the study, and says when it should stop."""

    def __init__(self, trial: Trial, objective: Objective, total_steps: int, *, prunes: bool) -> None:
        self._trial, self._objective, self._total = trial, objective, total_steps
        self._prunes, self._offset, self._is_noted = prunes, 0, False
        self._reason: str | None = None

    def __call__(self, folder: Path) -> str | None:
        """Do what `look` does, and note the run at the first look."""
        if not self._is_noted:
            self._trial.note(run_id=folder.name)
            self._is_noted = True
        return self.look(folder)

    def look(self, folder: Path) -> str | None:
        """Report what the journal of a run folder has since the last look; return why the training should stop."""
        curve, metric = self._objective.curve, self._objective.metric
        if curve is None:
            return None
        events, self._offset = read_events(folder / JOURNAL_NAME, self._offset)
        for event in events:
            if event.kind != "metrics" or curve not in event.values or self._reason is not None:
                continue
            score = event.values[curve]
            if self._trial.report(score, event.step, total_steps=self._total) and self._prunes:
                self._reason = (
                    f"pruned: {metric.text(score)} at step {event.step:,} of {self._total:,} is worse than the "
                    f"median of the sweep's trials there"
                )
        return self._reason
