"""Choose what a watch compares: the champion with its report, and the pictures of a source that it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pikavae.config import Config
from pikavae.data.drift.pictures import KnownPictures, chosen, every_picture
from pikavae.data.prepare import find_prepared
from pikavae.data.prepared.dataset import PictureSet, PreparedSet
from pikavae.data.record import RECORD_NAME
from pikavae.data.sources.open import open_sources
from pikavae.errors import UserError
from pikavae.evaluation.report.report import Report
from pikavae.operations.champion.promotion import whole_champion
from pikavae.operations.resolving.resolve import ResolvedModel, config_of_snapshot, of_version
from pikavae.operations.running.pipeline import prepare
from pikavae.operations.stages.results import find_evaluated
from pikavae.operations.stages.training_pictures import find_trained_on, fingerprint_of
from pikavae.presets import parse_config
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.judgements.gates import MIN_PICTURES
from pikavae.production.judgements.watches import SETTINGS
from pikavae.production.record import ledger
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace


@dataclass(frozen=True)
class WatchedChampion:
    """Holds the champion and what is known of it here.

    Attributes:
        version: its version of the production model.
        model: its weights.
        candidate: the registered model and the number that it was promoted from.
        report: the report that the gates read; None if it is gone or altered.
        report_name: the name of that report.
        report_set: the prepared set whose validation pictures the report is of; None if it is gone.
        trained_set: the prepared set that it was trained on; None if it is gone or not known.
        is_trained_here: False if it is weights of another maker.
    """

    version: Version
    model: ResolvedModel
    candidate: tuple[str, int]
    report: Report | None
    report_name: str
    report_set: PreparedSet | None
    trained_set: PreparedSet | None
    is_trained_here: bool

    @property
    def title(self) -> str:
        """Return what messages call it."""
        return f"champion, version {self.candidate[1]} of {self.candidate[0]}"


def find_champion(workspace: Workspace) -> WatchedChampion:
    """Return the champion with its report.

    Raises:
        UserError: there is no champion, its report is of too few pictures, or it and its pictures are gone.
        DamagedFileError: the champion's files or the ledger are not as they were written.
    """
    version = whole_champion(workspace)
    events = ledger.read(ledger_path(workspace.home))
    event = None if version is None else ledger.of_production(events, version.version)
    if version is None or event is None:
        raise UserError("watch: there is no champion yet; `pikavae promote VERSION --reason TEXT` asks for one")
    name = event.report or ""
    evaluated = find_evaluated(workspace, name) if name else None
    model = of_version(workspace, version)
    if evaluated is not None and evaluated.report.provenance.get("model") != model.digest:
        evaluated = None
    digest = event.evaluation_set if evaluated is None else evaluated.report.evaluation_set
    fingerprint = fingerprint_of(workspace, version)
    trained_set = None if fingerprint is None else find_prepared(fingerprint, workspace.home / "prepared")
    champion = WatchedChampion(
        version,
        model,
        (event.model, event.version),
        None if evaluated is None else evaluated.report,
        name,
        _set_of(workspace.home, digest, trained_set),
        trained_set,
        fingerprint is not None,
    )
    if champion.report is None and champion.report_set is None:
        raise UserError(
            f"{champion.title}: its report {name or '(none)'} is gone or altered, and so are the pictures to measure "
            f"it again; restore {workspace.home / 'evaluations' / name} from a copy of the state folder, or promote a "
            f"version that is measured here"
        )
    count = len(champion.report_set.validation) if champion.report is None and champion.report_set else 0
    count = count if champion.report is None else champion.report.num_images
    if count < MIN_PICTURES:
        raise UserError(
            f"{champion.title}: its report is of {count} pictures, and an interval needs at least {MIN_PICTURES} to "
            f"rely on; promote a version that was measured on more, data.validation_fraction or data.validation_source"
        )
    return champion


def _set_of(home: Path, digest: str | None, first: PreparedSet | None) -> PreparedSet | None:
    """Return the prepared set whose validation pictures have this digest; None if there is none any more."""
    if digest is None or (first is not None and first.validation.digest == digest):
        return first if digest is not None else None
    for path in sorted((home / "prepared").glob(f"*/{RECORD_NAME}")):
        found = find_prepared(path.parent.name, home / "prepared")
        if found is not None and found.validation.digest == digest:
            return found
    return None


def config_for(champion: WatchedChampion, settings: Mapping[str, Any]) -> Config:
    """Return the configuration that fresh pictures are prepared and measured with: the champion's own, and settings.

    Args:
        champion: gives what it was made with.
        settings: other values by dotted name; with a `data.source`, the champion's own sources do not count.

    Raises:
        UserError: a setting is unknown, out of its bounds, or none that a watch takes; or a source is needed.
    """
    check_settings(settings)
    if not champion.is_trained_here and settings.get("data.source") is None:
        raise UserError(
            f"{champion.title}: it was not trained here, so no source is its own; name pictures with --data.source"
        )
    tree = config_of_snapshot(champion.model.folder).model_dump(mode="json")
    if champion.report is not None:
        tree["data"]["image_size"] = champion.report.image_size
    if settings.get("data.source") is not None:
        tree["data"]["validation_source"] = None
    given = {name: value for name, value in settings.items() if value is not None}
    return parse_config(tree, where="watch", overrides=given)


def check_settings(settings: Mapping[str, Any]) -> Config:
    """Return a configuration with these settings alone.

    Raises:
        UserError: one is unknown, out of its bounds, or none that a watch takes.
    """
    config = parse_config({}, where="watch", overrides={name: one for name, one in settings.items() if one is not None})
    if others := sorted(settings.keys() - {*SETTINGS}):
        raise UserError(
            f"watch: {others[0]}: the champion's own counts, or its scores could not be compared; a watch takes "
            f"{', '.join(SETTINGS)}"
        )
    return config


def settle_watch(workspace: Workspace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of a watch that mean the same in every folder, after checking what they name, for a schedule.

    What is on the hub is not checked.

    Raises:
        UserError: there is no champion that can be watched, or a source does not exist.
    """
    tree = check_settings(settings).seen_from(Path.cwd())
    config_for(find_champion(workspace), settings)
    if settings.get("data.source") is not None:
        open_sources(tree.data)
    flat = tree.model_dump(mode="json")
    return {name: flat[name.partition(".")[0]][name.partition(".")[2]] for name in settings}


@dataclass(frozen=True)
class FreshPictures:
    """Holds the pictures of a source that the champion was not trained on.

    Attributes:
        prepared: the prepared set of the source.
        measured: the pictures to measure: fresh ones, and those of the champion's report.
        is_fresh: (N,) bool, True for each of `measured` that is not in the report.
        trained_on: how many pictures of the source were left out.
        notes: why some of that is not known, a sentence each.
    """

    prepared: PreparedSet
    measured: PictureSet
    is_fresh: np.ndarray
    trained_on: int
    notes: tuple[str, ...]

    @property
    def fresh(self) -> PictureSet:
        """Return the fresh pictures alone."""
        return chosen(self.prepared, self.measured, self.is_fresh)


def find_fresh(workspace: Workspace, champion: WatchedChampion, config: Config) -> FreshPictures:
    """Prepare the pictures of the configured source, and leave out those that the champion was trained on.

    Raises:
        UserError: the source cannot be read, or has too few fresh pictures; the message says how many are needed.
    """
    counts = [source.count() for source in open_sources(config.data).values()]
    total = None if None in counts else sum(count or 0 for count in counts)
    if total is not None and total < MIN_PICTURES:
        raise UserError(
            f"data.source {config.data.source!r}: {total} pictures, and an interval needs at least {MIN_PICTURES} "
            f"fresh ones; add {MIN_PICTURES - total} or more, or name another --data.source"
        )
    prepared = prepare(workspace, config, warn=False).prepared_set
    pictures = every_picture(prepared)
    trained, unknown = find_trained_on(workspace, champion.version, pictures)
    known = KnownPictures() if champion.report_set is None else KnownPictures.of(champion.report_set.validation)
    in_report = known.has(pictures) & ~trained
    num_fresh = int((~trained & ~in_report).sum())
    if num_fresh < MIN_PICTURES:
        raise UserError(
            f"data.source {config.data.source!r}: {num_fresh} fresh pictures, and an interval needs at least "
            f"{MIN_PICTURES}; the champion was trained on {int(trained.sum())} of the {len(pictures)} there, and "
            f"{int(in_report.sum())} are in its report; add {MIN_PICTURES - num_fresh} or more, or name another "
            f"--data.source"
        )
    notes = [
        f"Not all of the champion's training pictures are known, so some may not be left out: {one}." for one in unknown
    ]
    if champion.report_set is None:
        notes.append("The pictures of the champion's report are not here any more, so none is paired.")
    measured = chosen(prepared, pictures, ~trained)
    return FreshPictures(prepared, measured, ~in_report[~trained], int(trained.sum()), tuple(notes))
