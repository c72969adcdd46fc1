"""Show what is pending of the notifications, and try the addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flows.terminal.command import Arguments, Result
from flows.terminal.options import NotifyOptions
from flows.terminal.tables import label_text
from pikavae.errors import PikavaeError, UserError


def notify(arguments: Arguments[NotifyOptions]) -> Result:
    """Show each address with what is pending there, or send a test to all.

    Raises:
        UserError: no address is configured, or `--test` and `--send` are both given.
        UndeliveredTestError: a test did not arrive.
    """
    from pikavae import operations

    options, workspace = arguments.options, arguments.workspace
    if options.test and options.send:
        raise UserError("--test --send: one at a time; `--send` sends what is pending, `--test` a test")
    if options.test:
        return test_result(operations.send_test(workspace))
    states = operations.address_states(workspace, send_now=options.send)
    lines = []
    for state in states:
        pending = f"{len(state.pending)} pending, {state.delivered} delivered in 30 days"
        lines += [
            state.address,
            label_text("  state", f"{pending}{f'; last try: {state.error}' if state.error else ''}"),
        ]
        lines += [label_text("  pending", event) for event in state.pending]
        lines.append(label_text("  events", ", ".join(state.events) or "none"))
    return {"addresses": [asdict(state) for state in states]}, "\n".join(lines)


class UndeliveredTestError(PikavaeError):
    """Reports that a test did not arrive everywhere. The message has a line for each address."""

    def __init__(self, message: str, result: Mapping[str, Any]) -> None:
        """Keep the message, and the result that `--json` prints."""
        super().__init__(message)
        self.result = result


def test_result(found: dict[str, str]) -> Result:
    """Return that a test arrived everywhere.

    Raises:
        UndeliveredTestError: it did not.
    """
    lines = [f"{address}: {error or 'delivered'}" for address, error in found.items()]
    result = {"addresses": [{"address": address, "error": error} for address, error in found.items()]}
    if any(found.values()):
        raise UndeliveredTestError("\n".join(["notify --test: not everybody was reached", *lines]), result)
    return result, "\n".join(lines)
