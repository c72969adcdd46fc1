"""Stage one as a Prefect task."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from pikavae import operations
from pikavae.config import Config
from pikavae.operations import Prepared
from tasks.retries import DELAYS_SECONDS, is_transient


@task(
    name="prepare",
    task_run_name="prepare {config.data.source}",
    retries=len(DELAYS_SECONDS),
    retry_delay_seconds=DELAYS_SECONDS,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def prepare(config: Config) -> Prepared:
    """Prepare the pictures, or find them prepared, and show on the flow run's page what they are."""
    prepared = operations.prepare(config)
    create_markdown_artifact(
        operations.data_markdown(prepared), key="prepared-set", description="Counts, and what was set aside"
    )
    return prepared
