"""Measure models on the same frozen pictures: two picture by picture, several in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pikavae.config import Config, content_hash
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import PikavaeError
from pikavae.evaluation.compare.comparison import Comparison, compare, picture_changes
from pikavae.evaluation.compare.costs import Choice, Costs, choices, cost_cells, record_of
from pikavae.evaluation.compare.pictures import BesidePicture, reconstruct_by_all, reconstruct_by_both
from pikavae.evaluation.compare.slices import slices_of
from pikavae.evaluation.compare.table import comparison_table
from pikavae.evaluation.pages.beside_page import beside_page
from pikavae.evaluation.pages.comparison_page import comparison_page
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.table import align_cells
from pikavae.operations.resolving.resolve import ResolvedModel, of_version
from pikavae.operations.running.pipeline import prepare
from pikavae.operations.stages.results import Evaluated
from pikavae.operations.stages.runtime import choose_device, use_threads
from pikavae.operations.using.measuring_costs import find_or_measure_costs
from pikavae.operations.using.models import evaluate_on, find_or_measure
from pikavae.production.changes import promote
from pikavae.production.packages.model import PRODUCTION_NAME, candidate_of
from pikavae.registry import versions
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION
from pikavae.weights.published import read_snapshot
from pikavae.workspace.files import write_atomically

MAX_LABEL = 50
MOST_PICTURES = 4
"""How many of the first pictures a page shows at most, and how many of the model's worst."""


@dataclass(frozen=True)
class Compared:
    """Holds the evaluations of two models and their comparison.

    Attributes:
        model: the user's name for model A.
        against: the user's name for model B.
        evaluated: A's evaluation.
        other: B's evaluation.
        comparison: the comparison of A with B.
        file: the comparison as JSON, beside A's report.
        page: the comparison as a page with pictures of both, beside `file`.
    """

    model: str
    against: str
    evaluated: Evaluated
    other: Evaluated
    comparison: Comparison
    file: Path
    page: Path

    def summary(self) -> dict[str, Any]:
        """Return the keys that `pikavae evaluate --against --json` adds to those of an evaluation."""
        return {
            "comparison": {**asdict(self.comparison), "file": str(self.file), "page": str(self.page)},
            "against": {
                "model": self.against,
                "metrics": dict(self.other.report.metrics),
                "report": str(self.other.folder),
            },
        }

    def table(self) -> str:
        """Return the comparison as text for a terminal."""
        return comparison_table(self.comparison, self.model, self.against)


def compare_models(workspace: Workspace, model: ResolvedModel, against: ResolvedModel, config: Config) -> Compared:
    """Measure two models on the validation pictures of the configured data, and compare them.

    Earlier evaluations are reused. The comparison is written beside A's report as `comparison-KEY.json` and `.html`,
    where KEY is that of B's evaluation. Repeating the command writes the same bytes.

    Args:
        workspace: the state folder and its store.
        model: model A.
        against: model B.
        config: the data and how to measure, for both.

    Raises:
        UserError: a model does not fit the pictures' size.
    """
    use_threads(config)
    picture_set = prepare(workspace, config).prepared_set.validation
    evaluated, other = (find_or_measure(workspace, picture_set, one, config) for one in (model, against))
    names, folders = (model.name, against.name), (model.folder, against.folder)
    return compare_evaluated(names, folders, (evaluated, other), picture_set, config)


def compare_evaluated(
    names: tuple[str, str],
    snapshots: tuple[Path, Path],
    evaluations: tuple[Evaluated, Evaluated],
    picture_set: PictureSet,
    config: Config,
) -> Compared:
    """Compare A with B, which were measured on these pictures, and write the comparison beside A's report.

    Args:
        names: the user's names for A and B.
        snapshots: their folders, for the pictures that the page shows.
        evaluations: the evaluations of both on `picture_set`.
        picture_set: the evaluation set.
        config: how many pictures the page shows, and where to compute them.
    """
    evaluated, other = evaluations
    comparison = compare(evaluated.report, other.report, slices=slices_of(picture_set, config.evaluation.batch_size))
    file = evaluated.folder / f"comparison-{other.folder.name}.json"
    page = file.with_suffix(".html")
    models = {name: one.report.provenance["model"] for name, one in (("a", evaluated), ("b", other))}
    changes = picture_changes(evaluated.report, other.report)
    shown = reconstruct_by_both(
        (read_snapshot(snapshots[0]), read_snapshot(snapshots[1])),
        picture_set,
        comparison,
        changes,
        first=config.evaluation.panel_images,
        device=choose_device(config),
    )
    write_atomically(page, comparison_page(comparison, changes, shown, a=names[0], b=names[1]))
    comparison.save(file, models=models)
    return Compared(*names, evaluated, other, comparison, file, page)


@dataclass(frozen=True)
class Beside:
    """Holds a model's evaluation and those of the models that it is compared with.

    Attributes:
        evaluated: the model's evaluation.
        others: name and evaluation of each other model; the champion is the last.
        note: why the champion could not be added; None if there was no such problem.
        file: the table as JSON, beside the model's report; None if there are no other models.
        page: the table as a page; None if there are no other models.
        costs: what the models cost on this device; None if the user named no other model.
    """

    evaluated: Evaluated
    others: tuple[tuple[str, Evaluated], ...]
    note: str | None
    file: Path | None
    page: Path | None
    costs: Costs | None = None

    @property
    def reports(self) -> list[tuple[str, Report]]:
        """Return name and report of each other model."""
        return [(label, other.report) for label, other in self.others]

    @property
    def choices(self) -> list[Choice]:
        """Return the models with what they cost; none if that was not measured."""
        return _choices(self.evaluated.report, self.reports, self.costs)

    def summary(self) -> dict[str, Any]:
        """Return the keys that `pikavae evaluate --json` adds to those of an evaluation; none without other models."""
        if self.file is None:
            return {}
        models = [
            {"model": label, "metrics": dict(other.report.metrics), "report": str(other.folder)}
            for label, other in self.others
        ]
        costs = (
            {}
            if self.costs is None
            else {"costs": record_of(self.choices, self.costs, self.evaluated.report.primary_metric)}
        )
        return {"beside": {"models": models, **costs, "file": str(self.file), "page": str(self.page)}}

    def table(self) -> str:
        """Return the text for a terminal: the tables, half precision, and why the champion is missing."""
        report = self.evaluated.report
        lines = [report.table(self.reports), *([self.note] if self.note else [])]
        if self.costs is not None:
            lines += ["", *align_cells(cost_cells(self.choices, report.primary_metric)), "", self.costs.protocol()]
        return "\n".join(lines)


def _choices(report: Report, others: Sequence[tuple[str, Report]], costs: Costs | None) -> list[Choice]:
    return [] if costs is None else choices([("this model", report), *others], costs)


def beside(workspace: Workspace, model: ResolvedModel, config: Config, others: Sequence[ResolvedModel] = ()) -> Beside:
    """Measure a model, the models beside it and the champion on the validation pictures of the configured data.

    Earlier evaluations are reused, so the champion is measured once for each set. The champion is added unless it is
    one of the named models. A named import without scores gets these. If there are other models, the table is written
    beside the model's report as `beside-KEY.json` and `.html`, where KEY is a hash of their names and evaluations.
    If the user named one of them, it also has what each model costs, as measured on this device when it was first
    asked for.

    Args:
        workspace: the state folder and its store.
        model: the model.
        config: the data and how to measure, for all.
        others: other models; a name given twice counts once.

    Raises:
        UserError: a model does not fit the pictures' size.
    """
    use_threads(config)
    prepared = prepare(workspace, config)
    picture_set = prepared.prepared_set.validation
    named = {one.name: one for one in (model, *others)}
    evaluated = {name: evaluate_on(workspace, prepared, one, config) for name, one in named.items()}
    rows = [(_label(name), named[name], evaluated[name]) for name in dict.fromkeys(one.name for one in others)]
    note = None
    try:
        champion = _champion(workspace)
        if champion is not None and champion.digest not in {one.digest for one in named.values()}:
            rows.append((champion.name, champion, find_or_measure(workspace, picture_set, champion, config)))
    except PikavaeError as error:  # the user did not ask for the champion, so its error must not lose the other results
        note = f"The champion is not in the table: {error}"
    own = evaluated[model.name]
    table = [("this model", model, own), *rows]
    shown = _pictures(table, picture_set, config) if rows else []
    costs = None
    if others:
        compared = [one for _, one, _ in table]
        costs = find_or_measure_costs(compared, picture_set, choose_device(config), own.folder)
    return _write_table(own, tuple((label, other) for label, _, other in rows), note, shown, costs)


def _champion(workspace: Workspace) -> ResolvedModel | None:
    """Return the champion, named as the table shows it; None if there is no champion.

    If the ledger is empty, MLflow is not opened and its database is not created.
    """
    if not promote.history(workspace.home):
        return None
    made = versions.find_by_alias(workspace.client, PRODUCTION_NAME, CHAMPION)
    return None if made is None else of_version(workspace, made, f"champion, version {candidate_of(made)[1]}")


def _pictures(
    models: Sequence[tuple[str, ResolvedModel, Evaluated]], picture_set: PictureSet, config: Config
) -> list[BesidePicture]:
    """Reconstruct some of the pictures with every model."""
    count = max(1, min(MOST_PICTURES, config.evaluation.panel_images // 2))
    loaded = [(label, read_snapshot(model.folder), one.report) for label, model, one in models]
    return reconstruct_by_all(loaded, picture_set, count=count, device=choose_device(config))


def _write_table(
    evaluated: Evaluated,
    others: tuple[tuple[str, Evaluated], ...],
    note: str | None,
    pictures: Sequence[BesidePicture],
    costs: Costs | None,
) -> Beside:
    """Write the table and its page beside the report, if there are other models."""
    if not others:
        return Beside(evaluated, others, note, None, None)
    key = content_hash([[label, other.folder.name] for label, other in others])
    file = evaluated.folder / f"beside-{key}.json"
    page = file.with_suffix(".html")
    reports = [(label, other.report) for label, other in others]
    tree = {
        "evaluations": {"this model": evaluated.folder.name, **{label: other.folder.name for label, other in others}},
        "evaluation_set": evaluated.report.evaluation_set,
        "num_images": evaluated.report.num_images,
        "rows": [row.record() for row in evaluated.report.rows(reports)],
        **(
            {}
            if costs is None
            else {
                "costs": record_of(_choices(evaluated.report, reports, costs), costs, evaluated.report.primary_metric)
            }
        ),
    }
    write_atomically(page, beside_page(evaluated.report, reports, pictures, costs))
    write_atomically(file, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return Beside(evaluated, others, note, file, page, costs)


def _label(name: str) -> str:
    """Shorten the user's name of a model for a table; the end of a path is kept, for it says more."""
    return name if len(name) <= MAX_LABEL else f"...{name[3 - MAX_LABEL :]}"
