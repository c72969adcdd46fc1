"""Production: promote a version, take it back, and tell what happened."""

from __future__ import annotations

from typing import Any

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.home import home
from pikavae.operations.models import RUN_MODEL, register_model
from pikavae.registry import production
from pikavae.registry.production import Promotion
from pikavae.tracking import connect


def promote(model: str, config: Config, *, reason: str) -> Promotion:
    """Make a candidate the champion.

    Args:
        model: a version number, or `run:<id>[@step or @best]`, which is registered first when it is not yet.
        config: names the registered model of the candidates; for a run, the configuration that made it.
        reason: for the ledger.

    Raises:
        UserError: there is no such version, run or step, or the reason is empty; nothing was moved.
    """
    if not reason.strip():
        raise UserError("--reason: it is empty; say why, for those who read the ledger later")
    if RUN_MODEL.fullmatch(model):
        version = register_model(model, config).version.version
    elif model.isdecimal():
        version = int(model)
    else:
        raise UserError(f"promote {model!r}: name a version number, or run:<id>[@step or @best]")
    return production.promote(
        connect(home()), home(), model_name=config.registry.model_name, version=version, reason=reason
    )


def rollback(*, reason: str) -> Promotion:
    """Make the previous champion the champion again.

    Raises:
        UserError: there is no previous champion, or the reason is empty; nothing was moved.
    """
    return production.rollback(connect(home()), home(), reason=reason)


def history() -> list[dict[str, Any]]:
    """The ledger's events, the oldest first, its chain verified."""
    return production.history(home())


def promotion_result(done: Promotion) -> dict[str, Any]:
    """The keys of `pikavae promote --json`. Numbers are candidate versions, but `production_version`."""
    return {
        "version": done.version,
        "production_version": done.production_version,
        "champion": done.version,
        "previous": done.previous,
        "verdicts": None,
    }
