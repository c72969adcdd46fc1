"""Watch the champion: measure it on fresh pictures beside its report, and see how the pictures differ from its own."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.data.drift.pictures import count_alike, every_picture
from pikavae.data.drift.quantities import QUANTITIES, measure_quantities
from pikavae.data.drift.stability import Drift, compare_quantity
from pikavae.data.prepare import PAGE_NAME as DATA_PAGE
from pikavae.errors import UserError
from pikavae.evaluation.compare.comparison import protocol_difference
from pikavae.evaluation.compare.pictures import reconstruct_by_all
from pikavae.evaluation.compare.two_samples import PairedPictures, compare_paired, compare_samples
from pikavae.evaluation.pages.report_page import PAGE_NAME as REPORT_PAGE
from pikavae.evaluation.pages.watch_page import Watched, page_findings, watch_page
from pikavae.evaluation.report.report import ImageScore, Report
from pikavae.operations.champion.fresh_pictures import (
    FreshPictures,
    WatchedChampion,
    config_for,
    find_champion,
    find_fresh,
)
from pikavae.operations.champion.gating import measure_version
from pikavae.operations.stages.results import Evaluated
from pikavae.operations.stages.runtime import choose_device, recording, use_threads
from pikavae.production.judgements.watches import FOLDER_NAME, PAGE_NAME, RECORD_NAME, Watch
from pikavae.tracker.client import Workspace
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import FLOW_RUN_URL_TAG, NOTE_TAG, WATCH_FELL_TAG, WATCHED_TAG
from pikavae.weights.published import read_snapshot
from pikavae.workspace.files import folder_atomically, write_atomically

logger = logging.getLogger(__name__)

NOTE = "The champion on fresh pictures, a run for each watch: `pikavae watch`, or the deployment `evaluate-champion`."
SHOWN_PICTURES = 6
"""How many of the first pictures the page shows, and how many of the worst."""


@dataclass(frozen=True)
class _Reference:
    """Holds the report that fresh pictures are compared with, its name, and what to know of it."""

    report: Report
    name: str
    note: str = ""


def watch_champion(
    workspace: Workspace,
    settings: Mapping[str, Any] | None = None,
    *,
    tolerance: float = 0.0,
    links: Mapping[str, str] | None = None,
) -> Watch:
    """Measure the champion on fresh pictures by its report's protocol, compare both by intervals, and keep the result.

    A run in MLflow holds page and numbers. Those who are told of `champion_fell` find out from the record.

    Args:
        workspace: the state folder and its store.
        settings: values by dotted name that replace those of the champion's own configuration, such as `data.source`;
            without a source, what is new in its own is watched.
        tolerance: by how much the primary metric may be worse than in the report, in its unit.
        links: tags for the run that point to where this was started.

    Raises:
        UserError: there is no champion; it cannot be compared with its report; or the source has too few fresh
            pictures, or none that can be read.
        GateError: a report was edited since it was written.
    """
    if not 0.0 <= tolerance < float("inf"):
        raise UserError(f"tolerance {tolerance:g}: expected a number of 0 or more, in the primary metric's unit")
    champion = find_champion(workspace)
    config = config_for(champion, settings or {})
    use_threads(config)
    pictures = find_fresh(workspace, champion, config)
    evaluated, _ = measure_version(workspace, champion.version, pictures.measured, config)
    reference = _find_reference(workspace, champion, evaluated.report, config)
    watched = _compare(champion, pictures, evaluated.report, reference, config, tolerance)
    logger.info("%s: %s", champion.title, watched.line)
    return _keep(workspace, champion, config, pictures, evaluated, reference, watched, links or {})


def _find_reference(workspace: Workspace, champion: WatchedChampion, fresh: Report, config: Config) -> _Reference:
    """Return the champion's report, measured again if it is gone or of another protocol.

    Raises:
        UserError: its pictures are gone as well.
    """
    report = champion.report
    reason = "is gone or altered" if report is None else protocol_difference(fresh, report)
    if report is not None and reason is None:
        return _Reference(report, champion.report_name)
    if champion.report_set is None:
        raise UserError(
            f"{champion.title}: its report {champion.report_name} cannot be compared with what is measured now "
            f"({reason}), and its pictures are not here to measure it again; restore their prepared set from a copy of "
            f"the state folder, or promote a version that is measured here"
        )
    again, _ = measure_version(workspace, champion.version, champion.report_set.validation, config)
    why = "is gone or altered" if report is None else f"is by another protocol ({reason})"
    note = f"The champion's own report {why}, so it was measured again on the same pictures."
    return _Reference(again.report, again.folder.name, note)


def _compare(
    champion: WatchedChampion,
    pictures: FreshPictures,
    report: Report,
    reference: _Reference,
    config: Config,
    tolerance: float,
) -> Watched:
    drift, alike, missing = _compare_pictures(champion, pictures, config)
    return Watched(
        champion=champion.title.capitalize(),
        source=config.data.source,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        comparison=compare_samples(
            _fresh_scores(pictures, report), reference.report.per_image, reference.report.primary_metric
        ),
        tolerance=tolerance,
        paired=_pair(champion, pictures, report, reference.report),
        drift=drift,
        trained_on=pictures.trained_on,
        alike=alike,
        notes=[*([reference.note] if reference.note else []), *pictures.notes, *missing],
    )


def _fresh_scores(pictures: FreshPictures, report: Report) -> list[ImageScore]:
    return [score for score, is_fresh in zip(report.per_image, pictures.is_fresh, strict=True) if is_fresh]


def _pair(
    champion: WatchedChampion, pictures: FreshPictures, report: Report, reference: Report
) -> PairedPictures | None:
    """Compare the pictures that are in both; None if there are none."""
    if champion.report_set is None or pictures.is_fresh.all():
        return None
    validation = champion.report_set.validation
    own = dict(zip(validation.identities, reference.per_image, strict=True))
    pairs = [
        (score, own[identity])
        for score, identity, is_fresh in zip(
            report.per_image, pictures.measured.identities, pictures.is_fresh, strict=True
        )
        if not is_fresh and identity in own
    ]
    return compare_paired(pairs, reference.primary_metric) if pairs else None


def _compare_pictures(
    champion: WatchedChampion, pictures: FreshPictures, config: Config
) -> tuple[dict[str, Drift], int | None, list[str]]:
    """Return the drift of each quantity, how many fresh pictures look like a known one, and what could not be done."""
    known = champion.trained_set or champion.report_set
    if known is None:
        return {}, None, ["The prepared set that the champion was trained on is not here, so drift is not known."]
    if known.record.image_size != config.data.image_size:
        sizes = f"{known.record.image_size} and {config.data.image_size} px"
        return {}, None, [f"Drift is not measured: the champion was trained and measured at different sizes, {sizes}."]
    before, fresh = every_picture(known), pictures.fresh
    distance = config.data.near_duplicate_distance
    alike = None if distance is None else count_alike(pictures.prepared, fresh, known, before, distance)
    of_known, of_fresh = measure_quantities(before), measure_quantities(fresh)
    return {name: compare_quantity(name, of_known[name], of_fresh[name]) for name in QUANTITIES}, alike, []


def _keep(
    workspace: Workspace,
    champion: WatchedChampion,
    config: Config,
    pictures: FreshPictures,
    evaluated: Evaluated,
    reference: _Reference,
    watched: Watched,
    links: Mapping[str, str],
) -> Watch:
    """Write page and record, and a run in MLflow that holds both; the record is last, so it is whole if it is there."""
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    shown = reconstruct_by_all(
        [("champion", read_snapshot(champion.model.folder), evaluated.report)],
        pictures.fresh,
        count=SHOWN_PICTURES,
        device=choose_device(config),
    )
    page = watch_page(watched, _fresh_scores(pictures, evaluated.report), reference.report.per_image, shown)
    folder = workspace.home / FOLDER_NAME / name
    with folder_atomically(folder) as temporary:
        (temporary / PAGE_NAME).write_text(page, encoding="utf-8")
    experiment = workspace.experiment_id(f"{config.tracking.experiment}-watch")
    workspace.client.set_experiment_tag(experiment, NOTE_TAG, NOTE)
    log = RunLog.start(
        workspace.client,
        experiment,
        f"version {champion.candidate[1]} on {Path(config.data.source).name}",
        tags={WATCHED_TAG: str(champion.candidate[1]), WATCH_FELL_TAG: str(watched.fell).lower(), **links},
        params={"data.source": config.data.source, "tolerance": watched.tolerance, "report": reference.name},
    )
    with recording(workspace, log):
        watch = Watch(
            id=name,
            time=watched.time,
            model=champion.candidate[0],
            version=champion.candidate[1],
            source=config.data.source,
            fell=watched.fell,
            line=watched.line,
            findings=[finding.text.replace("\u00a0", " ") for finding in page_findings(watched)],
            metric=watched.comparison.primary_metric,
            tolerance=watched.tolerance,
            num_fresh=int(pictures.is_fresh.sum()),
            num_trained_on=pictures.trained_on,
            num_alike=watched.alike,
            scores=watched.comparison.content(),
            paired=None if watched.paired is None else watched.paired.content(),
            drift={quantity: one.content() for quantity, one in watched.drift.items()},
            evaluation_set=pictures.measured.digest,
            report=evaluated.folder.name,
            champion_report=reference.name,
            page=f"{FOLDER_NAME}/{name}/{PAGE_NAME}",
            run_id=log.run_id,
            experiment_id=experiment,
        )
        log.log(_numbers(watched), 0)
        log.set_note(_note(watch, links))
        log.log_file(folder / PAGE_NAME)
        log.log_file(evaluated.folder / REPORT_PAGE, "evaluation")
        log.log_file(pictures.prepared.path / DATA_PAGE, "data")
        log.log_text(json.dumps(watch.content(), indent=2, ensure_ascii=False), RECORD_NAME)
    write_atomically(folder / RECORD_NAME, watch.to_json(ensure_ascii=False))
    return watch


def _numbers(watched: Watched) -> dict[str, float]:
    """Return the numbers of a watch as the run's metrics."""
    comparison = watched.comparison
    found: dict[str, float | None] = {"watch/fell": float(watched.fell)}
    for name, one in [*comparison.metrics.items(), ("psnr_worst_tenth", comparison.worst_tenth)]:
        low, high = one.interval or (None, None)
        found |= {
            f"fresh/{name}": one.fresh,
            f"report/{name}": one.report,
            f"difference/{name}": one.difference,
            f"difference/{name}_low": low,
            f"difference/{name}_high": high,
        }
    for name, drift in watched.drift.items():
        found |= {f"drift/{name}": drift.psi, f"drift/{name}_by_chance": drift.chance}
    return {name: value for name, value in found.items() if value is not None}


def _note(watch: Watch, links: Mapping[str, str]) -> str:
    """Return the run's description."""
    flow_run = [f"- [Flow run]({url})"] if (url := links.get(FLOW_RUN_URL_TAG)) else []
    head = f"{'**The champion fell.** ' if watch.fell else ''}Version {watch.version} of {watch.model}: {watch.line}."
    lines = [f"- {finding}" for finding in watch.findings[1:]]
    return "\n".join([head, "", *lines, f"- Pictures: `{watch.source}`", "- `page.html` shows all of it", *flow_run])
