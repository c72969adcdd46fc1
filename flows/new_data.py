"""Poll a source on a schedule, and train again when it has enough new pictures."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.runtime import deployment
from prefect.states import Completed
from pydantic import Field

from flows.absolute import refuse_relative_paths
from flows.forms import Advanced, Minutes, Preset, Text, form_config, form_labels, name_polling
from flows.naming import tag_flow_run
from flows.notifying import notifying_flow, tell_end
from flows.pipeline import run_stages
from flows.server.late_runs import remove_late_runs
from pikavae import operations
from pikavae.config import Config
from pikavae.operations import Labels, Limits, NewDataRule, Polled, Retraining, Workspace
from pikavae.operations.running.new_data import STANDS
from tasks.stages import stand

FLOW_NAME = "retrain-on-new-data"
STATES = {"none": "NoNews", "waits": "Waits", "refused": "Refused", "retrained": "Retrained", "gave up": "GaveUp"}
"""The names of a flow run's state by what a poll decided."""

Amount = Annotated[str, Field(pattern=r"^\s*[0-9]+([.][0-9]+)?\s*%?\s*$")]


@flow(
    name=FLOW_NAME,
    flow_run_name=name_polling,
    persist_result=False,
    on_failure=[tell_end],
    on_crashed=[tell_end],
)
def retrain_on_new_data(
    preset: Preset = "demo",
    source: Text = "",
    name: Text = "",
    minutes: Minutes = 0,
    at_least: Amount = "10%",
    quiet_minutes: Minutes = 10,
    from_champion: bool = False,
    tries: Annotated[int, Field(ge=1)] = 3,
    limits: Limits | None = None,
    labels: Labels | None = None,
    advanced: Advanced | None = None,
    config: Config | None = None,
) -> State[dict[str, Any]]:
    """Train if the source has enough new pictures, which are all there and not worse than those before.

    Args:
        preset: the settings to begin with.
        source: the folder, the files (a glob) or the hub:ORG/NAME that is polled.
        name: the name of each run in MLflow; by default the preset, what differs from it, and the time.
        minutes: training time after which a run ends; 0 to end it by its steps.
        at_least: how many new pictures are enough: a number, or a share such as 10%.
        quiet_minutes: how long no file may have changed, so that nothing is read while it is copied.
        from_champion: begin with the champion's weights instead of new ones.
        tries: how often a training that fails is begun.
        limits: how much worse the new pictures may be than those of the last training.
        labels: note and tags of each run, with its name.
        advanced: every other setting; what is not given is as the preset says.
        config: a whole configuration instead of the preset; schedules hold one.

    Raises:
        UserError: a setting is not valid, a path is relative, or the source never has new pictures.
    """
    labels = form_labels(preset=preset, name=name, labels=labels, config=config)
    config = form_config(preset=preset, source=source, minutes=minutes, advanced=advanced, config=config)
    rule = NewDataRule.of(at_least, quiet_minutes=quiet_minutes, tries=tries, limits=limits)
    workspace = operations.Workspace.open()
    _drop_late_polls()
    with notifying_flow(workspace, f"{FLOW_NAME} {operations.run_name(config, labels)}"):
        tag_flow_run(labels)
        refuse_relative_paths(config)
        operations.find_missing_standings(workspace, config)
        polled = operations.retrain_on_new_data(
            workspace,
            config,
            str(deployment.name or FLOW_NAME),
            rule,
            lambda retraining: _train(workspace, config, labels, retraining),
            from_champion=from_champion,
            asked=_is_asked_for(),
        )
    return show_poll(polled)


def _train(workspace: Workspace, config: Config, labels: Labels, retraining: Retraining) -> dict[str, Any]:
    """Run the stages, and say how the new version stands against the champion."""
    done = run_stages(workspace, config, start=retraining.start, labels=labels, compares=True)
    standing = stand(workspace, config, done["version"])
    return {**done, "standing": standing.content(), STANDS: standing.line()}


def _drop_late_polls() -> None:
    """Remove the polls that waited while a training was at work: this one sees what they would."""
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is not None and run.deployment_id is not None:
        with get_client(sync_client=True) as client:
            remove_late_runs(client, run.deployment_id, future=False)


def _is_asked_for() -> bool:
    """Return True if a person asked for this run, and no schedule."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and not context.flow_run.auto_scheduled


def show_poll(polled: Polled) -> State[dict[str, Any]]:
    """Return the state of a poll's flow run, and show what it did on the run's page."""
    if polled.what in {"refused", "retrained", "gave up"}:
        create_markdown_artifact(polled.words, key="new-data")
    data = {"decision": polled.what, "words": polled.words, **polled.result}
    return Completed(name=STATES[polled.what], message=polled.words, data=data)
