"""Whether there is something new to learn from, and which weights to begin with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pikavae import runs, stages
from pikavae.config import Config
from pikavae.data.prepare import fingerprint_of, prepare_inputs
from pikavae.home import home
from pikavae.operations.pipeline import use_threads
from pikavae.operations.planning import plan
from pikavae.registry import versions
from pikavae.registry.production_model import PRODUCTION_NAME
from pikavae.runs import RunFolder
from pikavae.stages import Plan
from pikavae.tracking import connect


@dataclass(frozen=True)
class Retraining:
    """What a retraining would do.

    Attributes:
        plans: the four stages by name.
        start: the snapshot folder that training begins with; None where it begins with new weights.
    """

    plans: dict[str, Plan]
    start: Path | None = None

    @property
    def has_news(self) -> bool:
        """Whether any stage has something to do."""
        return any(stage.status != "hit" for stage in self.plans.values())


def plan_retraining(config: Config, *, from_champion: bool = False) -> Retraining:
    """What is new since the same was trained before.

    From the champion's weights there is nothing new either when the champion itself was trained on these data with this
    configuration, wherever it began: otherwise each promotion would be a reason to train on.

    Raises:
        UserError: the source cannot be read, or there is no champion to begin with.
    """
    if not from_champion:
        return Retraining(plan(config))
    client = connect(home())
    champion = versions.get_champion(client, PRODUCTION_NAME)
    start = versions.snapshot_of(client, champion, home() / "downloads")
    if run := _run_of(champion.tags.get("pikavae.run_id", "")):
        root = home() / "prepared"
        fingerprint = fingerprint_of(config.data, prepare_inputs(config.data, root), root)
        inputs = stages.train_inputs(config, fingerprint, use_threads(config))
        earlier = {name: value for name, value in run.record["inputs"].items() if name != stages.START}
        if earlier == inputs:
            return Retraining(dict.fromkeys(stages.STAGES, Plan("hit", f"the champion's own run {run.run_id}")), start)
    return Retraining(plan(config, start=start), start)


def _run_of(run_id: str) -> RunFolder | None:
    return next((run for run in runs.run_folders(home()) if run.run_id == run_id), None)
