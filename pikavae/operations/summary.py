"""What a finished run is told as: JSON for scripts, Markdown for Prefect, lines for a person."""

from __future__ import annotations

import base64
from typing import Any

from pikavae.home import home
from pikavae.operations.results import Evaluated, Prepared, Registered, Trained
from pikavae.tracking import ui_base, ui_url


def summary(prepared: Prepared, trained: Trained, evaluated: Evaluated, registered: Registered) -> dict[str, Any]:
    """The keys of `pikavae run --json`."""
    outcomes: dict[str, Prepared | Trained | Evaluated | Registered] = {
        "prepare": prepared,
        "train": trained,
        "evaluate": evaluated,
        "register": registered,
    }
    return {
        "run_id": trained.run.run_id,
        "fingerprint": prepared.pictures.fingerprint,
        "model": registered.version.name,
        "version": registered.version.version,
        "metrics": dict(evaluated.report.metrics),
        "stages": {
            name: {"status": "reused" if outcome.reused else "done", "seconds": round(outcome.seconds, 3)}
            for name, outcome in outcomes.items()
        },
        "report": str(evaluated.folder),
    }


def result_markdown(prepared: Prepared, trained: Trained, evaluated: Evaluated, registered: Registered) -> str:
    """The run on a page: scores against the baselines, links, and the panel of reconstructions."""
    run, version = trained.run, registered.version
    base = ui_base(home())
    experiment = str(trained.result["experiment_id"])
    where = (
        f"[open in MLflow]({ui_url(base, experiment, run.run_id)})"
        if base
        else f"`pikavae ui --run {run.run_id}` opens it"
    )
    panel = base64.b64encode((evaluated.folder / "panel.png").read_bytes()).decode()
    return "\n".join(
        [
            f"## {version.name} version {version.version}",
            "",
            evaluated.report.summary_markdown(),
            "",
            f"- MLflow run `{run.run_id}`: {where}",
            f"- prepared set `{prepared.pictures.fingerprint}`",
            f"- report `{evaluated.folder.name}`, snapshot `{trained.snapshot.name}`",
            "",
            f"![reconstructions](data:image/png;base64,{panel})",
        ]
    )
