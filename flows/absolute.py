"""Refuse relative paths in what a worker runs by Prefect's forms, schedules and prefect.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect.context import FlowRunContext

from pikavae.config import MODEL, Config, NamesPath
from pikavae.errors import UserError

OTHERS = {"model": MODEL, "out": NamesPath(), "source": NamesPath(unless="sprites|hub:.*")}
"""Names of the flows' parameters, besides `config`, that may hold a path."""


def refuse_relative_paths(config: Config | None, **others: str | None) -> None:
    """Refuse paths that mean another file, or none, in a worker's folder.

    Args:
        config: the configuration, if there is one.
        others: other parameters of the flow, by name.

    Raises:
        UserError: a path is relative; the message names the first.
    """
    relative = {name: value for name, value in others.items() if value and OTHERS[name].is_relative(value)}
    relative |= {} if config is None else config.relative_paths()
    for name, value in relative.items():
        raise UserError(
            f"{name} {value!r}: a relative path, and a worker runs in a temporary folder; give an absolute path"
        )


def refuse_relative_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings by dotted name that have a relative path, or are none that a watch takes.

    Raises:
        UserError: naming the first.
    """
    from pikavae.operations import check_settings

    refuse_relative_paths(check_settings(settings))


def is_deployed() -> bool:
    """Return True if a deployment runs the flow, and so in a worker's folder."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.deployment_id is not None
