"""Move the champion: ask for a promotion, approve it, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.command import Arguments, Result
from flows.options import PromoteOptions, ReasonOptions
from pikavae.errors import GateError, UserError

if TYPE_CHECKING:
    from pikavae.operations import Promoted


def promote(arguments: Arguments[PromoteOptions]) -> Result:
    """Ask for a version to become champion.

    Raises:
        GateError: a gate refused, or the version waits for approval.
    """
    from pikavae import operations

    options = arguments.options
    workspace = arguments.workspace
    candidate = operations.find_or_register(workspace, arguments.names[0], arguments.config)
    done = operations.promote(workspace, candidate, arguments.config, reason=options.reason, force=options.force)
    if done.command is None:
        return done.result(), _describe(done)
    gates = operations.verdict_lines(workspace, done.verdicts)
    lines = [f"version {done.version} waits for approval:", *gates, done.command]
    raise GateError("\n".join(lines), done.result())


def approve(arguments: Arguments[ReasonOptions]) -> Result:
    """Complete a promotion that was asked for."""
    (version,) = arguments.names
    if not version.isdecimal():
        raise UserError(f"approve {version!r}: name one version number; `pikavae models list` lists them")
    from pikavae import operations

    done = operations.approve(arguments.workspace, int(version), arguments.config, reason=arguments.options.reason)
    return done.result(), _describe(done)


def rollback(arguments: Arguments[ReasonOptions]) -> Result:
    """Make the previous champion the champion again."""
    from pikavae import operations

    done = operations.rollback(arguments.workspace, reason=arguments.options.reason)
    return done.result(), f"version {done.version} is champion again"


def _describe(done: Promoted) -> str:
    state = "is champion" if done.changed else "is champion already"
    return f"version {done.version} {state} (production version {done.production_version})"
