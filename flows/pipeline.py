"""Define the pipeline as a flow: prepare, train, evaluate, register."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.absolute import is_deployed, refuse_relative_paths
from flows.naming import UNNAMED, name_flow_run, tag_flow_run
from flows.notifying import notifying_flow, tell_end
from pikavae.config import Config
from pikavae.operations import Labels, ResolvedModel, Workspace, run_name, starting_weights, summary
from tasks.stages import evaluate, prepare, register, train


@flow(
    name="pipeline",
    flow_run_name=name_flow_run,
    persist_result=False,
    on_failure=[tell_end],
    on_crashed=[tell_end],
)
def pipeline(config: Config, fresh: bool = False, labels: Labels = UNNAMED) -> dict[str, Any]:
    """Prepare the pictures, train the autoencoder, measure it, register it.

    Args:
        config: everything that decides what the run does.
        fresh: train again even if the same training is finished already.
        labels: what the run is called.

    Raises:
        UserError: a worker runs it, and a path of the configuration is relative.
    """
    workspace = Workspace.open()
    with notifying_flow(workspace, run_name(config, labels)):
        tag_flow_run(labels)
        if is_deployed():
            refuse_relative_paths(config)
        return run_stages(workspace, config, start=starting_weights(workspace, config), fresh=fresh, labels=labels)


def run_stages(
    workspace: Workspace, config: Config, *, start: ResolvedModel | None, fresh: bool = False, labels: Labels
) -> dict[str, Any]:
    """Run the four tasks in order, within a flow; `start` has the first weights."""
    prepared = prepare(workspace, config)
    trained = train(workspace, config, prepared, start=start, fresh=fresh, labels=labels)
    evaluated = evaluate(workspace, config, prepared, trained)
    registered = register(workspace, config, prepared, trained, evaluated)
    return summary(prepared, trained, evaluated, registered)
