"""What is asked for and approved is told by the ledger, moves nothing, and is void once something changed."""

import pytest

from pikavae.errors import GateError, UserError
from pikavae.operations.upkeep.references import references_in_home
from pikavae.production.changes import anchor, requests
from pikavae.production.changes import promote as production
from pikavae.production.record import ledger
from pikavae.production.record.statuses import newest_request
from pikavae.registry import versions
from pikavae.tracker import tags
from tests.support.house import NAME

VERDICTS = {
    "outcome": "pass",
    "gates": {"floors": {"outcome": "pass", "findings": [{"outcome": "pass", "reason": "psnr 24.6"}]}},
}
ODD_REASON = "\"quoted\", 'so'\nand ../../over\r\nlines\u2028 " + "x" * 10_000


def ask(house, version, *, champion=None, reason="because", verdicts=VERDICTS, overridden=()):
    return requests.record_request(
        house.workspace,
        versions.get_version(house.client, NAME, version),
        champion=champion,
        report="0123456789abcdef",
        evaluation_set="pictures",
        thresholds={"approval": "manual"},
        verdicts=verdicts,
        overridden=overridden,
        reason=reason,
        actor="zoé@host",
    )


def approve(house, request, reason="seen", actor="max@host"):
    return requests.record_approval(house.workspace, request, reason=reason, actor=actor)


def promote(house, request, approver=None):
    return production.promote(
        house.workspace,
        model_name=NAME,
        version=request.version,
        reason=request.reason,
        request=request,
        approver=approver,
    )


def events(house):
    return ledger.read(anchor.ledger_path(house.home))


def test_a_request_and_its_approval_are_told_and_move_nothing(house, quick):
    request = ask(house, 1, reason=ODD_REASON)
    approval = approve(house, request, "seen")
    assert house.state()[0] == []
    assert [(e.action, e.state, e.actor) for e in events(house)] == [
        ("request", "done", "zoé@host"),
        ("approve", "done", "max@host"),
    ]
    assert (request.reason, request.champion_after, request.production_version) == (ODD_REASON, None, None)
    assert (approval.request, approval.approver, approval.verdicts) == (request.hash, "max@host", VERDICTS)
    assert len(anchor.ledger_path(house.home).read_bytes().splitlines()) == 2
    assert house.disagreements() == []

    assert promote(house, request, approval.approver).version == 1
    intent, done = events(house)[2:]
    assert (intent.state, done.state, done.request, done.approver) == ("intent", "done", request.hash, "max@host")
    assert (done.verdicts, done.thresholds, done.report) == (VERDICTS, {"approval": "manual"}, "0123456789abcdef")


def test_the_same_asked_or_approved_again_is_one_event(house):
    request = ask(house, 1)
    assert ask(house, 1) == request
    approval = approve(house, request)
    assert approve(house, request, "again", "another@host") == approval
    assert len(events(house)) == 2
    assert ask(house, 1, reason="another") != request


def test_only_the_newest_request_that_was_not_carried_out_is_open(house, quick):
    first, second = ask(house, 1), ask(house, 1, reason="another")
    with pytest.raises(GateError, match=r"approve 1: .* carried out, replaced or has expired"):
        approve(house, first)
    approval = approve(house, second)
    promote(house, second)
    assert newest_request(events(house), NAME, 2) is None
    before = house.state()
    assert approve(house, second) == approval  # again, as after a crash: it is champion by this very request
    assert not promote(house, second, approval.approver).changed
    assert house.state() == before
    promote(house, ask(house, 2, champion=1))
    with pytest.raises(GateError, match="carried out, replaced or has expired"):
        approve(house, second)


def test_a_request_is_void_once_the_champion_changed(house, quick):
    request, other = ask(house, 1), ask(house, 2)
    approve(house, request)
    promote(house, other)
    before = house.state()
    for call in (lambda: approve(house, request), lambda: promote(house, request)):
        with pytest.raises(GateError, match="measured against no champion, and now version 2 is champion"):
            call()
    with pytest.raises(GateError, match="another version became champion while it was measured"):
        ask(house, 1)
    assert house.state() == before
    assert promote(house, ask(house, 1, champion=1)).previous == 2


def test_a_request_is_void_once_the_files_are_others(house, quick):
    request = ask(house, 1)
    before = house.state()
    versions.set_tags(
        house.client, versions.get_version(house.client, NAME, 1), {tags.MANIFEST_TAG: '{"MLmodel": "00"}'}
    )
    for call in (lambda: approve(house, request), lambda: promote(house, request)):
        with pytest.raises(GateError, match="version 1 has other files than those that were measured"):
            call()
    assert house.state() == before


def test_a_reason_is_asked_for(house):
    with pytest.raises(UserError, match="--reason: it is empty"):
        ask(house, 1, reason="\n ")
    with pytest.raises(UserError, match="--reason: it is empty"):
        approve(house, ask(house, 1), reason="")


def test_gates_that_were_overridden_are_told(house, quick):
    request = ask(house, 1, overridden=["floors"])
    assert (request.forced, request.overridden) == (True, ["floors"])
    promote(house, request)
    assert (events(house)[-1].forced, events(house)[-1].overridden) == (True, ["floors"])


def test_what_a_request_asks_for_is_kept_by_prune(house, monkeypatch):
    monkeypatch.setenv("PIKAVAE_HOME", str(house.home))
    request = ask(house, 1)
    (reference,) = references_in_home(house.workspace)
    assert (reference.who, reference.run_id) == ("line 1 of the ledger", request.run_id)
