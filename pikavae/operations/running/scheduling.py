"""Check and resolve what a configuration names, before a schedule runs it unattended and in another folder."""

from __future__ import annotations

from pathlib import Path

from pikavae.config import Config
from pikavae.data.sources.open import open_sources
from pikavae.errors import UserError
from pikavae.operations.resolving.names import HUB
from pikavae.operations.resolving.resolve import starting_weights, teacher_model
from pikavae.operations.running.pipeline import refuse_what_cannot_begin
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.registry import versions
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION

OPENED = {"data.source", "data.validation_source", "training.start", "training.teacher"}
"""Settings that are checked by opening what they name."""


def settle(workspace: Workspace, config: Config, *, from_champion: bool = False) -> Config:
    """Return a configuration that means the same in every folder, after checking everything that it names.

    What is on the hub is not checked.

    Args:
        workspace: the state folder and its store.
        config: the configuration; its paths are relative to the working directory.
        from_champion: begin with the champion's weights.

    Raises:
        UserError: something that it names does not exist or cannot be read, so every run would fail.
    """
    settled = config.seen_from(Path.cwd())
    for name, path in settled.named_paths(Path.cwd()).items():
        if name not in OPENED and not path.exists():
            raise UserError(f"{name} {str(path)!r}: no such file or folder")
    open_sources(settled.data)
    if from_champion:
        versions.get_by_alias(workspace.client, PRODUCTION_NAME, CHAMPION)
        return settled
    start, teacher = settled.training.start, settled.training.teacher
    if teacher is not None and not teacher.startswith(HUB):
        teacher_model(workspace, settled)
    if start is None or not start.startswith(HUB):
        refuse_what_cannot_begin(settled, starting_weights(workspace, settled))
    return settled
