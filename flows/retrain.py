"""Train again on a schedule, if there is something new to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.absolute import refuse_relative_paths
from flows.forms import Advanced, Minutes, Preset, Text, form_config, form_labels, name_flow_run
from flows.naming import tag_flow_run
from flows.notifying import notifying_flow, tell_end
from flows.pipeline import run_stages
from pikavae import operations
from pikavae.config import Config
from pikavae.operations import Labels, Plan, Standing
from tasks.stages import stand

UNCHANGED = "skipped: data and configuration are unchanged"


@flow(
    name="retrain",
    flow_run_name=name_flow_run,
    persist_result=False,
    on_failure=[tell_end],
    on_crashed=[tell_end],
)
def retrain(
    preset: Preset = "demo",
    source: Text = "",
    name: Text = "",
    minutes: Minutes = 0,
    from_champion: bool = False,
    labels: Labels | None = None,
    advanced: Advanced | None = None,
    config: Config | None = None,
) -> State[dict[str, Any]]:
    """Run the pipeline again, unless data, configuration and code are those of a finished run.

    The flow run's state says how the new version stands against the champion.

    Args:
        preset: the settings to begin with.
        source: where the pictures are: a folder, a glob of files, hub:ORG/NAME; by default the preset's.
        name: the run's name in MLflow and Prefect; by default the preset, what differs from it, and the time.
        minutes: training time after which the run ends; 0 to end it by its steps.
        from_champion: begin with the champion's weights instead of new ones.
        labels: note and tags of the run, with its name.
        advanced: every other setting; what is not given is as the preset says.
        config: a whole configuration instead of the preset; schedules hold one.

    Raises:
        UserError: a setting is not valid, or a path of the configuration is relative.
    """
    labels = form_labels(preset=preset, name=name, labels=labels, config=config)
    config = form_config(preset=preset, source=source, minutes=minutes, advanced=advanced, config=config)
    workspace = operations.Workspace.open()
    with notifying_flow(workspace, f"retrain {operations.run_name(config, labels)}"):
        tag_flow_run(labels)
        refuse_relative_paths(config)
        return _retrain(workspace, config, labels, from_champion=from_champion)


def _retrain(
    workspace: operations.Workspace, config: Config, labels: Labels, *, from_champion: bool
) -> State[dict[str, Any]]:
    earlier = operations.find_missing_standings(workspace, config)
    retraining = operations.plan_retraining(workspace, config, from_champion=from_champion)
    if not retraining.has_news:
        return report_unchanged(retraining.plans, earlier)
    done = run_stages(workspace, config, start=retraining.start, labels=labels, compares=True)
    standing = stand(workspace, config, done["version"])
    news = [f"- {name}: {stage.reason}" for name, stage in retraining.plans.items() if stage.status != "done"]
    head = f"Registered **{done['model']} version {done['version']}**: {standing.line()}."
    found = [f"- {line}" for line in standing.lines(workspace.home)[1:]]
    create_markdown_artifact("\n".join([head, "", *found, "", "What was new:", "", *news]), key="retrain-result")
    data = {"skipped": False, **done, "standing": standing.content()}
    return Completed(message=f"version {done['version']}: {standing.line()}", data=data)


def report_unchanged(plans: dict[str, Plan], earlier: Sequence[Standing] = ()) -> State[dict[str, Any]]:
    """Report in the log, on the flow run's page and in its state that there was nothing to do.

    Args:
        plans: the plans of the four stages by name.
        earlier: how versions stand that an earlier retraining could not compare, because it was killed.
    """
    line = "; ".join([UNCHANGED, *(f"version {standing.version}: {standing.line()}" for standing in earlier)])
    get_run_logger().info(line)
    found = [f"- {name}: {stage.reason}" for name, stage in plans.items()]
    create_markdown_artifact("\n".join([f"**{line}**", "", *found]), key="retrain-result")
    data = {"skipped": True, "stages": {name: asdict(stage) for name, stage in plans.items()}}
    return Completed(message=line, data=data)
