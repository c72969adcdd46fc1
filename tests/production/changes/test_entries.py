"""The entries of a request, a promotion and a rollback: what each says, field by field."""

from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from pikavae.production.changes.entries import Judgement, entry_about, entry_of
from pikavae.production.packages.store import digest_of
from pikavae.production.record import ledger
from pikavae.registry.versions import Version

MANIFEST = {"MLmodel": "1" * 64}
TAGS = {
    "pikavae.fingerprint": "set",
    "pikavae.evaluation_set": "pictures",
    "mlflow.source.git.commit": "c0ffee",
    "pikavae.git.dirty": "",
    "pikavae.report": "own report",
    "pikavae.snapshot": "weights",
}
CANDIDATE = Version("pikavae", 3, "run", "m-1", TAGS, {}, MANIFEST, datetime.now(UTC), ())
NOBODY: dict[str, int | None] = {"champion": None, "previous": None}
OF_CANDIDATE = {
    "actor": "me@host",
    "model": "pikavae",
    "version": 3,
    "champion_before": None,
    "previous_after": None,
    "aliases_before": NOBODY,
    "fingerprint": "set",
    "commit": "c0ffee",
    "dirty": "",
    "run_id": "run",
    "snapshot": "weights",
    "digest": digest_of(MANIFEST),
    "manifest": MANIFEST,
    "reason": "better",
    "rules": {},
}


def values_of(entry):
    values = asdict(entry)
    assert len(values.pop("transaction")) == 32
    return values


def request(**changes):
    judged = Judgement("report", "others", {"min_gain": 0.0}, {"outcome": "pass"}, **changes)
    return entry_of(CANDIDATE, [], NOBODY, judged, action="request", reason="better", actor="me@host")


def test_a_request_says_what_was_measured_and_moves_nothing():
    assert values_of(request(forced=True, overridden=("floors",))) == {
        **OF_CANDIDATE,
        "action": "request",
        "state": "done",
        "production_version": None,
        "champion_after": None,
        "aliases_after": NOBODY,
        "evaluation_set": "others",
        "report": "report",
        "thresholds": {"min_gain": 0.0},
        "verdicts": {"outcome": "pass"},
        "approver": None,
        "forced": True,
        "request": None,
        "overridden": ["floors"],
        "signed_by": "",
        "page_fields": {},
    }


@pytest.mark.parametrize("asked", [False, True])
def test_a_promotion_says_what_its_request_did_or_else_what_the_candidates_tags_say(tmp_path, asked):
    # An earlier version wrote that gates were overridden, but not which
    event = ledger.append(tmp_path / "ledger.jsonl", request(forced=True))
    judged = Judgement.of_request(event, "max@host") if asked else Judgement.of_tags(CANDIDATE)
    after = {"champion": 1, "previous": None}
    made = entry_of(
        CANDIDATE,
        [event],
        after,
        judged,
        action="promote",
        reason="better",
        actor="me@host",
        production_version=1,
        page_fields={"tags": {}},
    )
    assert values_of(made) == {
        **OF_CANDIDATE,
        "action": "promote",
        "state": "intent",
        "production_version": 1,
        "champion_after": 3,
        "aliases_after": after,
        "evaluation_set": "others" if asked else "pictures",
        "report": "report" if asked else "own report",
        "thresholds": {"min_gain": 0.0} if asked else None,
        "verdicts": {"outcome": "pass"} if asked else None,
        "approver": "max@host" if asked else None,
        "forced": asked,
        "request": event.hash if asked else None,
        "overridden": [],
        "signed_by": "",
        "page_fields": {"tags": {}},
    }


def test_a_rollback_keeps_what_the_version_is_and_none_of_what_gates_said(tmp_path):
    path = tmp_path / "ledger.jsonl"
    after = {"champion": 1, "previous": None}
    promoted = replace(request(), action="promote", production_version=1, aliases_after=after)
    events = [ledger.append(path, promoted)]
    back = {"champion": None, "previous": 1}
    made = entry_about(events[0], events, back, action="rollback", state="intent", reason="worse", actor="me@host")
    assert (made.version, made.manifest, made.report) == (3, MANIFEST, "report")
    assert (made.champion_before, made.champion_after, made.previous_after) == (3, None, 3)
    assert (made.aliases_before, made.aliases_after) == (after, back)
    assert (made.thresholds, made.verdicts, made.request, made.forced) == (None, None, None, False)
