"""Name runs so that a table of them tells them apart: by the preset, what differs from it, and the time."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.operations.stages.keys import NOT_IN_KEYS
from pikavae.presets import load_config, preset_names
from pikavae.tracker.client import Workspace
from pikavae.tracker.labels import Labels, label

logger = logging.getLogger(__name__)

SOURCE = "data.source"
LENGTH_OF_CHANGES = 60
"""How many characters of a name say what differs; a table of MLflow shows about these."""
NOT_IN_NAMES = (NOT_IN_KEYS - {"training.start"}) | {"data.workers"}
"""Settings that do not change what a run learns."""
SECTIONS_IN_NAMES = ("data.", "model.", "loss.", "optimizer.", "training.", "evaluation.")


def run_name(config: Config, labels: Labels, begun: datetime | None = None) -> str:
    """Return the run's name: the given one, or one such as `demo · loss.kl_weight 1e-6 · 27 Nov 15:40`.

    Args:
        config: the whole configuration.
        labels: the given name, and the preset.
        begun: when the run begins, in local time; now by default.
    """
    if labels.name:
        return labels.name
    begun = begun or datetime.now().astimezone()
    preset, changes = differences(config, labels.preset)
    shown = [
        _shown(name, value)
        for name, value in changes.items()
        if name.startswith(SECTIONS_IN_NAMES) and name not in NOT_IN_NAMES
    ]
    return " · ".join([preset, *_fitting(shown), f"{begun.day} {begun:%b %H:%M}"])


def label_earlier(workspace: Workspace, config: Config, run_id: str, labels: Labels) -> None:
    """Give an earlier run the labels that are given, and say what changed, and that it stays in its experiment."""
    for change in label(workspace.client, run_id, labels) if labels.is_given else ():
        logger.info("run %s: %s", run_id, change)
    experiment = workspace.client.get_experiment(workspace.client.get_run(run_id).info.experiment_id).name
    if experiment != config.tracking.experiment:
        logger.info(
            "run %s is in experiment %r and stays there, since MLflow moves no runs; --fresh trains again in %r",
            run_id,
            experiment,
            config.tracking.experiment,
        )


def differences(config: Config, preset: str | None) -> tuple[str, dict[str, Any]]:
    """Return the preset of a configuration by its short name, and the settings that differ from it.

    Args:
        config: the whole configuration.
        preset: the preset that it began with. Without one, or if it is no longer there, the most similar one is taken.
    """
    flat = config.flat()
    base = None if preset is None else _flat(preset)
    if preset is not None and base is not None:
        return Path(preset).stem, _changed(flat, base)
    found = {name: _changed(flat, base) for name in preset_names() if (base := _flat(name)) is not None}
    name = min(found, key=lambda name: len(found[name]))
    return name, found[name]


def _flat(preset: str) -> dict[str, Any] | None:
    """Return the settings of a preset; None if there is no such preset."""
    try:
        return _flat_preset(preset) if preset in preset_names() else load_config(preset).flat()
    except UserError:
        return None


@cache
def _flat_preset(name: str) -> dict[str, Any]:
    return load_config(name).flat()


def _changed(flat: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flat.items() if value != base[name]}


def _fitting(shown: list[str]) -> list[str]:
    """Return as many of the differences as a name has room for, and how many there are besides."""
    kept: list[str] = []
    for words in shown:
        if kept and sum(map(len, [*kept, words])) > LENGTH_OF_CHANGES:
            break
        kept.append(words)
    return [*kept, *([f"{len(shown) - len(kept)} more"] if len(kept) < len(shown) else [])]


def _shown(name: str, value: Any) -> str:
    """Return a setting and its value in a few characters; the source of the pictures needs no name."""
    text = _short(value)
    text = text if len(text) <= LENGTH_OF_CHANGES // 2 else f"{text[: LENGTH_OF_CHANGES // 2 - 1]}…"
    return text if name == SOURCE else f"{name} {text}"


def _short(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")
    if isinstance(value, list):
        return ",".join(map(_short, value)) or "empty"
    text = str(value).rstrip("/")
    return text if text.startswith("hub:") else text.rsplit("/", 1)[-1]
