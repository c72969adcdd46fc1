"""Define the flows of promotion for Prefect's forms: one asks for it, the other approves."""

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
    """Ask for a candidate to become champion: measure it, and record the gates' verdict.

    Args:
        model: a version number, or run:ID with @STEP or @best or neither.
        reason: why, for the ledger.
        force: override gates that fail; it is recorded, and still waits for approval.
    """
    workspace = operations.Workspace.open()
    try:
        with operations.notifying(workspace):
            config = operations.config_of_model(workspace, model)
            candidate = operations.find_or_register(workspace, model, config)
            who = operations.through_prefect(workspace)
            done = operations.promote(workspace, candidate, config, reason=reason, force=force, actor=who)
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
    workspace = operations.Workspace.open()
    with operations.notifying(workspace):
        config = operations.config_of_model(workspace, str(model))
        done = operations.approve(workspace, model, config, reason=reason, actor=operations.through_prefect(workspace))
    return _show(done, reason)


def _show(done: Promoted, reason: str) -> dict[str, Any]:
    """Show the result and the gates' verdict as artifacts of the flow run."""
    if done.command is None:
        text = (
            f"`pikavae` version **{done.version}** is champion (production version {done.production_version}); "
            f"`pikavae rollback` would restore {done.previous or 'nothing'}."
        )
    else:
        text = (
            f"`pikavae` version **{done.version}** waits for approval: run the deployment `approve`, or\n\n"
            f"    {done.command}"
        )
    create_markdown_artifact(f"{text}\n\n> {reason}", key="promotion")
    result = done.result()
    _show_gates(result["verdicts"])
    return result


def _show_gates(verdicts: Mapping[str, Any] | None) -> None:
    gates = (verdicts or {}).get("gates", {})
    rows = [{"gate": name, **finding} for name, gate in gates.items() for finding in gate["findings"]]
    if rows:
        create_table_artifact(rows, key="promotion-gates")
