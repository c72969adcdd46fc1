"""Stage two as a Prefect task."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from pikavae import operations
from pikavae.config import Config
from pikavae.operations import Prepared, Trained
from tasks.retries import DELAYS_SECONDS, is_transient


@task(
    name="train",
    task_run_name="train f{config.model.downsampling_factor} with {config.optimizer.name}",
    retries=len(DELAYS_SECONDS),
    retry_delay_seconds=DELAYS_SECONDS,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def train(config: Config, prepared: Prepared, *, fresh: bool, start: Path | None) -> Trained:
    """Train, go on with an unfinished training, or find a finished one; the MLflow run points to this flow run."""
    links = {
        "pikavae.flow_run_id": str(flow_run.id),
        "pikavae.flow_run_name": str(flow_run.name),
        **({"pikavae.flow_run_url": url} if (url := str(flow_run.ui_url)).startswith("http") else {}),
    }
    return operations.train(config, prepared, fresh=fresh, start=start, links=links)
