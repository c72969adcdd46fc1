"""Define the four stages as Prefect tasks: names, retries, artifacts of the flow run, and one call of the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import TaskRun
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from pikavae import operations
from pikavae.config import Config
from pikavae.errors import TransientError
from pikavae.operations import Evaluated, Labels, Prepared, Registered, ResolvedModel, Standing, Trained, Workspace
from pikavae.tracker.tags import FLOW_RUN_NAME_TAG, FLOW_RUN_TAG, FLOW_RUN_URL_TAG
from tasks.live import live_page

DELAYS_SECONDS = [5.0, 30.0]

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return True if the task failed for a reason that may pass, such as a server that does not answer.

    The user's mistakes and the failures of training are not retried, because another attempt would only hide them.
    """
    return isinstance(state.result(raise_on_failure=False), TransientError)


def stage(name: str, run_name: str) -> Callable[[Callable[Parameters, Returned]], Task[Parameters, Returned]]:
    """Return the decorator of a stage, which is retried after a transient failure and never cached by Prefect.

    Args:
        name: the name of the task.
        run_name: the name of its runs, with the parameters' fields in braces.
    """
    return task(
        name=name,
        task_run_name=run_name,
        retries=len(DELAYS_SECONDS),
        retry_delay_seconds=DELAYS_SECONDS,
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


@stage("prepare", "prepare {config.data.source}")
def prepare(workspace: Workspace, config: Config) -> Prepared:
    """Prepare the pictures or reuse a prepared set, and describe it on the flow run's page."""
    prepared = operations.prepare(workspace, config)
    create_markdown_artifact(
        operations.data_markdown(prepared), key="prepared-set", description="Counts, and what was set aside"
    )
    return prepared


@stage("train", "train f{config.model.downsampling_factor} with {config.optimizer.name}")
def train(
    workspace: Workspace,
    config: Config,
    prepared: Prepared,
    *,
    start: ResolvedModel | None,
    fresh: bool,
    labels: Labels,
) -> Trained:
    """Train, resume an unfinished training, or reuse a finished one; MLflow's run and this flow run show each other."""
    links = {
        FLOW_RUN_TAG: str(flow_run.id),
        FLOW_RUN_NAME_TAG: str(flow_run.name),
        **({FLOW_RUN_URL_TAG: url} if (url := str(flow_run.ui_url)).startswith("http") else {}),
    }
    return operations.train(
        workspace, config, prepared, start=start, fresh=fresh, links=links, labels=labels, watch=live_page
    )


@stage("evaluate", "evaluate {trained.run.run_id}")
def evaluate(workspace: Workspace, config: Config, prepared: Prepared, trained: Trained) -> Evaluated:
    """Measure the run's last snapshot, or reuse its report."""
    return operations.evaluate(workspace, config, prepared, trained)


@stage("register", "register {trained.run.run_id}")
def register(
    workspace: Workspace, config: Config, prepared: Prepared, trained: Trained, evaluated: Evaluated
) -> Registered:
    """Register the run's last snapshot, and show scores, pictures and links on the flow run's page."""
    registered = operations.register(workspace, config, prepared, trained, evaluated)
    create_markdown_artifact(
        operations.result_markdown(workspace, prepared, trained, evaluated, registered),
        key="pipeline-result",
        description="Scores, pictures and links of the run",
    )
    return registered


@stage("stand", "stand of version {version}")
def stand(workspace: Workspace, config: Config, version: int) -> Standing:
    """Find how a candidate stands against the champion, and keep that for those who are told of the candidate."""
    return operations.find_standing(workspace, config, version)
