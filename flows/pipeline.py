"""The pipeline: prepare, train, evaluate, register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow

from pikavae.config import Config
from pikavae.operations import summary
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.register import register
from tasks.train import train


@flow(name="pipeline", flow_run_name="{config.data.source} {config.data.image_size}px", persist_result=False)
def pipeline(config: Config, fresh: bool = False) -> dict[str, Any]:
    """Prepare the pictures, train the autoencoder, measure it, register it.

    Args:
        config: everything that decides what the run does.
        fresh: train again even if the same was trained before.
    """
    return run_stages(config, fresh=fresh)


def run_stages(config: Config, *, fresh: bool = False, start: Path | None = None) -> dict[str, Any]:
    """The four tasks in their order, within a flow; `start` is a snapshot folder with the first weights."""
    prepared = prepare(config)
    trained = train(config, prepared, fresh=fresh, start=start)
    evaluated = evaluate(config, prepared, trained)
    registered = register(config, prepared, trained, evaluated)
    return summary(prepared, trained, evaluated, registered)
