"""One model held against another."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pikavae.config import Config
from pikavae.evaluation.comparison import Comparison, compare
from pikavae.evaluation.slices import slices_of
from pikavae.files import write_atomically
from pikavae.home import home
from pikavae.operations.models import evaluate_model
from pikavae.operations.pipeline import prepare
from pikavae.operations.results import Evaluated


@dataclass(frozen=True)
class Compared:
    """Both reports, the comparison, and the JSON file that holds it."""

    candidate: Evaluated
    reference: Evaluated
    comparison: Comparison
    path: Path


def compare_models(model: str, against: str, config: Config) -> Compared:
    """Measure two models on the validation pictures of the configured data, by one protocol, and compare them.

    Raises:
        UserError: a model is not there, or its downsampling factor does not divide the pictures' size.
    """
    candidate, reference = (evaluate_model(name, config) for name in (model, against))
    pictures = prepare(config).pictures.validation
    found = compare(candidate.report, reference.report, slices_of(pictures, config.evaluation.batch_size))
    path = home() / "comparisons" / f"{candidate.folder.name}-{reference.folder.name}.json"
    path.parent.mkdir(exist_ok=True)
    tree = {"candidate": model, "reference": against, **found.to_json()}
    write_atomically(path, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return Compared(candidate, reference, found, path)
