"""Two models measured on the same frozen pictures and compared picture by picture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.evaluation.comparison import Comparison, compare
from pikavae.evaluation.comparison_table import comparison_table
from pikavae.evaluation.slices import slices_of
from pikavae.operations.models import evaluate_on, find_model
from pikavae.operations.pipeline import prepare, use_threads
from pikavae.operations.results import Evaluated


@dataclass(frozen=True)
class Compared:
    """Two models' evaluations and what their comparison found.

    Attributes:
        model: what the user calls model A, and `against` model B.
        evaluated: A's evaluation, and `other` B's.
        comparison: of A with B.
        file: the comparison as JSON, beside A's report.
    """

    model: str
    against: str
    evaluated: Evaluated
    other: Evaluated
    comparison: Comparison
    file: Path

    def summary(self) -> dict[str, Any]:
        """What `pikavae evaluate --against --json` adds to the keys of an evaluation."""
        return {
            "comparison": {**asdict(self.comparison), "file": str(self.file)},
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
    `comparison-KEY.json`, where KEY is that of B's evaluation; a repetition writes the same bytes.

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
    slices = slices_of(pictures, config.evaluation.batch_size)
    comparison = compare(evaluated.report, other.report, slices=slices)
    file = evaluated.folder / f"comparison-{other.folder.name}.json"
    models = {name: one.report.provenance["model"] for name, one in (("a", evaluated), ("b", other))}
    comparison.save(file, models=models)
    return Compared(model, against, evaluated, other, comparison, file)
