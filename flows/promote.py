"""Promotion from Prefect's form."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from pikavae import operations


@flow(name="promote", flow_run_name="promote {model}", persist_result=False)
def promote(model: Annotated[str, Field(min_length=1)], reason: Annotated[str, Field(min_length=1)]) -> dict[str, Any]:
    """Make a candidate the champion.

    Args:
        model: a version number, or run:ID with @STEP or @best or neither.
        reason: why, for the ledger.
    """
    done = operations.promote(model, operations.config_of_model(model), reason=reason)
    create_markdown_artifact(
        f"`pikavae` version **{done.version}** is champion (production version {done.production_version}); "
        f"`pikavae rollback` goes back to {done.previous or 'nothing'}.\n\n> {reason}",
        key="promotion",
    )
    return operations.promotion_result(done)
