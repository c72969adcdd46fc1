"""Find in the record what people are to be told: in the ledger, in the runs' folders, on the disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pikavae.data.news.record import Refusal, refusals
from pikavae.errors import DamagedFileError
from pikavae.notify.attempts import failure_of, lost_attempts, runs_at_work
from pikavae.notify.notification import Notification
from pikavae.notify.outbox import Outbox, State
from pikavae.notify.scores import score_lines, why_not_compared
from pikavae.notify.settings import Recipients
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.judgements.standing import Standing
from pikavae.production.judgements.watches import Watch, watch_files
from pikavae.production.record import ledger
from pikavae.production.record.ledger import Event
from pikavae.production.record.rules import rules_after
from pikavae.production.record.statuses import approval_of, is_open
from pikavae.production.record.verdicts import Verdicts
from pikavae.tracker.client import Workspace
from pikavae.tracker.ui import ui_base, ui_url
from pikavae.workspace.disks import format_bytes, free_bytes, mount_point
from pikavae.workspace.records import read_object, readable_files, warn_once
from pikavae.workspace.runs import RunFolder

logger = logging.getLogger(__name__)

GIB = 2**30
PANEL_NAME = "panel.png"
PAGE_NAME = "report.html"
ROOM_AGAIN = 1.2
"""The disk is no longer nearly full when this many times the least free space is free."""


def begin(home: Path, outbox: Outbox) -> None:
    """Make the outbox if it is new: what is in the record now happened before anybody asked to be told."""
    with outbox.lock():
        if outbox.state() is None:
            path = ledger_path(home)
            try:
                events, complaint = ledger.read(path), ""
            except DamagedFileError as error:
                events, complaint = [], _digest(str(error))
            known = [file.name for file in _registrations(home)]
            watches = [file.parent.name for file in watch_files(home)]
            state = State(ledger=len(events), ledger_stamp=_stamp(path), candidates=known, complaint=complaint)
            known_refusals = [refusal.id for _, refusal in refusals(home)]
            outbox.save_state(_with(state, watches=watches, refusals=known_refusals))


def collect(workspace: Workspace, outbox: Outbox, recipients: Recipients) -> None:
    """Add to the outbox what happened since the last call. A crash in between adds nothing twice."""
    begin(workspace.home, outbox)
    with outbox.lock():
        state = outbox.state() or State()
        found: list[Notification] = []
        for attempt in lost_attempts(outbox):
            reason = f"Its process on {attempt.host} was killed, or the machine stopped."
            outbox.add(failure_of(attempt, workspace.home, reason), recipients.addresses)
            attempt.remove(outbox)
        at_work = runs_at_work(outbox)
        state = _read_registrations(workspace, state, found, at_work)  # before what the ledger has of them
        state = _read_ledger(workspace.home, state, found)
        state = _read_watches(workspace, state, found)
        state = _read_refusals(workspace.home, state, found)
        state = _look_at_disk(workspace.home, state, recipients.disk_free_gib, found)
        for notification in found:
            outbox.add(notification, recipients.addresses)
        outbox.save_state(state)


def complain(outbox: Outbox, recipients: Recipients, complaints: Sequence[str]) -> None:
    """Record what a verification of the ledger found: what is new is added to the outbox, nothing if all is well."""
    with outbox.lock():
        state = outbox.state() or State()
        text = "\n".join(complaints)
        if text and _digest(text) != state.complaint:
            outbox.add(_complaint(text), recipients.addresses)
        outbox.save_state(_with(state, complaint=_digest(text) if text else ""))


def _read_ledger(home: Path, state: State, found: list[Notification]) -> State:
    """Append what the ledger has since it was read, and return how far it is read now."""
    path = ledger_path(home)
    stamp = _stamp(path)
    if stamp == list(state.ledger_stamp):
        return state
    try:
        events = ledger.read(path)
    except DamagedFileError as error:
        if _digest(str(error)) != state.complaint:
            found.append(_complaint(str(error)))
        return _with(state, ledger_stamp=stamp, complaint=_digest(str(error)))
    for event in events[state.ledger :]:
        found += _tell(home, event, events)
    return _with(state, ledger=len(events), ledger_stamp=stamp)


def _tell(home: Path, event: Event, events: Sequence[Event]) -> Iterator[Notification]:
    """Yield what an event of the ledger means to people."""
    if event.state != "done":
        return
    if event.action == "request":
        verdicts = Verdicts.of_event(event)
        if verdicts is not None and is_open(events, event) and _waits(event, verdicts, events):
            yield _approval_needed(home, event, verdicts)
    elif event.action in {"promote", "rollback"}:
        yield _moved(event)
    elif event.action == "expire":
        yield _request_expired(event)
    elif event.action == "rules":
        yield _rules_changed(event)


def _waits(event: Event, verdicts: Verdicts, events: Sequence[Event]) -> bool:
    """Return True if a request waits for a person: it was not refused, and no policy carries it out."""
    is_automatic = verdicts.outcome == "pass" and (event.thresholds or {}).get("approval") == "automatic"
    is_automatic = is_automatic and not rules_after(events[: event.sequence - 1]).need_person
    is_refused = verdicts.outcome == "fail" and not event.forced
    return not is_automatic and not is_refused and approval_of(events, event) is None


def _approval_needed(home: Path, event: Event, verdicts: Verdicts) -> Notification:
    findings = [
        f"{name}: {finding.outcome}: {finding.reason}"
        for name, gate in verdicts.gates.items()
        for finding in gate.findings
        if finding.outcome != "pass"
    ]
    gates = [*findings] or [f"All {len(verdicts.gates)} gates pass."]
    page = [f"Both models' pictures: {home / verdicts.comparison}"] if verdicts.comparison else []
    return Notification.make(
        _name_of(event),
        "approval_needed",
        f"pikavae: version {event.version} of {event.model} waits for approval",
        [
            f"{event.actor} asks: {event.reason}",
            *gates,
            *page,
            f"`pikavae approve {event.version} --reason TEXT` completes it.",
        ],
        data=_facts(event) | {"gates": verdicts.outcome, "findings": findings, "overridden": [*event.overridden]},
    )


def _moved(event: Event) -> Notification:
    is_rollback = event.action == "rollback"
    now = f"version {event.champion_after} of {event.model} is champion{' again' if is_rollback else ''}"
    before = f"Champion before: version {event.champion_before}." if event.champion_before else "The first champion."
    approved = [f"Approved by {event.approver}."] if event.approver else []
    return Notification.make(
        _name_of(event),
        "rolled_back" if is_rollback else "promoted",
        f"pikavae: {now}",
        [f"{event.actor}: {event.reason}", before, *approved],
        data=_facts(event)
        | {
            "approver": event.approver,
            "champion": event.champion_after,
            "champion_before": event.champion_before,
            "previous": event.previous_after,
        },
    )


def _request_expired(event: Event) -> Notification:
    return Notification.make(
        _name_of(event),
        "request_expired",
        f"pikavae: the request for version {event.version} of {event.model} has expired",
        [
            f"{event.reason[:1].upper()}{event.reason[1:]}.",
            f"`pikavae promote {event.version} --reason TEXT` asks again.",
        ],
        data=_facts(event),
    )


def _rules_changed(event: Event) -> Notification:
    rules = [f"{name}: {', '.join(value) if isinstance(value, list) else value}" for name, value in event.rules.items()]
    return Notification.make(
        _name_of(event),
        "rules_changed",
        "pikavae: the rules of promotion were changed",
        [f"{event.actor}: {event.reason}", *rules],
        data={name: value for name, value in _facts(event).items() if name not in {"model", "version"}}
        | {"rules": dict(event.rules)},
    )


def _facts(event: Event) -> dict[str, Any]:
    return {
        "model": event.model,
        "version": event.version,
        "actor": event.actor,
        "reason": event.reason,
        "recorded": event.time,
        "ledger_line": event.sequence,
    }


def _name_of(event: Event) -> str:
    return f"ledger-{event.sequence}-{event.hash[:16]}"


def _complaint(text: str) -> Notification:
    now = datetime.now(UTC)
    return Notification.make(
        f"verify-{_digest(text)}-{now:%Y%m%dT%H%M%S%f}",
        "ledger_disagrees",
        "pikavae: the ledger does not verify",
        [*text.splitlines()[:10], "`pikavae models verify` says more, `pikavae models repair` fixes what can be."],
        data={"disagreements": text.splitlines()},
    )


def _registrations(home: Path) -> list[Path]:
    return sorted((home / "runs").glob("*/registrations/*.json"))


def _read_registrations(
    workspace: Workspace, state: State, found: list[Notification], at_work: Collection[str]
) -> State:
    """Append the candidates that were registered since, and return which are known now.

    Those of a run that is at work are left for later: a retraining still compares its candidate with the champion.
    """
    files, known = _registrations(workspace.home), {*state.candidates}
    files = [file for file in files if file.name in known or file.parents[1].name not in at_work]
    new = [file for file in files if file.name not in known]
    if not new:
        return state
    try:
        events = ledger.read(ledger_path(workspace.home))
    except DamagedFileError:  # `_read_ledger` reports it
        events = []
    for file, content in readable_files(new, read_object, logger):
        found.append(_candidate(workspace, file, content, events))
    return _with(state, candidates=[file.name for file in files])


def _candidate(workspace: Workspace, file: Path, content: dict[str, Any], events: Sequence[Event]) -> Notification:
    home, run = workspace.home, RunFolder(file.parents[1])
    inputs: dict[str, Any] = content.get("inputs") or {}
    model, version, report = inputs.get("registry.model_name"), content.get("version"), inputs.get("report")
    lines, facts = score_lines(home, report, events)
    standing = _standing(file)
    base, result = ui_base(workspace), run.result
    link = None if base is None or result is None else ui_url(base, result.experiment_id, run.run_id)
    panel = Path("evaluations") / str(report) / PANEL_NAME
    page = home / panel.with_name(PAGE_NAME)
    return Notification.make(
        f"candidate-{run.run_id}-{file.stem}",
        "candidate_ready",
        f"pikavae: version {version} of {model} is ready{f': {standing.line()}' if standing else ''}",
        [
            *(standing.lines(home) if standing else why_not_compared(file)),
            *lines,
            *([f"Report: {page}"] if page.is_file() else []),
            *([] if link else [f"`pikavae ui --run {run.run_id}` opens its run."]),
            _proposal(version, standing),
        ],
        data={
            "model": model,
            "version": version,
            "run_id": run.run_id,
            "report": report,
            **facts,
            "standing": None if standing is None else standing.content(),
        },
        link=link,
        picture=str(panel) if (home / panel).is_file() else None,
    )


def _standing(file: Path) -> Standing | None:
    """Return how the candidate of a registration stands; None if no retraining found it, or its file is damaged."""
    try:
        return Standing.find(file.parents[1], file.stem)
    except DamagedFileError as error:
        warn_once(logger, f"{error}; it is passed over")
        return None


def _proposal(version: object, standing: Standing | None) -> str:
    """Return what can be done with a candidate."""
    command = f"`pikavae promote {version} --reason TEXT`"
    if standing is not None and standing.outcome == "fail":
        return f"Its promotion is not proposed; the gates would refuse {command}."
    return f"{command} asks for its promotion."


def _read_watches(workspace: Workspace, state: State, found: list[Notification]) -> State:
    """Append the champions that fell since, each once until a watch of the same pictures finds it well again."""
    files, known, fallen = watch_files(workspace.home), {*state.watches}, {*state.fallen}
    new = [file for file in files if file.parent.name not in known]
    if not new:
        return state
    for _, watch in readable_files(new, Watch.read, logger):
        if watch.fell and watch.subject not in fallen:
            found.append(_champion_fell(workspace, watch))
        fallen = fallen | {watch.subject} if watch.fell else fallen - {watch.subject}
    return _with(state, watches=[file.parent.name for file in files], fallen=sorted(fallen))


def _champion_fell(workspace: Workspace, watch: Watch) -> Notification:
    base = ui_base(workspace)
    link = None if base is None else ui_url(base, watch.experiment_id, watch.run_id)
    return Notification.make(
        f"watch-{watch.id}",
        "champion_fell",
        f"pikavae: the champion fell: version {watch.version} of {watch.model}: {watch.line}",
        [
            *watch.findings,
            f"Pictures: {watch.source}",
            f"Page: {workspace.home / watch.page}",
            *([] if link else [f"`pikavae ui --run {watch.run_id}` opens its run."]),
        ],
        data={name: value for name, value in watch.content().items() if name not in {"findings", "experiment_id"}},
        link=link,
    )


def _read_refusals(home: Path, state: State, found: list[Notification]) -> State:
    """Append the refusals of new pictures since, and return which are known now."""
    there = refusals(home)
    found += [_refused(name, refusal) for name, refusal in there if refusal.id not in state.refusals]
    return _with(state, refusals=[refusal.id for _, refusal in there])


def _refused(name: str, refusal: Refusal) -> Notification:
    words = refusal.words.removeprefix("refused: ")
    return Notification.make(
        refusal.id,
        "data_refused",
        f"pikavae: new pictures of {name} are refused",
        [
            f"{words}.",
            f"The source is {refusal.source}. Nothing is trained on them.",
            "The next poll looks again; `pikavae schedule list` says what it decided.",
        ],
        data={
            "name": name,
            "source": refusal.source,
            "reason": refusal.reason,
            "words": words,
            "recorded": refusal.time,
        },
    )


def _look_at_disk(home: Path, state: State, least_gib: float, found: list[Notification]) -> State:
    """Append that the disk is nearly full, once until there is room again."""
    free = free_bytes(home)
    if state.is_disk_low:
        return _with(state, is_disk_low=free < least_gib * ROOM_AGAIN * GIB)
    if free >= least_gib * GIB:
        return state
    where = mount_point(home)
    found.append(
        Notification.make(
            f"disk-{datetime.now(UTC):%Y%m%dT%H%M%S%f}",
            "disk_low",
            f"pikavae: {format_bytes(free)} free on {where}",
            [
                f"The state folder is {home}; less than {least_gib:g} GiB are free.",
                "`pikavae prune --dry-run` lists what can go.",
            ],
            data={"free_bytes": free, "least_free_bytes": int(least_gib * GIB), "mount_point": str(where)},
        )
    )
    return _with(state, is_disk_low=True)


def _with(state: State, **changes: Any) -> State:
    return State(**{**state.model_dump(), **changes})


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return []
    return [found.st_mtime_ns, found.st_size]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
