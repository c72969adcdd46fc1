"""Stage four as a Prefect task."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from pikavae import operations
from pikavae.config import Config
from pikavae.operations import Evaluated, Prepared, Registered, Trained
from tasks.retries import DELAYS_SECONDS, is_transient


@task(
    name="register",
    task_run_name="register {trained.run.run_id}",
    retries=len(DELAYS_SECONDS),
    retry_delay_seconds=DELAYS_SECONDS,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def register(config: Config, prepared: Prepared, trained: Trained, evaluated: Evaluated) -> Registered:
    """Register the run's last snapshot, and show scores, pictures and links on the flow run's page."""
    registered = operations.register(config, prepared, trained, evaluated)
    create_markdown_artifact(
        operations.result_markdown(prepared, trained, evaluated, registered),
        key="pipeline-result",
        description="Scores, pictures and links of the run",
    )
    return registered
