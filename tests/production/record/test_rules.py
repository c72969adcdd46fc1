"""The rules say who may approve and how long a request waits; no requester, flag or variable gets around them."""

import json
from datetime import timedelta

import pytest

from flows.cli import main
from pikavae.errors import DamagedFileError, GateError, UserError
from pikavae.notify.outbox import Outbox
from pikavae.notify.record import begin, collect
from pikavae.notify.settings import EVERY_EVENT, Address, Recipients
from pikavae.operations import housekeeping
from pikavae.production.changes import promote, requests
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.record import identity, rules, statuses
from pikavae.production.record.rules import Rules
from pikavae.tracker.tags import STATUS_PREFIX
from tests.production.changes.test_requests import approve, ask, events
from tests.production.changes.test_requests import promote as carry_out
from tests.support.house import NAME

ZOE, MAX, ANN = "zoé@host", "max@host", "ann@host"  # `ask` asks as zoé


def set_rules(house, who=MAX, reason="as agreed", **wanted):
    return requests.set_rules(house.workspace, Rules(**wanted), reason=reason, actor=who)


def later(monkeypatch, **much):
    monkeypatch.setattr(rules, "now", lambda now=rules.now: now() + timedelta(**much))


def refused(house, call, complaint, error=GateError):
    """The call is refused and leaves everything as it was."""
    before = house.state()
    with pytest.raises(error, match=complaint):
        call()
    assert house.state() == before


def test_whoever_asked_may_not_approve_where_two_people_must(house, quick):
    set_rules(house, two_people=True)
    request = ask(house, 1)
    refused(house, lambda: approve(house, request, actor=ZOE), "asked for it, and the rules want another person")
    refused(house, lambda: carry_out(house, request), "nobody approved it, and the rules ask for an approval")
    refused(house, lambda: carry_out(house, request, ZOE), "nobody approved it")
    refused(house, lambda: house.promote(1), "nobody approved it")
    approve(house, request, actor=MAX)
    assert carry_out(house, request, MAX).version == 1
    assert house.disagreements(every=True) == []


@pytest.mark.parametrize(
    ("who", "complaint"),
    [
        ("mlflow:zoé", "whether these are two people cannot be told"),
        ("prefect:svc@host", "Prefect does not say who approves"),
    ],
)
def test_identities_that_do_not_show_two_people_are_not_two(house, who, complaint):
    set_rules(house, two_people=True)
    request = ask(house, 1)
    refused(house, lambda: approve(house, request, actor=who), complaint)


def test_what_was_asked_in_prefect_is_not_approved_as_of_another_person(house):
    asked = requests.record_request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "record_request", lambda *a, **k: asked(*a, **{**k, "actor": "prefect:svc@host"}))
        request = ask(house, 1)
        set_rules(house, two_people=True)
        refused(house, lambda: approve(house, request, actor=MAX), "Prefect does not say who asked")
        refused(house, lambda: ask(house, 2), "promote 2: .* Prefect does not say who asks")


def test_only_approvers_approve_and_change_the_rules(house, quick):
    refused(house, lambda: set_rules(house, who=ZOE, approvers=[MAX]), "zoé@host is not among them", UserError)
    set_rules(house, approvers=[ANN, MAX])
    request = ask(house, 1)
    refused(house, lambda: approve(house, request, actor=ZOE), f"{ZOE} is no approver; the rules name {ANN}, {MAX}")
    refused(house, lambda: set_rules(house, who=ZOE), f"{ZOE} may not change the rules")
    set_rules(house, who=ANN)  # no rules any more: the request was made under the others
    refused(house, lambda: approve(house, request, actor=ZOE), "is no approver")
    approve(house, ask(house, 1, reason="again"), actor=ZOE)


def test_rules_made_later_hold_for_a_request_that_waits(house):
    request = ask(house, 1)
    set_rules(house, approvers=[MAX])
    refused(house, lambda: approve(house, request, actor=ZOE), "is no approver")


def test_the_same_rules_again_are_no_event_and_rules_move_nothing(house, quick):
    first = set_rules(house, two_people=True)
    assert set_rules(house, who=ANN, two_people=True) == first
    assert (first.actor, first.rules["two_people"], first.version) == (MAX, True, 0)
    request = ask(house, 1)
    approve(house, request)
    carry_out(house, request)
    set_rules(house, request_days=3)
    assert [event.action for event in events(house)][-1] == "rules"
    assert house.predict() is not None
    assert house.disagreements(every=True) == []
    house.client.set_model_version_tag(NAME, "1", f"{STATUS_PREFIX}role", "retired")
    house.repair()
    assert events(house)[-1].rules == {}
    assert rules.rules_after(events(house)).request_days == 3


def test_a_request_expires_is_closed_with_words_and_is_asked_again(house, quick, monkeypatch):
    set_rules(house, request_days=2)
    request = ask(house, 1)
    waiting = statuses.status_of(events(house), NAME, 1).approval
    assert (waiting.state, waiting.until[:10]) == ("waiting", rules.deadline(events(house), request).isoformat()[:10])
    later(monkeypatch, days=2, seconds=-30)
    assert requests.close_expired(house.workspace) == []
    later(monkeypatch, minutes=1)
    with pytest.raises(GateError, match=r"approve 1: its request expired at .* UTC; promote it again"):
        approve(house, request)
    closed = events(house)[-1]
    assert (closed.action, closed.request, closed.actor) == ("expire", request.hash, MAX)
    assert closed.reason.startswith("nobody approved it until")
    assert statuses.tags_of(events(house), NAME, 1)[f"{STATUS_PREFIX}approval"] == "expired"
    with pytest.raises(GateError, match="expired at"):
        approve(house, request)
    assert events(house)[-1] == closed
    assert house.disagreements() == []
    monkeypatch.undo()
    again = ask(house, 1)
    assert again != request
    approve(house, again)


def test_an_approval_in_time_is_carried_out_later(house, quick, monkeypatch):
    set_rules(house, request_days=2)
    request = ask(house, 1)
    approve(house, request)
    later(monkeypatch, days=9)
    assert requests.close_expired(house.workspace) == []
    assert carry_out(house, request, MAX).version == 1
    assert house.disagreements() == []


def test_housekeeping_closes_what_has_expired(house, monkeypatch):
    set_rules(house, request_days=1)
    ask(house, 1), ask(house, 2)
    later(monkeypatch, days=1)
    (line,) = [line for line in housekeeping(house.workspace, keep_backups=1).lines() if line.startswith("ledger")]
    assert line.endswith(f"; then closed the requests for version 1 of {NAME}, version 2 of {NAME}, which expired")
    assert [event.action for event in events(house)[-2:]] == ["expire", "expire"]


def test_verify_finds_a_champion_that_a_program_without_rules_made(house, quick, monkeypatch):
    set_rules(house, two_people=True)
    with monkeypatch.context() as patch:
        patch.setattr(promote, "broken_rule", lambda *_: None)
        house.promote(1)
    (complaint,) = house.disagreements()
    assert complaint.startswith(f"champion, version 1 of {NAME}: line 3 promoted it against the rules: nobody approved")
    request = ask(house, 2, champion=1)
    with monkeypatch.context() as patch:
        patch.setattr(rules, "why_not_approve", lambda *_: None)
        approve(house, request, actor=ZOE)
        carry_out(house, request, ZOE)
    assert ["asked for it, and the rules want another" in what for what in house.disagreements()] == [True, False]


def test_rules_that_only_a_newer_version_knows_are_not_passed_over(house, monkeypatch):
    monkeypatch.setattr(Rules, "model_dump", lambda *_, **__: {"approvers": [], "at_full_moon": True})
    set_rules(house, request_days=1)
    monkeypatch.undo()
    refused(house, lambda: ask(house, 1), "line 1 holds rules that this version .* does not know", DamagedFileError)


def test_people_are_told_of_rules_that_changed_and_of_a_request_that_expired(house, monkeypatch):
    outbox, nobody = Outbox(house.home), Recipients((Address("http://127.0.0.1:9/", EVERY_EVENT),), disk_free_gib=0)
    begin(house.home, outbox)
    set_rules(house, approvers=[MAX], request_days=1)
    ask(house, 1, verdicts={"outcome": "pass", "gates": {}})
    later(monkeypatch, days=2)
    requests.close_expired(house.workspace, actor=MAX)
    collect(house.workspace, outbox, nobody)
    told = {event.notification.event: event.notification for event in outbox.events()}
    assert {*told} == {"rules_changed", "request_expired"}  # the request waits no more
    assert f"approvers: {MAX}" in told["rules_changed"].message
    assert "nobody approved it until" in told["request_expired"].message.lower()


def test_the_user_is_the_owner_of_the_process_whatever_variables_say(monkeypatch):
    before = identity.user_at_host()
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody")
    assert identity.user_at_host() == before
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    assert identity.user_at_host().startswith("4000000@")


def test_the_terminal_shows_and_sets_rules(house, monkeypatch, capsys):
    monkeypatch.setenv("PIKAVAE_HOME", str(house.home))
    me = identity.user_at_host()
    assert main(["rules"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"you are       {me}"
    words = ["rules", "set", "--approver", me, "--approver", "mlflow:max", "--two-people", "--request-days", "14"]
    assert main([*words, "--reason", "as agreed", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["rules"] == {
        "approvers": sorted([me, "mlflow:max"]),
        "two_people": True,
        "request_days": 14,
        "automatic": False,
    }
    assert (done["set"]["actor"], done["you"]) == (me, me)
    for wrong, complaint in (
        (["--approver", "max"], "--approver 'max': expected USER@HOST, or mlflow:NAME"),
        (["--approver", "prefect:max@host"], "expected USER@HOST"),
        (["--request-days", "0"], "--request_days"),
    ):
        assert main(["rules", "set", *wrong, "--reason", "x"]) == 2
        assert complaint in capsys.readouterr().err.replace("request-days", "request_days")
    assert main(["models", "history"]) == 0
    assert "rules" in capsys.readouterr().out
    assert len(ledger_path(house.home).read_bytes().splitlines()) == 1
