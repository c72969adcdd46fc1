"""What a finished run is told as: JSON for scripts, Markdown for Prefect, lines for a person."""

from __future__ import annotations

import base64
from typing import Any

from pikavae.data.prepare import PAGE_NAME
from pikavae.evaluation.page import PAGE_NAME as REPORT_PAGE
from pikavae.home import home
from pikavae.mlflow_ui import ui_base, ui_url
from pikavae.operations.results import Evaluated, Prepared, Registered, Trained

MAX_LISTED = 20


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


def data_markdown(prepared: Prepared) -> str:
    """The prepared set in a few lines: counts, what was set aside and why, and where the page about it is."""
    pictures, record = prepared.pictures, prepared.pictures.record
    aside = [*record["quarantined"], *record["unused"], *record["set_aside"]]
    listed = [f"- `{item['name']}`: {item['reason']}" for item in aside[:MAX_LISTED]]
    return "\n".join(
        [
            f"## Prepared set `{pictures.fingerprint}`",
            "",
            f"{len(pictures.train):,} training and {len(pictures.validation):,} validation pictures; "
            f"{record['num_exact_duplicates']:,} equal and {record['num_near_duplicates']:,} near duplicates; "
            f"{record['captions']['missing']:,} without a caption, {record['captions']['truncated']:,} captions cut.",
            "",
            f"Pictures, sizes, colours, captions and duplicates: `{pictures.path / PAGE_NAME}`; a run in MLflow has "
            f"that page among its artifacts, under `data`.",
            "",
            f"### Set aside: {len(aside):,}",
            *listed,
            *([f"- and {len(aside) - MAX_LISTED:,} more"] if len(aside) > MAX_LISTED else []),
        ]
    )


def result_markdown(prepared: Prepared, trained: Trained, evaluated: Evaluated, registered: Registered) -> str:
    """The run on a page: scores against the baselines, links, and the panel of reconstructions."""
    run, version = trained.run, registered.version
    base = ui_base(home())
    experiment = str(trained.result["experiment_id"])
    where, page = f"`pikavae ui --run {run.run_id}` opens it", f"`{prepared.pictures.path / PAGE_NAME}`"
    report = f"`{evaluated.folder / REPORT_PAGE}`"
    if base:
        where = f"[open in MLflow]({ui_url(base, experiment, run.run_id)})"
        page = f"[all about its pictures]({ui_url(base, experiment, run.run_id, f'artifacts/data/{PAGE_NAME}')})"
        report = f"[the whole report]({ui_url(base, experiment, run.run_id, f'artifacts/evaluation/{REPORT_PAGE}')})"
    panel = base64.b64encode((evaluated.folder / "panel.png").read_bytes()).decode()
    return "\n".join(
        [
            f"## {version.name} version {version.version}",
            "",
            evaluated.report.summary_markdown(),
            "",
            f"- MLflow run `{run.run_id}`: {where}",
            f"- prepared set `{prepared.pictures.fingerprint}`: {page}",
            f"- report `{evaluated.folder.name}`: {report}, snapshot `{trained.snapshot.name}`",
            "",
            f"![reconstructions](data:image/png;base64,{panel})",
        ]
    )
