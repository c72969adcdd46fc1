"""Which version is in production: promoted, taken back, and told by a ledger.

production/ledger.jsonl      every promotion and rollback
production/store/<digest>/   the files of each version that ever was champion
production/models/           what MLflow loads, when it runs on a database of ours

A promoted version becomes a version of the registered model `pikavae-production`, which has the aliases `champion` and
`previous`. The old champion serves until the last step.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pikavae.errors import DamagedFileError, GateError, UserError
from pikavae.registry import anchor, ledger, mending, production_store, verification, versions
from pikavae.registry.anchor import ledger_path
from pikavae.registry.ledger import PREVIOUS, Aliases, Entry, Event, standing
from pikavae.registry.mending import Repaired
from pikavae.registry.production_model import (
    CANDIDATE_MODEL_TAG,
    CANDIDATE_TAG,
    PRODUCTION_NAME,
    Source,
    is_whole,
    published,
)
from pikavae.registry.smoke import smoke_test
from pikavae.registry.transactions import (
    candidate_number,
    entry_about,
    held,
    in_order,
    locked,
    move,
    show,
    unfinished,
    user_at_host,
)
from pikavae.registry.verification import Verified
from pikavae.registry.versions import CHAMPION, KEY_TAG, Version

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """What is in production after `promote` or `rollback`. Numbers are candidates, but `production_version`."""

    version: int
    """The candidate that is champion."""
    production_version: int
    """The same as a version of `pikavae-production`."""
    previous: int | None
    """The candidate that `rollback` would go back to."""
    changed: bool
    """False when the version was champion before, and nothing was done."""


def promote(
    client: MlflowClient,
    home: Path,
    *,
    model_name: str,
    version: int,
    reason: str,
    actor: str | None = None,
    request: Event | None = None,
    approver: str | None = None,
) -> Promotion:
    """Make a candidate the champion, once its files are safe and a fresh process has used them.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        model_name: the registered model whose versions are the candidates.
        version: the candidate.
        reason: for the ledger; any text that is not empty.
        actor: who promotes, by default user@host.
        request: what is carried out, from `requests`: its champion must be the one still, and its bytes the version's.
        approver: who approved it.

    Raises:
        UserError: the reason is empty, or there is no such version.
        GateError: the champion or the version's bytes are not those of the request.
        DamagedFileError: the files of the version, or the ledger, are not as they were written.
        PikavaeError: the smoke test failed, or MLflow did. The old champion serves on.
    """
    check_reason(reason)
    if model_name == PRODUCTION_NAME:
        raise UserError(f"registry.model_name {model_name!r}: this is where promoted versions go; name the candidates'")
    with locked(client, home) as events:
        candidate = versions.get_version(client, model_name, version)
        if (status := client.get_model_version(model_name, str(version)).status) != "READY":
            raise UserError(
                f"version {version} of {model_name!r}: its status is {status}; only one that is READY can serve"
            )
        listed = versions.list_versions(client, PRODUCTION_NAME)
        before, source = standing(events), Source.of_candidate(client, candidate)
        for made in listed:
            if CHAMPION in made.aliases and made.tags.get(KEY_TAG) == source.key:
                logger.info("version %d of %s is champion already", version, model_name)
                show(client, events)  # which a crash may have kept from it
                return Promotion(version, made.version, candidate_number(events, before[PREVIOUS]), changed=False)
        if request is not None:
            refuse_void(request, events, candidate)
        with ExitStack() as undo:
            folder = production_store.keep(client, home, candidate, undo)
            made = published(client, home, undo, source, folder, listed)
            _smoke(client, made, source)
            undo.pop_all()
        previous = before[CHAMPION] or before[PREVIOUS]
        after = {CHAMPION: made.version, PREVIOUS: previous if previous != made.version else None}
        intent = _intent(source, made.version, events, after, reason=reason, actor=actor)
        if request is not None:
            intent = replace(
                intent,
                evaluation_set=request.evaluation_set,
                report=request.report,
                thresholds=request.thresholds,
                verdicts=request.verdicts,
                approver=approver,
                forced=request.forced,
                request=request.hash,
                overridden=request.overridden,
            )
        return _told(move(client, home, intent))


def rollback(client: MlflowClient, home: Path, *, reason: str, actor: str | None = None) -> Promotion:
    """Make the previous champion the champion again, and the champion the previous one.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        reason: for the ledger; any text that is not empty.
        actor: who rolls back, by default user@host.

    Raises:
        UserError: the reason is empty, or there is no previous champion.
        DamagedFileError: the files of the previous champion, or the ledger, are not as they were written.
        PikavaeError: MLflow failed. The champion serves on.
    """
    check_reason(reason)
    with held(client, home):
        cut_short = unfinished(anchor.verified_events(client, home))
        events = in_order(client, home)
        if cut_short is not None and cut_short.action == "rollback" and events[-1].state == "done":
            return _told(events[-1])  # else the same command again would go back to where it came from
        before = standing(events)
        event = ledger.of_production(events, before[PREVIOUS])
        if event is None:
            raise UserError("rollback: there is no previous champion; it takes two promotions to have one")
        production_store.verify(production_store.folder_of(home, event.manifest), event.manifest)
        made = versions.get_version(client, PRODUCTION_NAME, before[PREVIOUS] or 0)
        if not is_whole(client, made, event.manifest):
            raise DamagedFileError(
                f"{PRODUCTION_NAME} version {made.version}: its files in MLflow are gone or altered; `pikavae models "
                f"repair` makes it again"
            )
        after = {CHAMPION: made.version, PREVIOUS: before[CHAMPION]}
        intent = entry_about(event, events, after, action="rollback", state="intent", reason=reason, actor=actor)
        return _told(move(client, home, intent))


def champion(client: MlflowClient) -> Version:
    """The version of `pikavae-production` that is in use; `production_model.candidate_of` tells which candidate it was.

    Raises:
        UserError: nothing is in production yet.
    """
    return versions.get_champion(client, PRODUCTION_NAME)


def roles(client: MlflowClient, model_name: str) -> dict[int, list[str]]:
    """`champion` and `previous` by the number of the candidate version that has the place in production."""
    found: dict[int, list[str]] = {}
    for made in versions.list_versions(client, PRODUCTION_NAME):
        if made.tags.get(CANDIDATE_MODEL_TAG) == model_name:
            places = [alias for alias in (CHAMPION, PREVIOUS) if alias in made.aliases]
            found.setdefault(int(made.tags[CANDIDATE_TAG]), []).extend(places)
    return found


def verify(client: MlflowClient, home: Path, *, every: bool = False) -> Verified:
    """Compare ledger, production store and MLflow, and change nothing; a promotion at work is waited for.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        every: see `verification.verify`.
    """
    with held(client, home):
        return verification.verify(client, home, every=every)


def repair(client: MlflowClient, home: Path, *, every: bool = False, head: str | None = None) -> Repaired:
    """Put MLflow and the production store back to what the ledger says.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        every: see `mending.repair`.
        head: see `mending.repair`.

    Raises:
        UserError: `head` is not the ledger's.
        DamagedFileError: the ledger is damaged, or MLflow's head does not fit it and none was given.
    """
    with held(client, home):
        return mending.repair(client, home, every=every, head=head)


def history(home: Path) -> list[dict[str, Any]]:
    """The events of the ledger, the oldest first, its chain verified.

    Raises:
        DamagedFileError: a line was edited, put in or taken out; the message has its number.
    """
    return [asdict(event) for event in ledger.read(ledger_path(home))]


def _told(done: Event) -> Promotion:
    """A promotion or rollback that was done."""
    logger.info("version %d of %s is champion", done.version, done.model)
    return Promotion(done.version, done.production_version or 0, done.previous_after, changed=True)


def _intent(
    source: Source,
    production_version: int,
    events: Sequence[Event],
    after: Aliases,
    *,
    reason: str,
    actor: str | None,
) -> Entry:
    """The promotion that is about to happen, for the ledger."""
    before = standing(events)
    return Entry(
        transaction=uuid.uuid4().hex,
        action="promote",
        state="intent",
        actor=actor or user_at_host(),
        model=source.model,
        version=source.version,
        production_version=production_version,
        champion_before=candidate_number(events, before[CHAMPION]),
        champion_after=source.version,
        previous_after=candidate_number(events, after[PREVIOUS]),
        aliases_before=before,
        aliases_after=after,
        fingerprint=source.tags.get("pikavae.fingerprint"),
        evaluation_set=source.tags.get("pikavae.evaluation_set"),
        commit=source.tags.get("mlflow.source.git.commit"),
        dirty=source.tags.get("pikavae.git.dirty"),
        run_id=source.run_id,
        report=source.tags.get("pikavae.report"),
        snapshot=source.tags.get("pikavae.snapshot"),
        store=source.store,
        manifest=source.manifest,
        thresholds=None,
        verdicts=None,
        approver=None,
        reason=reason,
        forced=False,
        shown=source.shown(),
    )


def _smoke(client: MlflowClient, made: Version, source: Source) -> None:
    """Have a fresh process use the version by its address alone, and compare the files that it got."""
    uri = f"models:/{PRODUCTION_NAME}/{made.version}"
    if smoke_test(uri, client.tracking_uri)["manifest"] != source.manifest:
        raise DamagedFileError(f"smoke test of {uri}: the files that it gave are not those of the production store")


def refuse_void(request: Event, events: Sequence[Event], candidate: Version) -> None:
    """Check that champion and candidate are those that the gates measured.

    Args:
        request: of the candidate.
        events: of the ledger.
        candidate: as it is now.

    Raises:
        GateError: they are not; the message says what changed.
    """
    void = f"promote {request.version}: its request of {request.time} is void"
    champion, measured = standing(events)[CHAMPION], request.aliases_before[CHAMPION]
    if champion != measured:
        raise GateError(
            f"{void}: it was measured against {_named(events, measured)}, and now {_named(events, champion)} is "
            f"champion; promote it again"
        )
    if production_store.digest_of(candidate.manifest) != request.store:
        raise GateError(f"{void}: version {request.version} has other files than those that were measured")


def _named(events: Sequence[Event], number: int | None) -> str:
    """A production version for a person."""
    return "no champion" if number is None else f"version {candidate_number(events, number) or '?'}"


def check_reason(reason: str) -> None:
    """Refuse an empty reason."""
    if not reason.strip():
        raise UserError("--reason: it is empty; say why, for those who read the ledger later")
