"""Promotion from Prefect's forms: one asks for it, the other approves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from pydantic import Field

from pikavae import operations
from pikavae.errors import GateError
from pikavae.operations import Promoted

Text = Annotated[str, Field(min_length=1)]


@flow(name="promote", flow_run_name="promote {model}", persist_result=False)
def promote(model: Text, reason: Text, *, force: bool = False) -> dict[str, Any]:
    """Ask for a candidate to become champion: it is measured, and what the gates say is recorded.

    Args:
        model: a version number, or run:ID with @STEP or @best or neither.
        reason: why, for the ledger.
        force: override gates that fail; it is recorded, and still waits for approval.
    """
    try:
        done = operations.promote(model, operations.config_of_model(model), reason=reason, force=force)
    except GateError as refusal:
        _show_gates(refusal.result.get("verdicts"))
        raise
    return _show(done, reason)


@flow(name="approve", flow_run_name="approve {model}", persist_result=False)
def approve(model: Annotated[int, Field(ge=1)], reason: Text) -> dict[str, Any]:
    """Complete a promotion that was asked for.

    Args:
        model: the version number.
        reason: why, for the ledger.
    """
    return _show(operations.approve(model, operations.config_of_model(str(model)), reason=reason), reason)


def _show(done: Promoted, reason: str) -> dict[str, Any]:
    """What came of it, and what the gates said, as artifacts of the flow run."""
    if done.command is None:
        said = (
            f"`pikavae` version **{done.version}** is champion (production version {done.production_version}); "
            f"`pikavae rollback` goes back to {done.previous or 'nothing'}."
        )
    else:
        said = (
            f"`pikavae` version **{done.version}** waits for approval: run the deployment `approve`, or\n\n"
            f"    {done.command}"
        )
    create_markdown_artifact(f"{said}\n\n> {reason}", key="promotion")
    _show_gates(done.verdicts)
    return done.result()


def _show_gates(verdicts: Mapping[str, Any] | None) -> None:
    gates = (verdicts or {}).get("gates", {})
    rows = [{"gate": name, **finding} for name, gate in gates.items() for finding in gate["findings"]]
    if rows:
        create_table_artifact(rows, key="promotion-gates")
