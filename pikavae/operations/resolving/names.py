"""Tell apart the forms of a model's name: a version, the champion, a run, a path, a model on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from pikavae.errors import UserError
from pikavae.tracker.tags import CHAMPION, PREVIOUS
from pikavae.weights.parts import MARK
from pikavae.workspace.home import expand_user

HUB = "hub:"
RUN_MODEL = re.compile(r"run:([^@]*)(?:@(.*))?")


def is_registered_name(name: str) -> bool:
    """Return True for a version, `champion`, `previous` or `run:...`, which take precedence over paths."""
    return name.isdecimal() or name in {CHAMPION, PREVIOUS} or name.startswith("run:")


def path_of(name: str) -> Path | None:
    """Return the path that a name stands for; None if nothing is there, or the name cannot be a path."""
    try:
        path = expand_user(name, "model")
        path.stat()
    except (OSError, ValueError, UserError):  # too long; a zero byte; the home of an unknown user
        return None
    return path


def published_path(name: str, *, field: str) -> Path:
    """Return the file or folder of a path or a hub id; a model on the hub is downloaded.

    Raises:
        UserError: there is no such file, folder or model.
    """
    if name.startswith(HUB):
        from pikavae.data.sources.hub_files import fetch_weights

        name, mark, part = name.removeprefix(HUB).partition(MARK)
        return Path(f"{fetch_weights(name, field=field)}{mark}{part}")
    path = path_of(name)
    if path is None and MARK in name and path_of(name.rpartition(MARK)[0]):
        path = expand_user(name, field)
    if path is None:
        raise UserError(
            f"{field} {name!r}: no such file or folder; a model of the hub is named {HUB}ORG/NAME, one of this "
            f"project by its version number, champion, or run:<id>[@step or @best]"
        )
    return path.absolute()
