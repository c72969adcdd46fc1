"""Measure a candidate and the champion in one job on one frozen set, and ask the gates."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pikavae.config import Config
from pikavae.data.prepare import find_prepared
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import GateError
from pikavae.evaluation.compare.comparison import Comparison
from pikavae.model.sizes import WEIGHTS_NAME
from pikavae.operations.resolving.resolve import of_version
from pikavae.operations.running.pipeline import prepare, report_on
from pikavae.operations.stages import keys
from pikavae.operations.stages.results import Evaluated, altered_files, find_evaluated, report_hashes
from pikavae.operations.stages.runtime import choose_device, use_threads
from pikavae.operations.stages.training_pictures import fingerprint_of, trace_training_pictures
from pikavae.operations.using.comparing import Compared, compare_evaluated
from pikavae.production.judgements import gates
from pikavae.production.judgements.gates import Gate, Integrity, MeasuredModel
from pikavae.production.packages.model import candidate_of
from pikavae.production.record.verdicts import FindingVerdict, GateVerdict, MeasuredReport, Verdicts
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.run_log import keep_copy
from pikavae.tracker.tags import REPORT_SHA256_TAG, REPORT_TAG
from pikavae.weights.weight_files import read_tensors
from pikavae.workspace import strict_json

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """Holds what the gates found for a candidate.

    Attributes:
        gates: the result of each gate.
        evaluated: the candidate's evaluation; None if its files were refused first.
        verdicts: the gates' results, for the ledger.
        comparison: of the candidate with the champion; None if there is no champion, or if they cannot be compared.
    """

    gates: tuple[Gate, ...]
    evaluated: Evaluated | None
    verdicts: Verdicts
    comparison: Comparison | None = None

    @property
    def failed(self) -> list[str]:
        """Return the names of the gates that failed."""
        return [gate.name for gate in self.gates if gate.outcome == "fail"]


def measure_and_judge(
    workspace: Workspace, candidate: Version, champion: Version | None, config: Config, own: Config
) -> Judged:
    """Measure a candidate and the champion on the same pictures, and ask the gates. Nothing is recorded.

    Earlier evaluations are reused.

    Args:
        workspace: the state folder and its store.
        candidate: the version to judge.
        champion: the version of the production model to compare it with, whose files are whole; None if there is no
            champion yet.
        config: the data to measure on, how, and the policy.
        own: the configuration that made the candidate. If `config` has the same data, the candidate's own prepared set
            is used unchanged.

    Raises:
        UserError: the pictures are not available, or do not fit a model.
        GateError: a report was edited since it was written.
    """
    facts = _integrity(workspace, candidate)
    first = gates.integrity(facts)
    if first.outcome == "fail":
        return Judged((first,), None, Verdicts(outcome="fail", gates=_verdicts_of([first])))
    use_threads(config)
    picture_set = _evaluation_pictures(workspace, candidate, config, own)
    evaluated, measured = measure_version(workspace, candidate, picture_set, config)
    sides = [("candidate", candidate, evaluated)]
    other = None
    if champion is not None:
        theirs, other = measure_version(workspace, champion, picture_set, config)
        sides.append(("champion", champion, theirs))
    seen = [trace_training_pictures(workspace, version, who, picture_set) for who, version, _ in sides]
    found = (first, *gates.judge(measured, other, seen, config.promotion))
    verdicts = Verdicts(
        outcome=gates.worst([gate.outcome for gate in found]),
        gates=_verdicts_of(found),
        evaluation_set=picture_set.digest,
        num_images=len(picture_set),
        image_size=picture_set.image_size,
        reports={
            who: MeasuredReport(report=done.folder.name, sha256=report_hashes(done.folder)) for who, _, done in sides
        },
        champion=None if champion is None else candidate_of(champion)[1],
    )
    comparison = None
    if champion is not None and any(gate.name == "regression" for gate in found):  # the reports can be compared
        compared = _side_by_side(workspace, (candidate, champion), (evaluated, sides[1][2]), picture_set, config)
        verdicts = verdicts.model_copy(update={"comparison": compared.page.relative_to(workspace.home).as_posix()})
        comparison = compared.comparison
    return Judged(found, evaluated, verdicts, comparison)


def _side_by_side(
    workspace: Workspace,
    both: tuple[Version, Version],
    evaluations: tuple[Evaluated, Evaluated],
    picture_set: PictureSet,
    config: Config,
) -> Compared:
    """Compare candidate and champion picture by picture, with a page that the candidate's run keeps a copy of."""
    candidate, champion = both
    names = (f"version {candidate.version}", f"version {candidate_of(champion)[1]}, the champion")
    first, second = (of_version(workspace, version).folder for version in both)
    compared = compare_evaluated(names, (first, second), evaluations, picture_set, config)
    keep_copy(workspace.client, versions.run_of(candidate), compared.page, "comparison")
    return compared


def _verdicts_of(found: Sequence[Gate]) -> dict[str, GateVerdict]:
    """Return the gates' results by name, as the ledger keeps them."""
    return {
        gate.name: GateVerdict(
            name=gate.name,
            outcome=gate.outcome,
            findings=[FindingVerdict(**asdict(finding)) for finding in gate.findings],
            thresholds=gate.thresholds,
        )
        for gate in found
    }


def _integrity(workspace: Workspace, candidate: Version) -> Integrity:
    if not candidate.manifest:
        return Integrity(differing=["the manifest"])
    if differing := versions.differing_files(workspace.client, candidate):
        return Integrity(differing=differing)
    weights, _ = read_tensors(of_version(workspace, candidate).folder / WEIGHTS_NAME)
    return Integrity(non_finite=[name for name, value in weights.items() if not value.isfinite().all()])


def _evaluation_pictures(workspace: Workspace, candidate: Version, config: Config, own: Config) -> PictureSet:
    """Return the validation pictures of the candidate's own prepared set, or of other data that `config` names."""
    fingerprint = fingerprint_of(workspace, candidate)
    if config.data == own.data and fingerprint is not None:
        prepared = find_prepared(fingerprint, workspace.home / "prepared")
        if prepared is not None:
            return prepared.validation
    return prepare(workspace, config).prepared_set.validation


def measure_version(
    workspace: Workspace, version: Version, picture_set: PictureSet, config: Config
) -> tuple[Evaluated, MeasuredModel]:
    """Find or make a version's report on these pictures, measured on this kind of device.

    Raises:
        GateError: a report was edited since it was written.
    """
    model = of_version(workspace, version)
    digest, device = model.digest, choose_device(config).type
    inputs = [
        keys.evaluate_inputs(config, run_id=run_id, model=digest, evaluation_set=picture_set.digest)
        for run_id in (versions.run_of(version), None)
    ]
    inputs.append({**inputs[1], "device": device})
    for one in inputs:
        folder = workspace.home / "evaluations" / keys.key_of(one)
        _refuse_altered(workspace, folder.name, version)
        found = find_evaluated(workspace, folder.name)
        if found is None and one is not inputs[0]:
            found = report_on(workspace, config, picture_set, model.folder, one)
        if found is not None and found.report.protocol.get("device") == device:
            break
    assert found is not None
    return found, MeasuredModel(found.report, digest, picture_set.digest)


def _tagged_hashes(recorded: str, version: Version) -> dict[str, Any]:
    """Return the hashes of a version's report, from its tag.

    Raises:
        GateError: the tag was edited and holds no hashes.
    """
    try:
        hashes = strict_json.parse(recorded)
    except ValueError:
        hashes = None
    if not isinstance(hashes, dict):
        raise GateError(
            f"version {version.version} of {version.name!r}: its tag {REPORT_SHA256_TAG} was edited and holds no "
            f"hashes of its report; register the snapshot again"
        )
    return hashes


def _refuse_altered(workspace: Workspace, key: str, version: Version) -> None:
    """Refuse a report that differs from the hashes recorded beside it and with the version.

    Raises:
        GateError: naming the file.
    """
    folder = workspace.home / "evaluations" / key
    recorded = version.tags.get(REPORT_SHA256_TAG)
    altered = altered_files(folder)
    if not altered and folder.is_dir() and version.tags.get(REPORT_TAG) == key and recorded is not None:
        found = report_hashes(folder)
        altered = [name for name, digest in _tagged_hashes(recorded, version).items() if found.get(name) != digest]
    if altered:
        raise GateError(
            f"{folder / altered[0]}: it was edited since the model was measured, and counts no more; move the folder "
            f"away to measure again"
        )
