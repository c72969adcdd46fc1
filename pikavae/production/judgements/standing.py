"""Keep how a candidate stands against the champion, as a retraining found it, beside the candidate's registration."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pikavae.production.record.verdicts import Outcome
from pikavae.workspace.files import write_atomically
from pikavae.workspace.records import Record

FOLDER_NAME = "standings"
EXPECTED_NAME = "expected.json"
PROPOSALS: dict[Outcome, str] = {
    "pass": "proposed for promotion",
    "hold": "a person must decide",
    "fail": "not proposed",
}


class Standing(Record):
    """Holds how a candidate compares with the champion on the candidate's own validation pictures."""

    version: int
    """The candidate."""
    champion: int | None = None
    """The candidate that was champion; None if there was none."""
    outcome: Outcome | None = None
    """What all gates together say of the candidate; None if it could not be measured, and `reason` says why."""
    metric: str = "psnr"
    """The metric that ranks models."""
    gain: float | None = None
    """By how much the candidate is better by that metric: the mean over the pictures."""
    interval: Sequence[float] | None = None
    """The 95 % interval of `gain`."""
    findings: Sequence[str] = ()
    """What the gates found that is no `pass`, a line each."""
    comparison: str | None = None
    """The page that shows both models' pictures, below the home."""
    reason: str = ""

    def line(self) -> str:
        """Return it in one line, such as `PSNR 2.10 dB worse than champion 3 (95 %: -2.31 to -1.88); not proposed`."""
        if self.outcome is None:
            against = "" if self.champion is None else f" with champion {self.champion}"
            return f"not compared{against}: {self.reason}"
        proposal = PROPOSALS[self.outcome]
        if self.champion is None:
            return f"there is no champion yet; {proposal}"
        if self.gain is None:
            return f"champion {self.champion} could not be compared; {proposal}"
        return f"{self._difference(self.gain)}; {proposal}"

    def _difference(self, gain: float) -> str:
        from pikavae.evaluation.metrics.definitions import METRICS  # it imports torch

        metric = METRICS[self.metric]
        how = "better" if gain > 0 else "worse"
        words = f"{metric.title} {metric.text(abs(gain))} {how} than champion {self.champion}"
        if self.interval is None:
            return words
        low, high = self.interval
        nothing = ", no difference shown" if low <= 0 <= high else ""
        return f"{words} (95 %: {low:+.{metric.digits}f} to {high:+.{metric.digits}f}{nothing})"

    def lines(self, home: Path) -> list[str]:
        """Return it with what the gates found and where both models' pictures are, a line each."""
        page = [] if self.comparison is None else [f"Both models' pictures: {home / self.comparison}"]
        return [f"{self.line()}.", *self.findings, *page]

    def save(self, run: Path, key: str) -> None:
        """Write it into the run's folder, under the key of the registration."""
        write_atomically(_path(run, key), self.to_json())

    @classmethod
    def find(cls, run: Path, key: str) -> Standing | None:
        """Return the standing of a registration; None if no retraining made it.

        Raises:
            DamagedFileError: its file is damaged.
        """
        try:
            return cls.read(_path(run, key))
        except FileNotFoundError:
            return None


class Expected(Record):
    """Says that a retraining is to compare the versions of a run with the champion, `standings/expected.json`."""

    since: str
    """When its training was finished, in UTC, ISO 8601."""


def expect_standing(run: Path) -> None:
    """Note in a run's folder that its versions are to be compared, should this process be killed before it does."""
    expected = Expected(since=datetime.now(UTC).isoformat(timespec="seconds"))
    write_atomically(run / FOLDER_NAME / EXPECTED_NAME, expected.to_json())


def is_expected(run: Path, key: str) -> bool:
    """Return True if a registration of a run is to be compared and was not yet."""
    return (run / FOLDER_NAME / EXPECTED_NAME).is_file() and not _path(run, key).is_file()


def _path(run: Path, key: str) -> Path:
    return run / FOLDER_NAME / f"{key}.json"
