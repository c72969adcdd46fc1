"""A candidate and the champion measured in one job on one frozen set, and what the gates say of that."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae import runs, stages
from pikavae.config import Config
from pikavae.data.dataset import PictureSet
from pikavae.data.prepare import find_prepared
from pikavae.errors import GateError
from pikavae.home import home
from pikavae.model.snapshot import read_snapshot
from pikavae.operations.comparing import compare_evaluated
from pikavae.operations.pipeline import choose_device, evaluate_snapshot, prepare, use_threads
from pikavae.operations.results import (
    REPORT_SHA256_TAG,
    Evaluated,
    altered_files,
    find_evaluated,
    report_hashes,
)
from pikavae.operations.training_pictures import fingerprint_of, seen_by
from pikavae.registry import gates, versions
from pikavae.registry.gates import Gate, Integrity, Measured
from pikavae.registry.production_model import RUN_TAG, candidate_of
from pikavae.registry.versions import Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """What the gates said of a candidate.

    Attributes:
        gates: each of them.
        evaluated: the candidate's evaluation; None when its files were refused before.
        verdicts: the same as JSON values, for the ledger.
    """

    gates: tuple[Gate, ...]
    evaluated: Evaluated | None
    verdicts: dict[str, Any]

    @property
    def failed(self) -> list[str]:
        """The gates that failed."""
        return [gate.name for gate in self.gates if gate.outcome == "fail"]


def judge(client: MlflowClient, candidate: Version, champion: Version | None, config: Config, own: Config) -> Judged:
    """Measure a candidate and the champion on the same pictures, and ask the gates. Nothing is recorded.

    Evaluations that were done before are found again.

    Args:
        client: from `pikavae.tracking.connect`.
        candidate: the version in question.
        champion: the version of the production model that it is measured against, whose files are whole; None when
            there is none yet.
        config: the data to measure on, how, and the policy.
        own: the configuration that made the candidate. Where `config` has the same data, the candidate's own prepared
            set is taken as it is.

    Raises:
        UserError: the pictures cannot be had, or do not fit a model.
        GateError: a report was edited since it was written.
    """
    facts = _integrity(client, candidate)
    first = gates.integrity(facts)
    if first.outcome == "fail":
        return Judged((first,), None, {"outcome": "fail", "gates": _gates_as_json([first])})
    use_threads(config)
    pictures = _evaluation_pictures(candidate, config, own)
    evaluated, measured = _measure(client, candidate, pictures, config)
    sides = [("candidate", candidate, evaluated)]
    other = None
    if champion is not None:
        theirs, other = _measure(client, champion, pictures, config)
        sides.append(("champion", champion, theirs))
    seen = [seen_by(client, version, who, pictures) for who, version, _ in sides]
    found = (first, *gates.judge(measured, other, seen, config.promotion))
    verdicts = {
        "outcome": gates.worst([gate.outcome for gate in found]),
        "gates": _gates_as_json(found),
        "evaluation_set": pictures.digest,
        "num_images": len(pictures),
        "image_size": pictures.image_size,
        "reports": {who: {"report": done.folder.name, "sha256": report_hashes(done.folder)} for who, _, done in sides},
        "champion": None if champion is None else candidate_of(champion)[1],
    }
    if champion is not None and any(gate.name == "regression" for gate in found):  # the reports can be compared
        page = _side_by_side(client, (candidate, champion), (evaluated, sides[1][2]), pictures, config)
        verdicts["comparison"] = page.relative_to(home()).as_posix()
    return Judged(found, evaluated, verdicts)


def _side_by_side(
    client: MlflowClient,
    compared: tuple[Version, Version],
    evaluations: tuple[Evaluated, Evaluated],
    pictures: PictureSet,
    config: Config,
) -> Path:
    """The page that shows candidate and champion picture by picture; the candidate's run keeps a copy."""
    from mlflow.exceptions import MlflowException

    candidate, champion = compared
    names = (f"version {candidate.version}", f"version {candidate_of(champion)[1]}, the champion")
    first, second = (versions.snapshot_of(client, version, home() / "downloads") for version in compared)
    page = compare_evaluated(names, (first, second), evaluations, pictures, config).page
    try:
        client.log_artifact(run_of(candidate), str(page), "comparison")
    except MlflowException as error:  # a run that was deleted: the page is beside the report all the same
        logger.warning("run %s keeps no copy of %s: %s", run_of(candidate), page.name, " ".join(error.message.split()))
    return page


def run_of(version: Version) -> str:
    """The MLflow run of the model."""
    return version.tags.get(RUN_TAG) or version.run_id


def _gates_as_json(found: Sequence[Gate]) -> dict[str, Any]:
    return {gate.name: {**asdict(gate), "findings": [asdict(finding) for finding in gate.findings]} for gate in found}


def _integrity(client: MlflowClient, candidate: Version) -> Integrity:
    if not candidate.manifest:
        return Integrity(differing=["the manifest"])
    if differing := versions.differing_files(client, candidate):
        return Integrity(differing=differing)
    model = read_snapshot(versions.snapshot_of(client, candidate, home() / "downloads"))
    return Integrity(non_finite=[name for name, value in model.state_dict().items() if not value.isfinite().all()])


def _evaluation_pictures(candidate: Version, config: Config, own: Config) -> PictureSet:
    """The validation pictures of the candidate's own prepared set, or of the data that `config` names instead."""
    fingerprint = fingerprint_of(candidate)
    if config.data == own.data and fingerprint is not None:
        prepared = find_prepared(fingerprint, home() / "prepared")
        if prepared is not None:
            return prepared.validation
    return prepare(config).pictures.validation


def _measure(
    client: MlflowClient, version: Version, pictures: PictureSet, config: Config
) -> tuple[Evaluated, Measured]:
    """A version's report on these pictures, made by this kind of device."""
    snapshot = versions.snapshot_of(client, version, home() / "downloads")
    digest, device = runs.snapshot_digest(snapshot), choose_device(config).type
    inputs = [
        stages.evaluate_inputs(config, run_id=run_id, model=digest, evaluation_set=pictures.digest)
        for run_id in (run_of(version), None)
    ]
    inputs.append({**inputs[1], "device": device})
    for one in inputs:
        folder = home() / "evaluations" / stages.key_of(one)
        _refuse_altered(folder.name, version)
        found = find_evaluated(folder.name)
        if found is None and one is not inputs[0]:
            found = evaluate_snapshot(config, pictures, snapshot, one)
        if found is not None and found.report.protocol.get("device") == device:
            break
    assert found is not None
    return found, Measured(found.report, digest, pictures.digest)


def _refuse_altered(key: str, version: Version) -> None:
    """Refuse a report that is not what was written down when it was made, beside it and with the version.

    Raises:
        GateError: naming the file.
    """
    folder = home() / "evaluations" / key
    recorded = version.tags.get(REPORT_SHA256_TAG)
    altered = altered_files(folder)
    if not altered and folder.is_dir() and version.tags.get("pikavae.report") == key and recorded is not None:
        found = report_hashes(folder)
        altered = [name for name, digest in json.loads(recorded).items() if found.get(name) != digest]
    if altered:
        raise GateError(
            f"{folder / altered[0]}: it was edited since the model was measured, and counts no more; move the folder "
            f"away to measure again"
        )
