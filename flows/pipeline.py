"""Define the pipeline as a flow: prepare, train, evaluate, register."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.absolute import is_deployed, refuse_relative_paths
from flows.forms import Advanced, Minutes, Preset, Text, form_config, form_labels, name_flow_run
from flows.naming import tag_flow_run
from flows.notifying import notifying_flow, tell_end
from pikavae.config import Config
from pikavae.operations import Labels, ResolvedModel, Workspace, expect_standing, run_name, starting_weights, summary
from tasks.stages import evaluate, prepare, register, train


@flow(
    name="pipeline",
    flow_run_name=name_flow_run,
    persist_result=False,
    on_failure=[tell_end],
    on_crashed=[tell_end],
)
def pipeline(
    preset: Preset = "demo",
    source: Text = "",
    name: Text = "",
    minutes: Minutes = 0,
    fresh: bool = False,
    labels: Labels | None = None,
    advanced: Advanced | None = None,
    config: Config | None = None,
) -> dict[str, Any]:
    """Prepare the pictures, train the autoencoder, measure it, register it.

    Args:
        preset: the settings to begin with.
        source: where the pictures are: a folder, a glob of files, hub:ORG/NAME; by default the preset's.
        name: the run's name in MLflow and Prefect; by default the preset, what differs from it, and the time.
        minutes: training time after which the run ends; 0 to end it by its steps.
        fresh: train again even if the same training is finished already.
        labels: note and tags of the run, with its name.
        advanced: every other setting; what is not given is as the preset says.
        config: a whole configuration instead of the preset; schedules hold one.

    Raises:
        UserError: a setting is not valid, or a worker runs it and a path of the configuration is relative.
    """
    labels = form_labels(preset=preset, name=name, labels=labels, config=config)
    config = form_config(preset=preset, source=source, minutes=minutes, advanced=advanced, config=config)
    workspace = Workspace.open()
    with notifying_flow(workspace, run_name(config, labels)):
        tag_flow_run(labels)
        if is_deployed():
            refuse_relative_paths(config)
        return run_stages(workspace, config, start=starting_weights(workspace, config), fresh=fresh, labels=labels)


def run_stages(
    workspace: Workspace,
    config: Config,
    *,
    start: ResolvedModel | None,
    fresh: bool = False,
    labels: Labels,
    compares: bool = False,
) -> dict[str, Any]:
    """Run the four tasks in order, within a flow.

    Args:
        workspace: the state folder and its store.
        config: the whole configuration.
        start: the first weights.
        fresh: train again even if the same training is finished already.
        labels: what the user calls the run.
        compares: True if the flow compares the version with the champion afterwards; noted, in case it is killed.
    """
    prepared = prepare(workspace, config)
    trained = train(workspace, config, prepared, start=start, fresh=fresh, labels=labels)
    if compares:
        expect_standing(trained.run.path)
    evaluated = evaluate(workspace, config, prepared, trained)
    registered = register(workspace, config, prepared, trained, evaluated)
    return summary(prepared, trained, evaluated, registered)
