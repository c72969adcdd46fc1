"""Stage three as a Prefect task."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from pikavae import operations
from pikavae.config import Config
from pikavae.operations import Evaluated, Prepared, Trained
from tasks.retries import DELAYS_SECONDS, is_transient


@task(
    name="evaluate",
    task_run_name="evaluate {trained.run.run_id}",
    retries=len(DELAYS_SECONDS),
    retry_delay_seconds=DELAYS_SECONDS,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def evaluate(config: Config, prepared: Prepared, trained: Trained) -> Evaluated:
    """Measure the run's last snapshot, or find its report."""
    return operations.evaluate(config, prepared, trained)
