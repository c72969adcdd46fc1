"""Define the pipeline as a flow: prepare, train, evaluate, register."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.absolute import is_deployed, refuse_relative_paths
from flows.notifying import notifying_flow, tell_end
from pikavae.config import Config
from pikavae.operations import ResolvedModel, Workspace, run_name, starting_weights, summary
from tasks.stages import evaluate, prepare, register, train


@flow(
    name="pipeline",
    flow_run_name="{config.data.source} {config.data.image_size}px",
    persist_result=False,
    on_failure=[tell_end],
    on_crashed=[tell_end],
)
def pipeline(config: Config, fresh: bool = False) -> dict[str, Any]:
    """Prepare the pictures, train the autoencoder, measure it, register it.

    Args:
        config: everything that decides what the run does.
        fresh: train again even if the same training is finished already.

    Raises:
        UserError: a worker runs it, and a path of the configuration is relative.
    """
    workspace = Workspace.open()
    with notifying_flow(workspace, run_name(config)):
        if is_deployed():
            refuse_relative_paths(config)
        return run_stages(workspace, config, start=starting_weights(workspace, config), fresh=fresh)


def run_stages(
    workspace: Workspace, config: Config, *, start: ResolvedModel | None, fresh: bool = False
) -> dict[str, Any]:
    """Run the four tasks in order, within a flow; `start` has the first weights."""
    prepared = prepare(workspace, config)
    trained = train(workspace, config, prepared, start=start, fresh=fresh)
    evaluated = evaluate(workspace, config, prepared, trained)
    registered = register(workspace, config, prepared, trained, evaluated)
    return summary(prepared, trained, evaluated, registered)
