"""What a run says of itself in MLflow: its name, its description, its numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pikavae.config import Config
from pikavae.data.dataset import PreparedSet
from pikavae.data.prepare import PAGE_NAME
from pikavae.evaluation.page import PAGE_NAME as REPORT_PAGE
from pikavae.evaluation.report import Report
from pikavae.mlflow_ui import ui_url
from pikavae.operations.results import REPORT_SHA256_TAG, Evaluated, Prepared, report_hashes
from pikavae.tracking import RunLog


def version_metrics(report: Report) -> dict[str, float]:
    """The scores of a version."""
    return {f"val/{name}": value for name, value in report.metrics.items() if value is not None}


def report_tags(evaluated: Evaluated, prepared: Prepared) -> dict[str, str]:
    """What a version's tags tell of its report."""
    scores = {name: value for name, value in evaluated.report.metrics.items() if value is not None}
    return {
        "pikavae.report": evaluated.folder.name,
        REPORT_SHA256_TAG: json.dumps(report_hashes(evaluated.folder)),
        "pikavae.evaluation_set": prepared.pictures.validation.digest,
        **{f"pikavae.score.{name}": f"{value:.6g}" for name, value in scores.items()},
    }


def run_metrics(report: Report) -> dict[str, float]:
    """What a report adds to its run: the model's numbers as `val/...`, the baselines' as `val/baseline_...`."""
    others = {
        f"val/baseline_{row}_{name}": value
        for row, values in report.baselines.items()
        for name, value in values.items()
        if value is not None
    }
    return {**version_metrics(report), **others}


def data_metrics(pictures: PreparedSet) -> dict[str, float]:
    """Counts of the prepared set as `data/...`."""
    return {f"data/{name}": float(value) for name, value in pictures.record.items() if name.startswith("num_")}


def run_name(config: Config) -> str:
    """What the run is called in the UI: source, size, downsampling factor, optimizer, and a loss other than MSE."""
    source = config.data.source.rstrip("/").rsplit("/", 1)[-1]
    words = [source, f"{config.data.image_size}px", f"f{config.model.downsampling_factor}", config.optimizer.name]
    return " ".join([*words, *([] if config.loss.reconstruction == "mse" else [config.loss.reconstruction])])


EVALUATION = "\n\n## Evaluation\n\n"


def evaluation_note(log: RunLog, report: Report) -> str:
    """The run's description with its scores, in place of those of an earlier evaluation."""
    page = ui_url("", log.experiment_id, log.run_id, f"artifacts/evaluation/{REPORT_PAGE}").removeprefix("/")
    head = log.note().partition(EVALUATION)[0]
    return f"{head}{EVALUATION}[The whole report, with pictures]({page})\n\n{report.summary_markdown()}"


def run_note(config: Config, pictures: PreparedSet, log: RunLog, links: Mapping[str, str]) -> str:
    """The run's description in the UI: what it is, and where its configuration and its flow run are."""
    yaml, page = (
        ui_url("", log.experiment_id, log.run_id, f"artifacts/{name}").removeprefix("/")
        for name in ("config.yaml", f"data/{PAGE_NAME}")
    )
    lines = [
        f"Autoencoder (f{config.model.downsampling_factor}, {config.model.latent_channels} latent channels) on "
        f"`{config.data.source}`: {len(pictures.train)} training and {len(pictures.validation)} validation pictures of "
        f"{config.data.image_size} px.",
        "",
        f"- Configuration: [config.yaml]({yaml})",
        f"- Pictures: [what they are and what was done to them]({page}), prepared set `{pictures.fingerprint}`",
    ]
    if flow_run := links.get("pikavae.flow_run_id"):
        url = links.get("pikavae.flow_run_url")
        lines.append(f"- Flow run: {f'[{flow_run}]({url})' if url else f'`{flow_run}`'}")
    else:
        lines.append(f"- Started by `{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`")
    return "\n".join(lines)
