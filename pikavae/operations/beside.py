"""A model in one table with others and the champion, all measured on the same frozen pictures.

What a report holds depends on its model and its pictures alone, so that it can be kept under its key. The champion of
the day is no part of it: the table is put together beside the report, from the reports of all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pikavae import runs
from pikavae.config import Config, content_hash
from pikavae.errors import PikavaeError
from pikavae.evaluation.beside_page import beside_page
from pikavae.evaluation.report import Report
from pikavae.files import write_atomically
from pikavae.home import home
from pikavae.operations.models import evaluate_on, find_model
from pikavae.operations.pipeline import prepare, use_threads
from pikavae.operations.results import Evaluated
from pikavae.registry import production, versions
from pikavae.registry.production_model import PRODUCTION_NAME, candidate_of
from pikavae.registry.versions import CHAMPION
from pikavae.tracking import connect

MAX_LABEL = 50


@dataclass(frozen=True)
class Beside:
    """A model's evaluation, and the others that it is set beside.

    Attributes:
        evaluated: of the model.
        others: what each other is called, and its evaluation; the champion is the last.
        note: why the champion is not among them, where there is one.
        file: the table as JSON, beside the model's report; None where there are no others.
        page: the same for a person.
    """

    evaluated: Evaluated
    others: tuple[tuple[str, Evaluated], ...]
    note: str | None
    file: Path | None
    page: Path | None

    @property
    def reports(self) -> list[tuple[str, Report]]:
        """The others' reports by their names."""
        return [(label, other.report) for label, other in self.others]

    def summary(self) -> dict[str, Any]:
        """What `pikavae evaluate --json` adds to the keys of an evaluation: nothing where there are no others."""
        if self.file is None:
            return {}
        models = [
            {"model": label, "metrics": dict(other.report.metrics), "report": str(other.folder)}
            for label, other in self.others
        ]
        return {"beside": {"models": models, "file": str(self.file), "page": str(self.page)}}

    def table(self) -> str:
        """What a person reads: the table, half precision, and why the champion is missing."""
        return "\n".join([self.evaluated.report.table(self.reports), *([self.note] if self.note else [])])


def evaluate_beside(model: str, config: Config, beside: Sequence[str] = ()) -> Beside:
    """Measure a model, those that it is set beside and the champion on the validation pictures of the configured data.

    Evaluations that were done before are found again, so that the champion is measured once for each set. It is there
    by itself where there is one, if it is none of the named models. With others, the table is written beside the
    model's report as `beside-KEY.json` and `.html`, where KEY is a hash of their names and evaluations.

    Args:
        model: as `find_model` takes it.
        config: the data and how to measure, for all.
        beside: other models, likewise; a name given twice counts once.

    Raises:
        UserError: there is no such model, or it does not fit the pictures' size.
    """
    snapshots = {name: find_model(name, config.registry.model_name) for name in dict.fromkeys([model, *beside])}
    use_threads(config)
    pictures = prepare(config).pictures.validation
    evaluated = {name: evaluate_on(pictures, snapshot, config) for name, snapshot in snapshots.items()}
    others = [(_label(name), evaluated[name]) for name in dict.fromkeys(beside)]
    note = None
    try:
        champion = _champion()
        if champion is not None and champion[1] not in {runs.snapshot_digest(path) for path in snapshots.values()}:
            label, _, snapshot = champion
            others.append((label, evaluate_on(pictures, snapshot, config)))
    except PikavaeError as error:  # nobody asked for it: what was asked for is not lost with it
        note = f"The champion is not in the table: {error}"
    return _written(evaluated[model], tuple(others), note)


def _champion() -> tuple[str, str, Path] | None:
    """What the champion is called, its digest and its snapshot folder; None where there is none.

    MLflow is not opened, nor its database made, where the ledger is empty.
    """
    if not production.history(home()):
        return None
    client = connect(home())
    made = next((one for one in versions.list_versions(client, PRODUCTION_NAME) if CHAMPION in one.aliases), None)
    if made is None:
        return None
    snapshot = versions.snapshot_of(client, made, home() / "downloads")
    return f"champion, version {candidate_of(made)[1]}", runs.snapshot_digest(snapshot), snapshot


def _written(evaluated: Evaluated, others: tuple[tuple[str, Evaluated], ...], note: str | None) -> Beside:
    """The table beside the report, where there is more than the report has itself."""
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
        "rows": [asdict(row) for row in evaluated.report.rows(reports)],
    }
    write_atomically(page, beside_page(evaluated.report, reports))
    write_atomically(file, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return Beside(evaluated, others, note, file, page)


def _label(name: str) -> str:
    """What the user called a model, short enough for a table: the end of a path tells more than its beginning."""
    return name if len(name) <= MAX_LABEL else f"...{name[3 - MAX_LABEL :]}"
