"""Repairs production: finishes or undoes what was cut short, and restores MLflow and the store to what the ledger says.

The past of the ledger is never changed; a repair becomes an event of its own. Every step can be cut short and repeated.
The only copies deleted are parts of copies, and those whose candidate still has all the bytes.
"""

from __future__ import annotations

import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import DamagedFileError, UserError
from pikavae.production.changes import anchor
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.changes.entries import candidate_number, entry_about
from pikavae.production.changes.moves import (
    aliases_of,
    append_event,
    end_open_move,
    hold_lock,
    move_aliases,
    open_move,
)
from pikavae.production.changes.signatures import events_in_use, restore_signatures
from pikavae.production.changes.verify import altered_page, compare_with_ledger, page_of
from pikavae.production.packages import leftovers
from pikavae.production.packages import store as production_store
from pikavae.production.packages.leftovers import whole_candidates, whole_copy
from pikavae.production.packages.model import (
    PRODUCTION_NAME,
    Origin,
    description_of,
    find_or_publish,
    forget_compiled_code,
    is_whole,
    put_page,
    run_stage,
)
from pikavae.production.record import ledger, statuses
from pikavae.production.record.identity import identity_of
from pikavae.production.record.ledger import Aliases, Event, expected_aliases
from pikavae.registry import versions
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import fetch, local_folder
from pikavae.tracker.tags import CHAMPION, PREVIOUS

if TYPE_CHECKING:
    from pikavae.production.changes.verify import Disagreement

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repaired:
    """Lists what was repaired and what is still wrong."""

    done: list[str]
    left: list[Disagreement]


def repair_production(
    workspace: Workspace, *, every: bool = False, head: str | None = None, actor: str | None = None
) -> Repaired:
    """Restore MLflow and the production store to what the ledger says, then verify. It waits for a running promotion.

    Args:
        workspace: the state folder and its store.
        every: also repair the store's copies of versions that are neither champion nor previous.
        head: the ledger's head, `<sequence>:<hash>`, which the caller knows to be right if MLflow has none or another.
        actor: who repairs, by default whom `identity_of` names.

    Raises:
        UserError: `head` is not the ledger's.
        DamagedFileError: the ledger itself is damaged, or MLflow's head does not fit it and `head` was not given.
    """
    with hold_lock(workspace):
        work = _Repair(workspace, actor)
        work.ledger_and_head(head)
        work.restore_files(every=every)
        work.production_versions()
        work.signatures()
        work.pages()
        work.status_tags()
        work.leftovers()
        work.record_repairs()
        for line in work.done:
            logger.info("repaired: %s", line)
        return Repaired(work.done, compare_with_ledger(workspace, every=every).disagreements)


class _Repair:
    """Runs one repair: its methods are the steps in order, and record what they did."""

    def __init__(self, workspace: Workspace, actor: str | None):
        self.workspace, self.client = workspace, workspace.client
        self.actor = actor or identity_of(workspace)
        self.events: list[Event] = []
        self.done: list[str] = []
        self.unrecorded: list[str] = []
        """The lines of `done` that the ledger does not have yet."""

    def ledger_and_head(self, head: str | None) -> None:
        """Remove a line that was cut short, write the head to MLflow, and end an unfinished intent."""
        path = ledger_path(self.workspace.home)
        events = ledger.read(path)
        if ledger.is_torn(path):
            ledger.drop_torn(path)
            self.done.append(f"ledger line {len(events) + 1}, which a crash cut short, was taken away")
        if anchor.is_deleted(self.client):
            experiment = self.client.get_experiment_by_name(PRODUCTION_NAME)
            self.client.restore_experiment(experiment.experiment_id)
            self._note(f"experiment {PRODUCTION_NAME!r} was restored")
        complaint = anchor.disagreement(self.workspace, events)
        if head is not None and (not events or head != events[-1].head):
            raise UserError(f"--head {head}: the ledger's is {events[-1].head if events else 'none: it is empty'}")
        if complaint is not None:
            if head is None:
                raise DamagedFileError(complaint)
            before = anchor.read(self.client) or "none"
            anchor.write(self.workspace, events)
            self._note(f"the head {head} was accepted by hand; MLflow had {before}")
        elif events and anchor.read(self.client) != events[-1].head:
            self.done.append(f"ledger line {len(events)} was noted in MLflow")
        intent = open_move(events)
        self.events = end_open_move(self.workspace)
        if intent is not None:
            self.done.append(f"{intent.action} of version {intent.version} was {self.events[-1].state}")

    def restore_files(self, *, every: bool) -> None:
        """Copy missing or damaged folders of the production store from MLflow if it has them whole."""
        wanted = self.events if every else events_in_use(self.events).values()
        for store, event in {event.digest: event for event in wanted if event.production_version}.items():
            folder = production_store.folder_of(self.workspace.home, event.manifest)
            if not production_store.damage(folder, event.manifest):
                continue
            location = whole_copy(self.client, event)
            if location is None:
                continue  # `verify` reports what to restore
            with tempfile.TemporaryDirectory() as temporary:
                source = local_folder(location)
                if source is None:
                    source = Path(temporary)
                    fetch(self.client, location, source)
                production_store.put_back(folder, source, event.manifest)
            self._note(f"production/store/{store} was copied from MLflow")

    def production_versions(self) -> None:
        """Make versions again that are missing or altered in MLflow, and move the aliases to where they belong."""
        target: Aliases = expected_aliases(self.events)
        # The lower number first: if MLflow starts again at 1, no new number then equals the other's old one.
        in_use = dict(sorted(events_in_use(self.events).items(), key=lambda item: item[1].production_version or 0))
        for alias, event in in_use.items():
            number = self._make_again(event)
            if number is None:
                return  # `verify` reports what to restore
            if number != event.production_version:
                self._note(f"version {event.version} of {event.model} was made again: production version {number}")
            target[alias] = number
        found = aliases_of(versions.list_versions(self.client, PRODUCTION_NAME))
        if found != target:
            for alias in (alias for alias in target if found[alias] != target[alias]):
                self._note(f"alias {alias!r} was moved from {found[alias] or 'nobody'} to {target[alias] or 'nobody'}")
            move_aliases(self.client, target)
        for alias, event in in_use.items():  # an event for each, because it records which candidate the version is
            if target[alias] != event.production_version:
                after = {**expected_aliases(self.events), alias: target[alias]}
                self._append_event(replace(event, production_version=target[alias]), after)

    def _make_again(self, event: Event) -> int | None:
        """Return the production version of an event, made again from the store if necessary; None if impossible."""
        listed = versions.list_versions(self.client, PRODUCTION_NAME)
        made = next((made for made in listed if made.version == event.production_version), None)
        if made is not None:
            if run_stage(self.client, made.run_id) == "deleted":
                self.client.restore_run(made.run_id)
                self._note(f"run {made.run_id}, which holds version {event.version}, was restored")
            if is_whole(self.client, made, event.manifest):
                if removed := forget_compiled_code(self.client, made):
                    self._note(f"compiled code was removed from production version {made.version}: {removed[0]}")
                return made.version
        folder = production_store.folder_of(self.workspace.home, event.manifest)
        if production_store.damage(folder, event.manifest):
            return None
        with ExitStack() as undo:
            number = find_or_publish(self.workspace, undo, Origin.of_event(event), folder, listed).version
            undo.pop_all()
        return number

    def signatures(self) -> None:
        """Put back signatures that one of home and MLflow has lost. Nothing is signed."""
        for line in restore_signatures(self.workspace, self.events):
            self._note(line)

    def pages(self) -> None:
        """Restore tags and descriptions of champion and previous."""
        listed = {made.version: made for made in versions.list_versions(self.client, PRODUCTION_NAME)}
        for event in events_in_use(self.events).values():
            made = listed.get(event.production_version or 0)
            if made is not None and (altered := altered_page(self.client, made, self.events, event)):
                tags, description = page_of(self.events, event)
                put_page(
                    self.client, made, tags, description_of(self.client, made) if description is None else description
                )
                self._note(f"the page of production version {made.version} was put back: {', '.join(altered)}")

    def status_tags(self) -> None:
        """Restore the tags that show each candidate's status."""
        for line in statuses.project(self.client, self.events):
            self._note(line)

    def leftovers(self) -> None:
        """Remove what promotions that were cut short left: parts of copies, and copies that a candidate has whole."""
        copies = whole_candidates(self.client)
        for found in leftovers.find(self.workspace, self.events):
            if found.copy_of is None or found.copy_of in copies:
                found.remove()
                self.done.append(f"{found.what} was removed")

    def record_repairs(self) -> None:
        """Record the repairs as an event of the ledger; an empty ledger remains empty."""
        if self.unrecorded and self.events:
            self._append_event(events_in_use(self.events).get(CHAMPION, self.events[-1]), expected_aliases(self.events))

    def _append_event(self, about: Event, after: Aliases) -> None:
        """Write the repairs so far into the ledger, as an event about one version."""
        reason = "; ".join(self.unrecorded) or f"version {about.version} of {about.model} was made again"
        entry = entry_about(about, self.events, after, action="repair", state="done", reason=reason, actor=self.actor)
        previous = candidate_number(self.events, entry.aliases_before[PREVIOUS])
        # The numbers of production versions may change; the candidates in production do not.
        entry = replace(entry, champion_after=entry.champion_before, previous_after=previous)
        self.events.append(append_event(self.workspace, entry))
        self.unrecorded.clear()

    def _note(self, what: str) -> None:
        self.done.append(what)
        self.unrecorded.append(what)
