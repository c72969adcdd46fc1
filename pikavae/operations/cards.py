"""What is said of a model outside: its card, and the scaling of its latents, by the report that measured it."""

from __future__ import annotations

import json
from pathlib import Path

from pikavae import runs
from pikavae.config import Config
from pikavae.evaluation.model_card import model_card
from pikavae.evaluation.report import Report
from pikavae.home import home
from pikavae.model.snapshot import CONFIG_NAME, SETTINGS_NAME, model_config
from pikavae.operations.results import find_evaluated
from pikavae.presets import load_config

IMPORTED_MARK = "# Weights of another maker: their sizes and the size of their pictures; all else is a default.\n"
"""The first line of the configuration of an imported snapshot."""


def card_of(snapshot: Path, report: Report | None, name: str) -> str:
    """The card of a snapshot or diffusers folder."""
    settings, sizes = snapshot / SETTINGS_NAME, snapshot / CONFIG_NAME
    if settings.is_file():
        is_imported = settings.read_text(encoding="utf-8").startswith(IMPORTED_MARK)
        return model_card(report, load_config(settings), name=name, is_imported=is_imported)
    config = Config(model=model_config(runs.read_json(sizes), where=str(sizes)))
    return model_card(report, config, name=name, is_imported=True)


def has_the_latents_of_others(snapshot: Path) -> bool:
    """Whether a snapshot's latents are those of published weights, so that diffusion models of theirs go on working.

    Such weights keep the scaling factor that they came with: imported ones that tell it, and those of which the decoder
    alone was trained.
    """
    settings = snapshot / SETTINGS_NAME
    if not settings.is_file() or settings.read_text(encoding="utf-8").startswith(IMPORTED_MARK):
        return "scaling_factor" in runs.read_json(snapshot / CONFIG_NAME)
    return load_config(settings).training.trainable == "decoder"


def newest_report(snapshot: Path) -> Report | None:
    """The newest whole report of this home on a snapshot's sizes and weights."""
    digest = runs.snapshot_digest(snapshot)
    records = sorted(
        (home() / "evaluations").glob("*/stage.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    for path in records:
        if json.loads(path.read_text(encoding="utf-8"))["inputs"].get("model") == digest and (
            found := find_evaluated(path.parent.name)
        ):
            return found.report
    return None
