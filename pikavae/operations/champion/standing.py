"""Find how a new candidate stands against the champion, by what the gates would say. Nothing is asked for."""

from __future__ import annotations

import logging

from pikavae.config import Config
from pikavae.errors import PikavaeError, PreemptedError, TransientError
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.operations.champion.gating import Judged, measure_and_judge
from pikavae.operations.champion.promotion import whole_champion
from pikavae.operations.resolving.resolve import config_of_snapshot, of_version
from pikavae.operations.stages.results import StageRecord, registrations
from pikavae.production.judgements.standing import Standing, is_expected
from pikavae.production.packages.model import candidate_of
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import REGISTER_KEY_TAG
from pikavae.workspace.records import readable_files
from pikavae.workspace.runs import run_folder, run_folders

logger = logging.getLogger(__name__)


def find_standing(workspace: Workspace, config: Config, number: int) -> Standing:
    """Measure a candidate and the champion on the candidate's pictures, ask the gates, and keep what they say.

    The champion is measured once for each evaluation set. The standing is written beside the registration, where
    notifications read it. If the two cannot be compared, the standing says why.

    Args:
        workspace: the state folder and its store.
        config: the configuration that made the candidate, with the policy.
        number: the candidate.

    Raises:
        TransientError: a server does not answer; another attempt may find the standing.
    """
    candidate = versions.get_version(workspace.client, config.registry.model_name, number)
    standing = _compare(workspace, config, candidate)
    run = run_folder(workspace.home, versions.run_of(candidate))
    standing.save(run.path, candidate.tags[REGISTER_KEY_TAG])
    logger.info("version %d: %s", number, standing.line())
    return standing


def find_missing_standings(workspace: Workspace, config: Config) -> list[Standing]:
    """Compare the candidates that a retraining registered and did not compare, because it was killed in between.

    Args:
        workspace: the state folder and its store.
        config: the policy, and the registered model; candidates of others are left to their own retrainings.

    Raises:
        TransientError: a server does not answer; another attempt may find the standings.
    """
    found = []
    for run in run_folders(workspace.home):
        for path, record in readable_files(registrations(run), StageRecord.read, logger):
            number = record.version
            is_ours = record.inputs.get("registry.model_name") == config.registry.model_name
            if number is None or not is_ours or not is_expected(run.path, path.stem):
                continue
            try:
                found.append(find_standing(workspace, config, number))
            except (PreemptedError, TransientError):
                raise
            except PikavaeError as error:  # such as a version that was deleted in MLflow
                logger.warning("version %d is not compared with the champion: %s", number, error)
    return found


def _compare(workspace: Workspace, config: Config, candidate: Version) -> Standing:
    champion = None
    try:
        version = whole_champion(workspace)
        champion = None if version is None else candidate_of(version)[1]
        own = config_of_snapshot(of_version(workspace, candidate).folder)
        return _standing_of(candidate, champion, measure_and_judge(workspace, candidate, version, config, own))
    except (PreemptedError, TransientError):
        raise
    except PikavaeError as error:  # the training is finished and registered, whatever the champion's files are
        reason = " ".join(str(error).split())
        return Standing(version=candidate.version, champion=champion, reason=reason)


def _standing_of(candidate: Version, champion: int | None, judged: Judged) -> Standing:
    findings = [
        f"{gate.name}: {finding.outcome}: {finding.reason}"
        for gate in judged.gates
        for finding in gate.findings
        if finding.outcome != "pass"
    ]
    found: dict[str, object] = {}
    if judged.comparison is not None:
        metric = judged.comparison.primary_metric
        difference, sign = judged.comparison.metrics[metric], METRICS[metric].sign()
        interval = None if difference.interval is None else sorted(sign * end for end in difference.interval)
        gain = None if difference.difference is None else sign * difference.difference
        found = {"metric": metric, "gain": gain, "interval": interval, "comparison": judged.verdicts.comparison}
    return Standing.model_validate(
        {
            "version": candidate.version,
            "champion": champion,
            "outcome": judged.verdicts.outcome,
            "findings": findings,
            **found,
        }
    )
