"""Describe a run: its name, description, numbers, model card, and the summary of a flow."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pikavae.config import Config, DataConfig, channels_for
from pikavae.data.files.left_out import lost_of, missing_counts, missing_line
from pikavae.data.prepare import PAGE_NAME
from pikavae.data.prepared.dataset import PreparedSet
from pikavae.data.record import SetRecord
from pikavae.evaluation.pages.lineage import About
from pikavae.evaluation.pages.report_page import PAGE_NAME as REPORT_PAGE
from pikavae.evaluation.report.model_card import Scaling, model_card, scaling_of_report
from pikavae.evaluation.report.report import Report
from pikavae.model.sizes import CONFIG_NAME, RUN_CONFIG_NAME, is_normalised, model_config, scaling_in
from pikavae.model.tiny_sizes import TINY
from pikavae.notify.record import PANEL_NAME
from pikavae.operations.stages.naming import differences
from pikavae.operations.stages.results import (
    Evaluated,
    Prepared,
    Registered,
    Trained,
    find_evaluated,
    report_hashes,
    stage_inputs,
)
from pikavae.operations.stages.training_facts import lineage_of, training_of
from pikavae.presets import load_config
from pikavae.tracker.client import Workspace
from pikavae.tracker.overview import OVERVIEW_NAME, picture_markdown
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import (
    EVALUATION_SET_TAG,
    FLOW_RUN_TAG,
    FLOW_RUN_URL_TAG,
    REPORT_SHA256_TAG,
    REPORT_TAG,
)
from pikavae.tracker.ui import ui_base, ui_url
from pikavae.workspace import runs
from pikavae.workspace.records import read_object

EVALUATION = "\n\n## Evaluation\n\n"
EVALUATION_FOLDER = "evaluation"
"""The folder of a run's artifacts with its reports."""
OVERVIEW_TEXT = "Validation pictures, each beside its newest reconstruction"
IMPORTED_MARK = "# Weights of another maker: their sizes and the size of their pictures; all else is a default.\n"
"""The first line of the configuration of an imported snapshot."""
MAX_LISTED = 20


def version_metrics(report: Report) -> dict[str, float]:
    """Return the scores of a version as `val/...`."""
    return {f"val/{name}": value for name, value in report.metrics.items() if value is not None}


def report_tags(evaluated: Evaluated, prepared: Prepared) -> dict[str, str]:
    """Return the tags of a version that describe its report."""
    return {
        REPORT_TAG: evaluated.folder.name,
        REPORT_SHA256_TAG: json.dumps(report_hashes(evaluated.folder)),
        EVALUATION_SET_TAG: prepared.prepared_set.validation.digest,
    }


def version_note(trained: Trained, report: Report) -> str:
    """Return a version's description for the UI: its scores, its reconstructions, and the table beside baselines."""
    folder = EVALUATION_FOLDER if trained.is_last else f"{EVALUATION_FOLDER}/{trained.snapshot.name}"
    picture = picture_markdown(trained.run.run_id, f"{folder}/{PANEL_NAME}", "Originals, reconstructions, errors")
    scores, _, table = report.summary_markdown().partition("\n\n")
    return f"{scores}\n\n{picture}\n\n{table}"


def evaluation_note(log: RunLog, report: Report, folder: str) -> str:
    """Return the run's description with its scores, which replace those of an earlier evaluation.

    Args:
        log: the run.
        report: the scores.
        folder: the folder of the run's artifacts with the report's page.
    """
    page = ui_url("", log.experiment_id, log.run_id, f"artifacts/{folder}/{REPORT_PAGE}").removeprefix("/")
    head = log.note().partition(EVALUATION)[0]
    return f"{head}{EVALUATION}[The whole report, with pictures]({page})\n\n{report.summary_markdown()}"


def run_note(
    config: Config, prepared_set: PreparedSet, log: RunLog, links: Mapping[str, str], preset: str | None
) -> str:
    """Return the run's description for the UI: newest reconstructions, then links to its configuration and pictures."""
    yaml, page = (
        ui_url("", log.experiment_id, log.run_id, f"artifacts/{name}").removeprefix("/")
        for name in ("config.yaml", f"data/{PAGE_NAME}")
    )
    lines = [
        picture_markdown(log.run_id, OVERVIEW_NAME, OVERVIEW_TEXT),
        "",
        f"Autoencoder (f{config.model.downsampling_factor}, {config.model.latent_channels} latent channels) on "
        f"`{config.data.source}`: {len(prepared_set.train)} training and {len(prepared_set.validation)} validation "
        f"pictures of {config.data.image_size} px.",
        "",
        f"- Configuration: [config.yaml]({yaml}); what differs from preset `{differences(config, preset)[0]}` is under "
        f"Parameters.",
        f"- Pictures: [what they are and what was done to them]({page}), prepared set `{prepared_set.fingerprint}`",
    ]
    if flow_run := links.get(FLOW_RUN_TAG):
        url = links.get(FLOW_RUN_URL_TAG)
        lines.append(f"- Flow run: {f'[{flow_run}]({url})' if url else f'`{flow_run}`'}")
    else:
        lines.append(f"- Started by `{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`")
    return "\n".join(lines)


def card_of(
    workspace: Workspace,
    snapshot: Path,
    report: Report | None,
    name: str,
    *,
    scaling: Scaling | None = None,
    written: bool = False,
) -> str:
    """Write the card of a snapshot or diffusers folder.

    Args:
        workspace: the state folder and its store.
        snapshot: its folder.
        report: the newest report on it.
        name: the heading of the card.
        scaling: the scaling of its latents; by default that of the report's pictures.
        written: True if `config.json` beside the card has that scaling.
    """
    scaling = scaling or (None if report is None else scaling_of_report(report))
    settings, sizes = snapshot / RUN_CONFIG_NAME, snapshot / CONFIG_NAME
    if settings.is_file():
        is_imported = _is_marked(settings)
        config, training = load_config(settings), None if is_imported else training_of(workspace, snapshot)
    else:
        model = model_config(read_object(sizes), where=str(sizes))
        data = DataConfig(channels=channels_for(model.image_channels))
        config, training, is_imported = Config(data=data, model=model), None, True
    return model_card(
        report,
        config,
        name=name,
        is_imported=is_imported,
        training=training,
        scaling=scaling,
        written=written,
        came_with=scaling_in(read_object(sizes)),
    )


def about_of(workspace: Workspace, snapshot: Path, moments: Sequence[tuple[str, Tensor]] = ()) -> About:
    """Return what the page of an evaluation shows of a snapshot besides its report.

    Args:
        workspace: the state folder and its store.
        snapshot: its folder.
        moments: the moments of its training, as `delivery.moments` returns them.
    """
    settings = snapshot / RUN_CONFIG_NAME
    config = load_config(settings) if settings.is_file() and not _is_marked(settings) else None
    return About(
        moments=moments,
        lineage=lineage_of(workspace, snapshot),
        settings={} if config is None else config.flat(),
        defaults=Config().flat(),
    )


def has_the_latents_of_others(snapshot: Path) -> bool:
    """Return True if a snapshot's latents are those of published weights, which existing diffusion models can use.

    That holds for imported weights that state the scaling of their latents or normalise them, for weights whose decoder
    alone was trained, and for tiny autoencoders. They keep the scaling that they came with.
    """
    settings, sizes = snapshot / RUN_CONFIG_NAME, read_object(snapshot / CONFIG_NAME)
    if sizes.get("_class_name") == TINY:
        return True
    if not settings.is_file() or _is_marked(settings):
        return bool(scaling_in(sizes)) or is_normalised(sizes)
    return load_config(settings).training.trainable == "decoder"


def _is_marked(settings: Path) -> bool:
    """Return True if a snapshot's configuration is marked as that of another maker's weights."""
    return settings.read_bytes().startswith(IMPORTED_MARK.encode())


def newest_report(workspace: Workspace, snapshot: Path) -> Report | None:
    """Return this home's newest whole report on a snapshot's sizes and weights; None if there is no report."""
    digest = runs.snapshot_digest(snapshot)
    records = sorted(
        (workspace.home / "evaluations").glob("*/stage.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    for path in records:
        if stage_inputs(path).get("model") == digest and (found := find_evaluated(workspace, path.parent.name)):
            return found.report
    return None


def summary(prepared: Prepared, trained: Trained, evaluated: Evaluated, registered: Registered) -> dict[str, Any]:
    """Return the keys of `pikavae run --json`."""
    outcomes: dict[str, Prepared | Trained | Evaluated | Registered] = {
        "prepare": prepared,
        "train": trained,
        "evaluate": evaluated,
        "register": registered,
    }
    return {
        "run_id": trained.run.run_id,
        "fingerprint": prepared.prepared_set.fingerprint,
        "model": registered.version.name,
        "version": registered.version.version,
        "metrics": dict(evaluated.report.metrics),
        "stages": {
            name: {"status": "reused" if outcome.reused else "ran", "seconds": round(outcome.seconds, 3)}
            for name, outcome in outcomes.items()
        },
        "report": str(evaluated.folder),
        "page": str(prepared.prepared_set.path / PAGE_NAME),
        "warnings": [*prepared.prepared_set.record.warnings],
    }


def data_markdown(prepared: Prepared) -> str:
    """Describe the prepared set in Markdown: counts, what was set aside and why, and where its page is."""
    prepared_set, record = prepared.prepared_set, prepared.prepared_set.record
    aside = [*record.quarantined, *record.unused, *record.set_aside]
    warnings = [f"- {warning}" for warning in record.warnings]
    listed = [f"- `{item.name}`: {item.reason}" for item in aside[:MAX_LISTED]]
    return "\n".join(
        [
            f"## Prepared set `{prepared_set.fingerprint}`",
            "",
            f"{len(prepared_set.train):,} training{_repeats(record)} and {len(prepared_set.validation):,} validation "
            f"pictures; {record.num_exact_duplicates:,} equal and {record.num_near_duplicates:,} near "
            f"duplicates; "
            f"{record.captions.missing:,} without a caption, {record.captions.truncated:,} captions cut.",
            "",
            f"Pictures, sizes, colours, captions and duplicates: `{prepared_set.path / PAGE_NAME}`; a run in MLflow "
            f"has that page among its artifacts, under `data`.",
            "",
            *(["### Warnings", *warnings, ""] if warnings else []),
            f"### Set aside: {missing_line(record)}",
            *listed,
            *([f"- and {len(aside) - MAX_LISTED:,} more"] if len(aside) > MAX_LISTED else []),
        ]
    )


def result_markdown(
    workspace: Workspace, prepared: Prepared, trained: Trained, evaluated: Evaluated, registered: Registered
) -> str:
    """Describe the run in Markdown: scores against the baselines, links, and the panel of reconstructions."""
    run, version = trained.run, registered.version
    base = ui_base(workspace)
    experiment = trained.result.experiment_id if trained.result else ""
    where, page = f"`pikavae ui --run {run.run_id}` opens it", f"`{prepared.prepared_set.path / PAGE_NAME}`"
    report = f"`{evaluated.folder / REPORT_PAGE}`"
    if base:
        where = f"[open in MLflow]({ui_url(base, experiment, run.run_id)})"
        page = f"[all about its pictures]({ui_url(base, experiment, run.run_id, f'artifacts/data/{PAGE_NAME}')})"
        report = f"[the whole report]({ui_url(base, experiment, run.run_id, f'artifacts/evaluation/{REPORT_PAGE}')})"
    panel = base64.b64encode((evaluated.folder / PANEL_NAME).read_bytes()).decode()
    return "\n".join(
        [
            f"## {version.name} version {version.version}",
            "",
            evaluated.report.summary_markdown(),
            "",
            f"- MLflow run `{run.run_id}`: {where}",
            f"- prepared set `{prepared.prepared_set.fingerprint}`: {page}",
            f"- report `{evaluated.folder.name}`: {report}, snapshot `{trained.snapshot.name}`",
            "",
            f"![reconstructions](data:image/png;base64,{panel})",
        ]
    )


def data_summary(prepared_set: PreparedSet) -> dict[str, Any]:
    """Return the keys of `pikavae prepare --json`."""
    return {
        "fingerprint": prepared_set.fingerprint,
        "num_images": prepared_set.record.num_images,
        "num_repeated": prepared_set.record.num_repeated,
        **missing_counts(prepared_set.record).content(),
        "warnings": [*prepared_set.record.warnings],
        "page": str(prepared_set.path / PAGE_NAME),
        "path": str(prepared_set.path),
    }


def _repeats(record: SetRecord) -> str:
    """Return how many of the training pictures are repeats, in words; empty if there are none."""
    number = record.num_repeated
    return f" ({number:,} of them repeats)" if number else ""


def data_lines(prepared_set: PreparedSet) -> str:
    """Describe the prepared set for a terminal: counts, what is missing and why, warnings, and where its page is."""
    record = prepared_set.record
    aside = lost_of(record)
    listed = [f"  {item.name}: {item.reason}" for item in aside[:MAX_LISTED]]
    return "\n".join(
        [
            f"{len(prepared_set.train):,} training{_repeats(record)} and {len(prepared_set.validation):,} validation "
            f"pictures, {missing_line(record)}",
            *listed,
            *([f"  and {len(aside) - MAX_LISTED:,} more, all on the page"] if len(aside) > MAX_LISTED else []),
            *(f"Warning: {warning}" for warning in record.warnings),
            f"Page with pictures: {prepared_set.path / PAGE_NAME}",
            str(prepared_set.path),
        ]
    )
