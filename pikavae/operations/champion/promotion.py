"""Control production: request a promotion, approve it, roll it back, and report what happened."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import Any

from pikavae.config import Config, PromotionConfig
from pikavae.errors import DamagedFileError, GateError, UserError
from pikavae.operations.champion.gating import measure_and_judge
from pikavae.operations.resolving.resolve import config_of_snapshot, of_version
from pikavae.operations.stages.results import report_hashes
from pikavae.production.changes import moves, requests
from pikavae.production.changes import promote as production
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.changes.entries import candidate_number
from pikavae.production.judgements.gates import NEVER_FORCED
from pikavae.production.packages.model import PRODUCTION_NAME, Origin, is_whole
from pikavae.production.packages.signing import signer_of_environment
from pikavae.production.record import ledger, statuses
from pikavae.production.record.identity import identity_of
from pikavae.production.record.ledger import Event
from pikavae.production.record.rules import Rules, rules_after, rules_event, why_not_ask
from pikavae.production.record.statuses import Status
from pikavae.production.record.verdicts import Verdicts
from pikavae.registry import versions
from pikavae.registry.versions import Version
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import CHAMPION, PREVIOUS, REGISTER_KEY_TAG

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """Holds the result of `promote`, `approve` or `rollback`. All numbers but `production_version` are candidates'.

    Attributes:
        version: the candidate that was promoted, approved or restored.
        production_version: its version of the production model; None if it has none.
        champion: the candidate that is champion now.
        previous: the candidate that `rollback` would restore.
        verdicts: the gates' verdicts; None if no gate was asked.
        command: the command that completes a promotion waiting for approval; None if none is waiting.
        changed: True if the champion changed.
    """

    version: int
    production_version: int | None
    champion: int | None
    previous: int | None
    verdicts: Verdicts | None = None
    command: str | None = None
    changed: bool = False

    def result(self) -> dict[str, Any]:
        """Return the keys of `pikavae promote --json`."""
        return {
            "version": self.version,
            "production_version": self.production_version,
            "champion": self.champion,
            "previous": self.previous,
            "verdicts": None if self.verdicts is None else self.verdicts.content(),
        }


def promote(
    workspace: Workspace,
    candidate: Version,
    config: Config,
    *,
    reason: str,
    force: bool = False,
    actor: str | None = None,
) -> Promoted:
    """Request that a candidate becomes champion: measure it against the champion, and record what the gates say.

    Under the policy `automatic`, a candidate that passes every gate is promoted at once, unless the rules ask for a
    person. Any other request that was not refused waits for `approve`.

    Args:
        workspace: the state folder and its store.
        candidate: the version.
        config: the data to measure on, how, the policy, and the registered model of the candidates.
        reason: the reason for the ledger.
        force: override failed gates, except those of the files themselves. The request still waits for approval.
        actor: who asks, by default whom `identity_of` names.

    Raises:
        UserError: the pictures are not available, or the reason is empty.
        GateError: a gate failed, a report was edited, or the rules forbid it; the champion did not change.
        DamagedFileError: the files of the version or the champion, or the ledger, are not as they were written.
    """
    production.check_reason(reason)
    client, who = workspace.client, actor or identity_of(workspace)
    rules = current_rules(workspace)
    if why := why_not_ask(ledger.read(ledger_path(workspace.home)), who):
        raise GateError(f"promote {candidate.version}: {why}")
    own = config_of_snapshot(of_version(workspace, candidate).folder)
    champion = whole_champion(workspace)
    if champion is not None and champion.tags.get(REGISTER_KEY_TAG) == Origin.of_candidate(client, candidate).key:
        return _now(workspace, candidate.version, champion.version)
    judged = measure_and_judge(workspace, candidate, champion, config, own)
    forced = judged.failed if force and not NEVER_FORCED & {*judged.failed} else []
    request = requests.record_request(
        workspace,
        candidate,
        champion=None if champion is None else champion.version,
        report=None if judged.evaluated is None else judged.evaluated.folder.name,
        evaluation_set=judged.verdicts.evaluation_set,
        thresholds=config.promotion.model_dump(mode="json"),
        verdicts=judged.verdicts.content(),
        overridden=forced,
        reason=reason,
        actor=who,
    )
    if judged.failed and not forced:
        raise GateError(_refusal(request), _now(workspace, candidate.version, None, request).result())
    if judged.verdicts.outcome == "pass" and config.promotion.approval == "automatic" and not rules.need_person:
        return _carry_out(workspace, request, approver=None, actor=who)
    flags = _flags(config.promotion, own.promotion)
    command = shlex.join(["pikavae", "approve", str(candidate.version), *flags, "--reason", "TEXT"])
    return _now(workspace, candidate.version, None, request, command=command)


def approve(workspace: Workspace, version: int, config: Config, *, reason: str, actor: str | None = None) -> Promoted:
    """Complete a candidate's newest request, if everything that it was measured on is unchanged.

    Args:
        workspace: the state folder and its store.
        version: the candidate.
        config: the policy, and the registered model of the candidates.
        reason: the reason for the ledger.
        actor: who approves, by default whom `identity_of` names.

    Raises:
        UserError: there is no request, or the reason is empty.
        GateError: the gates refused it, the rules forbid it, or champion, files, report or policy changed since; the
            champion did not change.
        PikavaeError: the smoke test failed. The approval remains; a second `approve` resumes.
    """
    production.check_reason(reason)
    client, model = workspace.client, config.registry.model_name
    events = ledger.read(ledger_path(workspace.home))
    request = statuses.newest_request(events, model, version)
    if request is None:
        versions.get_version(client, model, version)
        raise UserError(f"approve {version}: nothing was asked for; `pikavae promote {version} --reason TEXT` does")
    verdicts = Verdicts.of_event(request)
    if verdicts is not None and verdicts.outcome == "fail" and not request.forced:
        raise GateError(_refusal(request), _now(workspace, version, None, request).result())
    _refuse_changed(workspace, request, config.promotion)
    signer_of_environment()  # an approval that cannot be carried out is not recorded
    who = actor or identity_of(workspace)
    approval = requests.record_approval(workspace, request, reason=reason, actor=who)
    return _carry_out(workspace, request, approver=approval.actor, actor=who)


def rollback(workspace: Workspace, *, reason: str) -> Promoted:
    """Make the previous champion the champion again. No gate is asked, because it was champion before.

    Raises:
        UserError: there is no previous champion, or the reason is empty; the champion did not change.
    """
    done = production.rollback(workspace, reason=reason)
    return Promoted(done.version, done.production_version, done.version, done.previous, changed=done.changed)


def set_rules(workspace: Workspace, wanted: Rules, *, reason: str) -> Rules:
    """Put rules in force, in place of those of before, and return them.

    Raises:
        UserError: the reason is empty, or the approvers are named without whoever sets them.
        GateError: there are approvers, and whoever runs this is none of them.
    """
    requests.set_rules(workspace, wanted, reason=reason)
    return current_rules(workspace)


def current_rules(workspace: Workspace) -> Rules:
    """Return the rules in force."""
    return rules_after(ledger.read(ledger_path(workspace.home)))


def who_set_rules(workspace: Workspace) -> tuple[str, str, str] | None:
    """Return who set the rules in force, when and why; None if nobody ever set any."""
    event = rules_event(ledger.read(ledger_path(workspace.home)))
    return None if event is None else (event.actor, event.time, event.reason)


def history(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the ledger's events, the oldest first, after verifying its chain."""
    return production.history(workspace.home)


def status_of(workspace: Workspace, version: Version) -> Status:
    """Return what the ledger records of a version: its role, its gates' outcome, and who approved it."""
    return statuses.status_of(ledger.read(ledger_path(workspace.home)), version.name, version.version)


def verdict_lines(workspace: Workspace, verdicts: Verdicts | None) -> list[str]:
    """Return a line for each reason that a gate gave, and one that says where both models' pictures are."""
    if verdicts is None:
        return []
    lines = [
        f"{name:<16}{finding.outcome:<6}{finding.reason}"
        for name, gate in verdicts.gates.items()
        for finding in gate.findings
    ]
    if verdicts.comparison:
        lines.append(f"Both models' pictures: {workspace.home / verdicts.comparison}")
    return lines


def whole_champion(workspace: Workspace) -> Version | None:
    """Return the version of the production model that is champion, after checking its files; None without a champion.

    Raises:
        PikavaeError: the ledger and MLflow disagree on the champion.
        DamagedFileError: its files differ from those of its promotion.
    """
    with moves.open_ledger(workspace) as events:
        event = ledger.of_production(events, ledger.expected_aliases(events)[CHAMPION])
        if event is None or event.production_version is None:
            return None
        champion = versions.get_version(workspace.client, PRODUCTION_NAME, event.production_version)
        if not is_whole(workspace.client, champion, event.manifest):
            raise DamagedFileError(
                f"champion, version {event.version}: its files in MLflow are gone or altered; `pikavae models repair` "
                f"puts them back"
            )
    return champion


def _now(
    workspace: Workspace,
    version: int,
    production_version: int | None,
    request: Event | None = None,
    command: str | None = None,
) -> Promoted:
    """Return a result with what is in production now, for a command that did not change the champion."""
    events = ledger.read(ledger_path(workspace.home))
    places = ledger.expected_aliases(events)
    champion, previous = (candidate_number(events, places[alias]) for alias in (CHAMPION, PREVIOUS))
    verdicts = None if request is None else Verdicts.of_event(request)
    return Promoted(version, production_version, champion, previous, verdicts, command)


def _carry_out(workspace: Workspace, request: Event, *, approver: str | None, actor: str) -> Promoted:
    done = production.promote(
        workspace,
        model_name=request.model,
        version=request.version,
        reason=request.reason,
        actor=actor,
        request=request,
        approver=approver,
    )
    return Promoted(
        done.version,
        done.production_version,
        done.version,
        done.previous,
        Verdicts.of_event(request),
        changed=done.changed,
    )


def _refusal(request: Event) -> str:
    """Return why the gates refused, a line for each reason."""
    verdicts = Verdicts.of_event(request)
    failed = {name: gate for name, gate in verdicts.gates.items() if gate.outcome == "fail"} if verdicts else {}
    against = f" against version {request.champion_before}" if request.champion_before else ""
    remedy = "nobody can override that" if NEVER_FORCED & failed.keys() else "--force overrides, and is recorded"
    head = f"promote {request.version}: refused{against} by {', '.join(failed)}; {remedy}"
    reasons = [
        f"  {name}: {finding.reason}"
        for name, gate in failed.items()
        for finding in gate.findings
        if finding.outcome == "fail"
    ]
    return "\n".join([head, *reasons])


def _refuse_changed(workspace: Workspace, request: Event, policy: PromotionConfig) -> None:
    """Refuse a request if its policy or its reports have changed.

    Raises:
        GateError: something changed; the message says what.
    """
    void = f"approve {request.version}: its request of {request.time} is void"
    before, now = dict(request.thresholds or {}), policy.model_dump(mode="json")
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise GateError(
                f"{void}: promotion.{name} was {before.get(name)} and is {now.get(name)}; approve it with the flags "
                f"that it was asked for with, or promote it again"
            )
    verdicts = Verdicts.of_event(request)
    for who, report in verdicts.reports.items() if verdicts else ():
        folder = workspace.home / "evaluations" / report.report
        found = report_hashes(folder)
        altered = [name for name, digest in report.sha256.items() if found.get(name) != digest]
        if altered:
            raise GateError(f"{void}: the {who}'s report {folder / altered[0]} is gone or was edited; promote it again")


def _flags(policy: PromotionConfig, own: PromotionConfig) -> list[str]:
    """Return the command-line flags that turn the policy `own` into `policy`."""
    words, before = [], own.model_dump(mode="json")
    for name, value in policy.model_dump(mode="json").items():
        if value != before[name]:
            words += [f"--promotion.{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
