"""Production: ask for a promotion, approve it, take it back, and tell what happened."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pikavae.config import Config, PromotionConfig
from pikavae.errors import DamagedFileError, GateError, UserError
from pikavae.home import home
from pikavae.operations.gating import judge
from pikavae.operations.imported import is_registered_name
from pikavae.operations.models import config_of_model, register_model
from pikavae.operations.results import report_hashes
from pikavae.registry import ledger, production, requests, standings, transactions, versions
from pikavae.registry.anchor import ledger_path
from pikavae.registry.gates import NEVER_FORCED
from pikavae.registry.ledger import PREVIOUS, Event
from pikavae.registry.mending import Repaired
from pikavae.registry.production_model import PRODUCTION_NAME, Source, is_whole
from pikavae.registry.standings import Standing
from pikavae.registry.verification import Verified
from pikavae.registry.versions import CHAMPION, KEY_TAG, Version
from pikavae.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """What came of `promote`, `approve` or `rollback`. Numbers are candidates, but `production_version`.

    Attributes:
        version: the candidate that it was about.
        production_version: the same as a version of the production model; None while it is none.
        champion: the candidate that is champion now.
        previous: the candidate that `rollback` would go back to.
        verdicts: of the gates; None where none was asked.
        command: what completes a promotion that waits for approval; None for one that does not wait.
        changed: whether the champion is another one than before.
    """

    version: int
    production_version: int | None
    champion: int | None
    previous: int | None
    verdicts: Mapping[str, Any] | None = None
    command: str | None = None
    changed: bool = False

    def result(self) -> dict[str, Any]:
        """The keys of `pikavae promote --json`."""
        return {
            "version": self.version,
            "production_version": self.production_version,
            "champion": self.champion,
            "previous": self.previous,
            "verdicts": self.verdicts,
        }


def promote(model: str, config: Config, *, reason: str, force: bool = False) -> Promoted:
    """Ask for a candidate to become champion: measure it against the champion, and record what the gates say.

    Under the policy `automatic`, what passes every gate is promoted at once. Everything else that was not refused waits
    for `approve`.

    Args:
        model: a version number, or another model, which is registered first when it is not yet.
        config: the data to measure on, how, the policy, and the registered model of the candidates.
        reason: for the ledger.
        force: override gates that fail, besides those of the files themselves. It still waits for approval.

    Raises:
        UserError: there is no such model, the pictures cannot be had, or the reason is empty.
        GateError: a gate failed, or a report was edited; nothing was moved.
        DamagedFileError: the files of the version or the champion, or the ledger, are not as they were written.
    """
    production.check_reason(reason)
    client = connect(home())
    candidate, own = _candidate(client, model, config)
    champion = _champion(client)
    if champion is not None and champion.tags.get(KEY_TAG) == Source.of_candidate(client, candidate).key:
        return _now(candidate.version, champion.version)
    judged = judge(client, candidate, champion, config, own)
    forced = judged.failed if force and not NEVER_FORCED & {*judged.failed} else []
    request = requests.record_request(
        client,
        home(),
        candidate,
        champion=None if champion is None else champion.version,
        report=None if judged.evaluated is None else judged.evaluated.folder.name,
        evaluation_set=judged.verdicts.get("evaluation_set"),
        thresholds=config.promotion.model_dump(mode="json"),
        verdicts=judged.verdicts,
        overridden=forced,
        reason=reason,
    )
    if judged.failed and not forced:
        raise GateError(_refusal(request), _now(candidate.version, None, request).result())
    if judged.verdicts["outcome"] == "pass" and config.promotion.approval == "automatic":
        return _carry_out(client, request, approver=None)
    flags = _flags(config.promotion, own.promotion)
    command = shlex.join(["pikavae", "approve", str(candidate.version), *flags, "--reason", "TEXT"])
    return _now(candidate.version, None, request, command=command)


def approve(version: int, config: Config, *, reason: str) -> Promoted:
    """Complete the promotion that was last asked for, when all that it was measured on is as it was.

    Args:
        version: the candidate.
        config: the policy, and the registered model of the candidates.
        reason: for the ledger.

    Raises:
        UserError: nothing was asked for, or the reason is empty.
        GateError: the gates refused it, or champion, files, report or policy changed since; nothing was moved.
        PikavaeError: the smoke test failed. The approval stays: `approve` again goes on.
    """
    production.check_reason(reason)
    client, model = connect(home()), config.registry.model_name
    events = ledger.read(ledger_path(home()))
    request = standings.newest_request(events, model, version)
    if request is None:
        versions.get_version(client, model, version)
        raise UserError(f"approve {version}: nothing was asked for; `pikavae promote {version} --reason TEXT` does")
    if (request.verdicts or {}).get("outcome") == "fail" and not request.forced:
        raise GateError(_refusal(request), _now(version, None, request).result())
    _refuse_changed(request, config.promotion)
    approval = requests.record_approval(client, home(), request, reason=reason)
    return _carry_out(client, request, approver=approval.actor)


def rollback(*, reason: str) -> Promoted:
    """Make the previous champion the champion again. No gate is asked: it was champion before.

    Raises:
        UserError: there is no previous champion, or the reason is empty; nothing was moved.
    """
    client = connect(home())
    done = production.rollback(client, home(), reason=reason)
    return Promoted(done.version, done.production_version, done.version, done.previous, changed=done.changed)


def verify(*, every: bool = False) -> Verified:
    """Compare production with its ledger, with the bytes of champion and previous or of `every` former champion too."""
    return production.verify(connect(home()), home(), every=every)


def repair(*, every: bool = False, head: str | None = None) -> Repaired:
    """Finish or undo what was cut short, and put back what is not as the ledger says.

    Args:
        every: also the bytes of versions that are neither champion nor previous.
        head: of the ledger, `<sequence>:<hash>`, which the caller knows to be right.

    Raises:
        UserError: `head` is not the ledger's.
        DamagedFileError: the ledger is damaged, or MLflow's head does not fit it and none was given.
    """
    return production.repair(connect(home()), home(), every=every, head=head)


def history() -> list[dict[str, Any]]:
    """The ledger's events, the oldest first, its chain verified."""
    return production.history(home())


def standing_of(version: Version) -> Standing:
    """What the ledger says of a version: its role, what its gates said, and who approved it."""
    return standings.standing_of(ledger.read(ledger_path(home())), version.name, version.version)


def verdict_lines(verdicts: Mapping[str, Any] | None) -> list[str]:
    """What each gate said, for a person: a line for each reason, and where both models' pictures are."""
    lines = [
        f"{name:<16}{finding['outcome']:<6}{finding['reason']}"
        for name, gate in (verdicts or {}).get("gates", {}).items()
        for finding in gate["findings"]
    ]
    if page := (verdicts or {}).get("comparison"):
        lines.append(f"Both models' pictures: {home() / page}")
    return lines


def _candidate(client: MlflowClient, model: str, config: Config) -> tuple[Version, Config]:
    """The version that is meant, registered first when it is not yet, and the configuration that made it."""
    name = config.registry.model_name
    if model == CHAMPION:
        raise UserError("promote 'champion': it is in production already; name a version, or run:<id>[@step or @best]")
    if model.isdecimal():
        candidate = versions.get_version(client, name, int(model))
    else:
        # A run's model is registered with a report on its own pictures, whatever it is to be compared on.
        own = config_of_model(model, name).model_copy(update={"registry": config.registry, "training": config.training})
        candidate = register_model(model, own if is_registered_name(model) else config).version
    return candidate, config_of_model(str(candidate.version), name)


def _champion(client: MlflowClient) -> Version | None:
    """The version of the production model that is champion by the ledger and in MLflow, with all of its files.

    Raises:
        PikavaeError: ledger and MLflow do not agree on it.
        DamagedFileError: its files are not those of its promotion.
    """
    with transactions.locked(client, home()) as events:
        event = ledger.of_production(events, ledger.standing(events)[CHAMPION])
        if event is None or event.production_version is None:
            return None
        champion = versions.get_version(client, PRODUCTION_NAME, event.production_version)
        if not is_whole(client, champion, event.manifest):
            raise DamagedFileError(
                f"champion, version {event.version}: its files in MLflow are gone or altered; `pikavae models repair` "
                f"puts them back"
            )
    return champion


def _now(
    version: int, production_version: int | None, request: Event | None = None, command: str | None = None
) -> Promoted:
    """What is in production now, where nothing was moved."""
    events = ledger.read(ledger_path(home()))
    places = ledger.standing(events)
    champion, previous = (transactions.candidate_number(events, places[alias]) for alias in (CHAMPION, PREVIOUS))
    verdicts = None if request is None else request.verdicts
    return Promoted(version, production_version, champion, previous, verdicts, command)


def _carry_out(client: MlflowClient, request: Event, *, approver: str | None) -> Promoted:
    done = production.promote(
        client,
        home(),
        model_name=request.model,
        version=request.version,
        reason=request.reason,
        request=request,
        approver=approver,
    )
    return Promoted(
        done.version, done.production_version, done.version, done.previous, request.verdicts, changed=done.changed
    )


def _refusal(request: Event) -> str:
    """Why the gates refused, a line for each reason."""
    verdicts = request.verdicts or {}
    failed = {name: gate for name, gate in verdicts["gates"].items() if gate["outcome"] == "fail"}
    against = f" against version {request.champion_before}" if request.champion_before else ""
    remedy = "nobody can override that" if NEVER_FORCED & failed.keys() else "--force overrides, and is recorded"
    head = f"promote {request.version}: refused{against} by {', '.join(failed)}; {remedy}"
    reasons = [
        f"  {name}: {finding['reason']}"
        for name, gate in failed.items()
        for finding in gate["findings"]
        if finding["outcome"] == "fail"
    ]
    return "\n".join([head, *reasons])


def _refuse_changed(request: Event, policy: PromotionConfig) -> None:
    """Check that the policy and the reports are those of a request.

    Raises:
        GateError: they are not; the message says what changed.
    """
    void = f"approve {request.version}: its request of {request.time} is void"
    before, now = dict(request.thresholds or {}), policy.model_dump(mode="json")
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise GateError(
                f"{void}: promotion.{name} was {before.get(name)} and is {now.get(name)}; approve it with the flags "
                f"that it was asked for with, or promote it again"
            )
    for who, report in (request.verdicts or {}).get("reports", {}).items():
        folder = home() / "evaluations" / report["report"]
        found = report_hashes(folder)
        altered = [name for name, digest in report["sha256"].items() if found.get(name) != digest]
        if altered:
            raise GateError(f"{void}: the {who}'s report {folder / altered[0]} is gone or was edited; promote it again")


def _flags(policy: PromotionConfig, own: PromotionConfig) -> list[str]:
    """The flags that make the one policy of the other."""
    words, before = [], own.model_dump(mode="json")
    for name, value in policy.model_dump(mode="json").items():
        if value != before[name]:
            words += [f"--promotion.{name}", *map(str, value if isinstance(value, list) else [value])]
    return words
