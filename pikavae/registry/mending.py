"""Repair: finish or undo what was cut short, and put MLflow and the production store back to what the ledger says.

The past of the ledger is never changed; what was mended becomes an event of its own. Every step can be cut short and
done again. Nothing is deleted but copies whose candidate still has all the bytes.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError, UserError
from pikavae.registry import anchor, ledger, leftovers, production_store, standings, versions
from pikavae.registry.anchor import ledger_path
from pikavae.registry.copies import whole_candidates, whole_copy
from pikavae.registry.ledger import PREVIOUS, Aliases, Event, standing
from pikavae.registry.production_model import (
    PRODUCTION_NAME,
    Source,
    description_of,
    is_whole,
    published,
    put_page,
    run_stage,
)
from pikavae.registry.store import fetch, local_folder
from pikavae.registry.transactions import (
    aliases_of,
    candidate_number,
    entry_about,
    move_aliases,
    record,
    settle,
    unfinished,
)
from pikavae.registry.verification import altered_page, in_place, page_of, verify
from pikavae.registry.versions import CHAMPION

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pikavae.registry.verification import Disagreement

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repaired:
    """What was done, and what is still wrong."""

    done: list[str]
    left: list[Disagreement]


def repair(
    client: MlflowClient, home: Path, *, every: bool = False, head: str | None = None, actor: str | None = None
) -> Repaired:
    """Mend what can be mended, and verify. The caller holds the lock.

    Args:
        client: from `pikavae.tracking.connect`.
        home: the absolute folder that holds all state.
        every: also the store's copies of versions that are neither champion nor previous.
        head: of the ledger, `<sequence>:<hash>`, which the caller knows to be right, where MLflow has none or another.
        actor: who repairs, by default user@host.

    Raises:
        UserError: `head` is not the ledger's.
        DamagedFileError: the ledger itself is damaged, or MLflow's head does not fit it and none was given.
    """
    work = _Repair(client, home, actor)
    work.ledger_and_head(head)
    work.store(every=every)
    work.production_versions()
    work.pages()
    work.standings()
    work.leftovers()
    work.told_to_ledger()
    for line in work.done:
        logger.info("repaired: %s", line)
    return Repaired(work.done, verify(client, home, every=every).disagreements)


class _Repair:
    """One repair: its steps in their order, and what they did."""

    def __init__(self, client: MlflowClient, home: Path, actor: str | None):
        self.client, self.home, self.actor = client, home, actor
        self.events: list[Event] = []
        self.done: list[str] = []
        self.mended: list[str] = []
        """Of `done`, what the ledger does not tell yet."""

    def ledger_and_head(self, head: str | None) -> None:
        """A line cut short goes, MLflow learns the head, and an intent without an end gets one."""
        path = ledger_path(self.home)
        events = ledger.read(path)
        if ledger.is_torn(path):
            ledger.drop_torn(path)
            self.done.append(f"ledger line {len(events) + 1}, which a crash cut short, was taken away")
        if anchor.is_deleted(self.client):
            experiment = self.client.get_experiment_by_name(PRODUCTION_NAME)
            self.client.restore_experiment(experiment.experiment_id)
            self._mended(f"experiment {PRODUCTION_NAME!r} was restored")
        complaint = anchor.disagreement(self.client, self.home, events)
        if head is not None and (not events or head != events[-1].head):
            raise UserError(f"--head {head}: the ledger's is {events[-1].head if events else 'none: it is empty'}")
        if complaint is not None:
            if head is None:
                raise DamagedFileError(complaint)
            before = anchor.read(self.client) or "none"
            anchor.write(self.client, self.home, events)
            self._mended(f"the head {head} was accepted by hand; MLflow had {before}")
        elif events and anchor.read(self.client) != events[-1].head:
            self.done.append(f"MLflow was told of ledger line {len(events)}")
        intent = unfinished(events)
        self.events = settle(self.client, self.home)
        if intent is not None:
            self.done.append(f"{intent.action} of version {intent.version} was {self.events[-1].state}")

    def store(self, *, every: bool) -> None:
        """Folders of the production store that are gone or damaged are copied from MLflow where it has them whole."""
        wanted = self.events if every else in_place(self.events).values()
        for store, event in {event.store: event for event in wanted if event.production_version}.items():
            folder = production_store.folder_of(self.home, event.manifest)
            if not production_store.damage(folder, event.manifest):
                continue
            location = whole_copy(self.client, event)
            if location is None:
                continue  # `verify` tells what to restore
            with tempfile.TemporaryDirectory() as temporary:
                source = local_folder(location)
                if source is None:
                    source = Path(temporary)
                    fetch(self.client, location, source)
                production_store.put_back(folder, source, event.manifest)
            self._mended(f"production/store/{store} was copied from MLflow")

    def production_versions(self) -> None:
        """Versions that are gone or altered in MLflow are made again, and the aliases moved to where they belong."""
        target: Aliases = standing(self.events)
        # The lower number first: where MLflow begins again at 1, no new number is then the old one of the other.
        in_use = dict(sorted(in_place(self.events).items(), key=lambda item: item[1].production_version or 0))
        for alias, event in in_use.items():
            number = self._made_again(event)
            if number is None:
                return  # `verify` tells what to restore
            if number != event.production_version:
                self._mended(f"version {event.version} of {event.model} was made again: production version {number}")
            target[alias] = number
        found = aliases_of(versions.list_versions(self.client, PRODUCTION_NAME))
        if found != target:
            for alias in (alias for alias in target if found[alias] != target[alias]):
                self._mended(
                    f"alias {alias!r} was moved from {found[alias] or 'nobody'} to {target[alias] or 'nobody'}"
                )
            move_aliases(self.client, target)
        for alias, event in in_use.items():  # an event for each, since it tells which candidate the version is
            if target[alias] != event.production_version:
                after = {**standing(self.events), alias: target[alias]}
                self._record(replace(event, production_version=target[alias]), after)

    def _made_again(self, event: Event) -> int | None:
        """The production version of an event, made anew from the store when it is gone; None when it cannot be."""
        listed = versions.list_versions(self.client, PRODUCTION_NAME)
        made = next((made for made in listed if made.version == event.production_version), None)
        if made is not None:
            if run_stage(self.client, made.run_id) == "deleted":
                self.client.restore_run(made.run_id)
                self._mended(f"run {made.run_id}, which holds version {event.version}, was restored")
            if is_whole(self.client, made, event.manifest):
                return made.version
        folder = production_store.folder_of(self.home, event.manifest)
        if production_store.damage(folder, event.manifest):
            return None
        with ExitStack() as undo:
            number = published(self.client, self.home, undo, Source.of_event(event), folder, listed).version
            undo.pop_all()
        return number

    def pages(self) -> None:
        """Tags and descriptions of champion and previous."""
        listed = {made.version: made for made in versions.list_versions(self.client, PRODUCTION_NAME)}
        for event in in_place(self.events).values():
            made = listed.get(event.production_version or 0)
            if made is not None and (altered := altered_page(self.client, made, self.events, event)):
                tags, description = page_of(self.events, event)
                put_page(
                    self.client, made, tags, description_of(self.client, made) if description is None else description
                )
                self._mended(f"the page of production version {made.version} was put back: {', '.join(altered)}")

    def standings(self) -> None:
        """What the pages of candidates show."""
        for line in standings.project(self.client, self.events):
            self._mended(line)

    def leftovers(self) -> None:
        """What promotions that were cut short had begun to make, as far as the candidate still has all of it."""
        copies = whole_candidates(self.client)
        for found in leftovers.find(self.client, self.home, self.events):
            if found.copy_of is None or found.copy_of in copies:
                found.remove()
                self.done.append(f"{found.what} was removed")

    def told_to_ledger(self) -> None:
        """What was mended, as an event; an empty ledger stays so."""
        if self.mended and self.events:
            self._record(in_place(self.events).get(CHAMPION, self.events[-1]), standing(self.events))

    def _record(self, about: Event, after: Aliases) -> None:
        """Write what was mended so far into the ledger, as an event about one version."""
        reason = "; ".join(self.mended) or f"version {about.version} of {about.model} was made again"
        entry = entry_about(about, self.events, after, action="repair", state="done", reason=reason, actor=self.actor)
        previous = candidate_number(self.events, entry.aliases_before[PREVIOUS])
        # The numbers of production versions may change; the candidates in production do not.
        entry = replace(entry, champion_after=entry.champion_before, previous_after=previous)
        self.events.append(record(self.client, self.home, entry))
        self.mended.clear()

    def _mended(self, what: str) -> None:
        self.done.append(what)
        self.mended.append(what)
