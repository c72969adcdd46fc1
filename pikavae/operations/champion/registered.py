"""Find registered versions by any of their names, and list them with what made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pikavae.config import Config, EvaluationConfig
from pikavae.errors import DamagedFileError
from pikavae.operations.champion.promotion import status_of
from pikavae.operations.stages.accounting import disk_of_run, usage_of
from pikavae.operations.using.models import list_models
from pikavae.production.record.statuses import Status
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.queries import get_run
from pikavae.tracker.tags import IMPORT_TAG
from pikavae.workspace import runs
from pikavae.workspace.usage import Usage


@dataclass(frozen=True)
class Listed:
    """Holds a version and the facts that the registry does not have.

    Attributes:
        version: the registered version.
        status: what the ledger says of it.
        run_name: the name of its run in MLflow; None if the run is gone.
        source: `data.source` of its training, or where it was imported from; None if unknown.
        image_size: the side of the pictures in pixels; None if unknown.
        primary_metric: the metric that ranks it.
        run_note: what a person wrote about its run; empty if nobody did, or the run is gone.
        run_tags: the tags that people gave its run.
        used: what its run used: training and evaluations; None if nothing was recorded.
        disk_bytes: what its run's folder takes; None if that was not asked for.
    """

    version: Version
    status: Status
    run_name: str | None
    source: str | None
    image_size: int | None
    primary_metric: str
    run_note: str = ""
    run_tags: Mapping[str, str] = field(default_factory=dict)
    used: Usage | None = None
    disk_bytes: int | None = None

    @property
    def score(self) -> float | None:
        """Return its primary metric; None if it was never measured."""
        return self.version.metrics.get(f"val/{self.primary_metric}")


def registered_versions(workspace: Workspace, config: Config) -> list[Listed]:
    """Return the candidates, the newest first."""
    return [_describe(workspace, version) for version in list_models(workspace, config)]


def registered_version(workspace: Workspace, number: int, config: Config) -> Listed:
    """Return one candidate.

    Raises:
        UserError: there is no such version; the message lists the existing ones.
    """
    listed = _describe(workspace, versions.get_version(workspace.client, config.registry.model_name, number))
    return replace(listed, disk_bytes=disk_of_run(workspace.home, listed.version.run_id))


def _describe(workspace: Workspace, version: Version) -> Listed:
    config = _config_of(workspace, version.run_id)
    data, evaluation = config.get("data", {}), config.get("evaluation", {})
    run, used = get_run(workspace.client, version.run_id), usage_of(workspace.home, version.run_id)
    return Listed(
        version,
        status_of(workspace, version),
        run.name if run else None,
        version.tags.get(IMPORT_TAG) or data.get("source"),
        data.get("image_size"),
        evaluation.get("primary_metric") or EvaluationConfig().primary_metric,
        run.note if run else "",
        run.own_tags if run else {},
        used if used.attempts else None,
    )


def _config_of(workspace: Workspace, run_id: str) -> Mapping[str, Any]:
    """Return the configuration of a run of this home; empty for other runs."""
    try:
        return runs.RunFolder(workspace.home / "runs" / run_id).record.config
    except (OSError, DamagedFileError):
        return {}
