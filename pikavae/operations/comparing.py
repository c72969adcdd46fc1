"""Two models measured on the same frozen pictures and compared picture by picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.data.dataset import PictureSet
from pikavae.evaluation.compared_pictures import compared_pictures
from pikavae.evaluation.comparison import Comparison, compare, picture_changes
from pikavae.evaluation.comparison_page import comparison_page
from pikavae.evaluation.comparison_table import comparison_table
from pikavae.evaluation.slices import slices_of
from pikavae.evaluation.tiny import read_measurable
from pikavae.files import write_atomically
from pikavae.operations.models import evaluate_on, find_model
from pikavae.operations.pipeline import choose_device, prepare, use_threads
from pikavae.operations.results import Evaluated


@dataclass(frozen=True)
class Compared:
    """Two models' evaluations and what their comparison found.

    Attributes:
        model: what the user calls model A, and `against` model B.
        evaluated: A's evaluation, and `other` B's.
        comparison: of A with B.
        file: the comparison as JSON, beside A's report.
        page: the same for a person, with pictures of both, beside it.
    """

    model: str
    against: str
    evaluated: Evaluated
    other: Evaluated
    comparison: Comparison
    file: Path
    page: Path

    def summary(self) -> dict[str, Any]:
        """What `pikavae evaluate --against --json` adds to the keys of an evaluation."""
        return {
            "comparison": {**asdict(self.comparison), "file": str(self.file), "page": str(self.page)},
            "against": {
                "model": self.against,
                "metrics": dict(self.other.report.metrics),
                "report": str(self.other.folder),
            },
        }

    def table(self) -> str:
        """The comparison in lines for a terminal."""
        return comparison_table(self.comparison, self.model, self.against)


def compare_models(model: str, against: str, config: Config) -> Compared:
    """Measure two models on the validation pictures of the configured data, and compare them.

    Evaluations that were done before are found again. The comparison is written beside A's report as
    `comparison-KEY.json` and `.html`, where KEY is that of B's evaluation; a repetition writes the same bytes.

    Args:
        model: model A, as `find_model` takes it.
        against: model B, likewise.
        config: the data and how to measure, for both.

    Raises:
        UserError: there is no such model, or it does not fit the pictures' size.
    """
    snapshots = [find_model(one, config.registry.model_name) for one in (model, against)]
    use_threads(config)
    pictures = prepare(config).pictures.validation
    evaluated, other = (evaluate_on(pictures, snapshot, config) for snapshot in snapshots)
    return compare_evaluated((model, against), (snapshots[0], snapshots[1]), (evaluated, other), pictures, config)


def compare_evaluated(
    names: tuple[str, str],
    snapshots: tuple[Path, Path],
    evaluations: tuple[Evaluated, Evaluated],
    pictures: PictureSet,
    config: Config,
) -> Compared:
    """Compare A with B, which were measured on these pictures, and write the comparison beside A's report.

    Args:
        names: what the user calls them.
        snapshots: their folders, for the pictures that the page shows.
        evaluations: of both on `pictures`.
        pictures: the evaluation set.
        config: how many pictures the page shows, and where to compute them.
    """
    evaluated, other = evaluations
    comparison = compare(evaluated.report, other.report, slices=slices_of(pictures, config.evaluation.batch_size))
    file = evaluated.folder / f"comparison-{other.folder.name}.json"
    page = file.with_suffix(".html")
    models = {name: one.report.provenance["model"] for name, one in (("a", evaluated), ("b", other))}
    changes = picture_changes(evaluated.report, other.report)
    shown = compared_pictures(
        (read_measurable(snapshots[0]), read_measurable(snapshots[1])),
        pictures,
        comparison,
        changes,
        first=config.evaluation.panel_images,
        device=choose_device(config),
    )
    write_atomically(page, comparison_page(comparison, changes, shown, a=names[0], b=names[1]))
    comparison.save(file, models=models)
    return Compared(*names, evaluated, other, comparison, file, page)
