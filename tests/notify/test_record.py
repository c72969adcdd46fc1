"""What the record means to people: moves, requests that wait, candidates, a broken ledger, a full disk."""

import json
import shutil

import pytest

from pikavae.notify import record
from pikavae.notify.attempts import Attempt
from pikavae.notify.outbox import Outbox
from pikavae.notify.settings import EVERY_EVENT, Address, Recipients
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.judgements.standing import Standing, expect_standing
from pikavae.production.judgements.watches import Watch
from pikavae.production.record import ledger
from pikavae.production.record.ledger import Entry
from pikavae.tracker.client import Workspace
from pikavae.workspace.files import write_atomically
from tests.support.places import ROOT

NOBODY = Recipients((Address("http://127.0.0.1:9/", EVERY_EVENT),), disk_free_gib=0)
EARLIER = ROOT / "tests" / "evaluation" / "report" / "earlier"


@pytest.fixture
def workspace(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    return Workspace(home)


def append(workspace, action, version, **fields):
    """Append an event to the ledger, the move of a version by default."""
    now = {"champion": version, "previous": None}
    values = {
        **{"transaction": "t", "action": action, "state": "done", "actor": "me@here", "model": "pikavae"},
        **{"version": version, "production_version": version, "champion_before": None, "champion_after": version},
        **{"previous_after": None, "aliases_before": {}, "aliases_after": now, "fingerprint": None},
        **{"evaluation_set": None, "commit": None, "dirty": None, "run_id": "r", "report": None, "snapshot": None},
        **{"digest": "d", "manifest": {}, "thresholds": None, "verdicts": None, "approver": None},
        **{"reason": "sharper", "forced": False},
    }
    return ledger.append(ledger_path(workspace.home), Entry(**{**values, **fields}))


def ask(workspace, version, outcome="pass", approval="manual", **fields):
    finding = {"outcome": outcome, "reason": "a finding"}
    verdicts = {"outcome": outcome, "gates": {"floors": {"outcome": outcome, "findings": [finding]}}}
    kept = {"aliases_after": {}, "production_version": None}
    return append(workspace, "request", version, verdicts=verdicts, thresholds={"approval": approval}, **kept, **fields)


def news(workspace, recipients=NOBODY):
    """What is new in the outbox after another look at the record."""
    outbox = Outbox(workspace.home)
    before = {event.notification.id for event in outbox.events()}
    record.collect(workspace, outbox, recipients)
    return [event.notification for event in outbox.events() if event.notification.id not in before]


def register(workspace, run, key, report=None, version=3):
    inputs = {"run": run, "report": report, "registry.model_name": "pikavae"}
    path = workspace.home / "runs" / run / "registrations" / f"{key}.json"
    write_atomically(path, json.dumps({"key": key, "inputs": inputs, "version": version}))


def test_what_happened_before_there_was_an_outbox_is_not_sent(workspace):
    append(workspace, "promote", 1)
    register(workspace, "run", "early")
    record.begin(workspace.home, Outbox(workspace.home))
    assert news(workspace) == []
    register(workspace, "run", "late")
    assert [told.event for told in news(workspace)] == ["candidate_ready"]


def test_a_candidate_whose_retraining_was_killed_says_why_it_has_no_standing(workspace):
    record.begin(workspace.home, Outbox(workspace.home))
    register(workspace, "by-hand", "first")
    (by_hand,) = news(workspace)
    expect_standing(workspace.home / "runs" / "retrained")
    register(workspace, "retrained", "second")
    (killed,) = news(workspace)
    why = "It is not compared with the champion: its retraining was killed first."
    assert (why in by_hand.message, why in killed.message) == (False, True)
    register(workspace, "retrained", "third")
    Standing(version=3, reason="there is none").save(workspace.home / "runs" / "retrained", "third")
    (compared,) = news(workspace)
    assert why not in compared.message


def test_moves_are_told_once_with_who_and_why(workspace):
    record.begin(workspace.home, Outbox(workspace.home))
    append(workspace, "promote", 1, approver="you@there")
    append(workspace, "promote", 2, state="intent")
    append(workspace, "promote", 2, state="undone")
    append(workspace, "rollback", 1, champion_before=2)
    append(workspace, "repair", 1)
    promoted, rolled_back = news(workspace)
    assert (promoted.event, rolled_back.event) == ("promoted", "rolled_back")
    assert promoted.title == "pikavae: version 1 of pikavae is champion"
    assert "me@here: sharper" in promoted.message
    assert "Approved by you@there." in promoted.message
    assert rolled_back.data["champion_before"] == 2
    assert news(workspace) == []


def test_a_request_is_told_only_while_it_waits_for_a_person(workspace):
    record.begin(workspace.home, Outbox(workspace.home))
    ask(workspace, 1, "fail")  # refused
    ask(workspace, 2, approval="automatic")  # the policy carries it out
    approved = ask(workspace, 3)
    append(workspace, "approve", 3, request=approved.hash, production_version=None, aliases_after={})
    ask(workspace, 4)
    ask(workspace, 5, "hold", approval="automatic")
    ask(workspace, 6, "fail", forced=True, overridden=["floors"])
    found = news(workspace)
    assert [told.data["version"] for told in found] == [4, 5, 6]
    assert {told.event for told in found} == {"approval_needed"}
    assert "All 1 gates pass." in found[0].message
    assert "floors: hold: a finding" in found[1].message
    assert "`pikavae approve 6 --reason TEXT`" in found[2].message


def test_a_crash_before_the_state_is_saved_adds_nothing_twice(workspace, monkeypatch):
    record.begin(workspace.home, Outbox(workspace.home))
    append(workspace, "promote", 1)
    with monkeypatch.context() as killed:
        killed.setattr(Outbox, "save_state", lambda *_: None)
        assert len(news(workspace)) == 1
    assert news(workspace) == []


def test_a_ledger_that_does_not_verify_is_told_once_until_it_does_again(workspace):
    outbox = Outbox(workspace.home)
    record.begin(workspace.home, outbox)
    append(workspace, "promote", 1)
    assert len(news(workspace)) == 1
    path, whole = ledger_path(workspace.home), ledger_path(workspace.home).read_bytes()
    path.write_bytes(whole.replace(b"sharper", b"blurred"))
    (told,) = news(workspace)
    assert told.event == "ledger_disagrees"
    assert "line 1 was edited" in told.message
    path.touch()
    assert news(workspace) == []
    path.write_bytes(whole)
    assert news(workspace) == []
    record.complain(outbox, NOBODY, [])
    record.complain(outbox, NOBODY, ["alias 'champion': nobody has it"])
    record.complain(outbox, NOBODY, ["alias 'champion': nobody has it"])
    complaints = [one.notification for one in outbox.events() if one.notification.event == "ledger_disagrees"]
    assert [told.data["disagreements"][0][:5] for told in complaints] == [str(path)[:5], "alias"]


def test_a_disk_that_is_nearly_full_is_told_once_until_there_is_room_again(workspace, monkeypatch):
    free = {"bytes": 3 * record.GIB}
    monkeypatch.setattr(record, "free_bytes", lambda _: free["bytes"])
    least = Recipients(NOBODY.addresses, disk_free_gib=2)
    assert news(workspace, least) == []
    free["bytes"] = record.GIB
    (told,) = news(workspace, least)
    assert (told.event, told.data["free_bytes"]) == ("disk_low", record.GIB)
    free["bytes"] = int(2.1 * record.GIB)
    assert news(workspace, least) == []
    free["bytes"] = record.GIB
    assert news(workspace, least) == []  # there was hardly room in between
    free["bytes"] = 3 * record.GIB
    assert news(workspace, least) == []
    assert not Outbox(workspace.home).state().is_disk_low


def report(workspace, name, psnr=None, evaluation_set=None):
    folder = workspace.home / "evaluations" / name
    shutil.copytree(EARLIER / "with_sizes", folder)
    content = json.loads((folder / "report.json").read_text())
    content["metrics"]["psnr"] = content["metrics"]["psnr"] if psnr is None else psnr
    content["evaluation_set"] = evaluation_set or content["evaluation_set"]
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "panel.png").write_bytes(b"PNG")


def test_a_candidate_is_told_with_its_scores_beside_the_champions_and_its_picture(workspace):
    record.begin(workspace.home, Outbox(workspace.home))
    report(workspace, "own", 23.4)
    register(workspace, "run", "first", "own", 3)
    (told,) = news(workspace)
    assert told.title == "pikavae: version 3 of pikavae is ready"
    assert "PSNR: 23.40 dB" in told.message
    assert "There is no champion yet." in told.message
    assert "`pikavae ui --run run`" in told.message
    assert told.picture == "evaluations/own/panel.png"
    report(workspace, "theirs", 21.3)
    append(workspace, "promote", 2, report="theirs")
    register(workspace, "run", "second", "own", 4)
    told, _ = news(workspace)
    assert "PSNR: 23.40 dB (champion 21.30 dB)" in told.message
    assert "both were measured on the same pictures" in told.message
    assert told.data["champion"]["version"] == 2
    assert told.data["champion"]["scores"]["psnr"] == 21.3
    assert told.data["champion"]["same_pictures"] is True
    report(workspace, "others", 25.0, "another set")
    append(workspace, "promote", 5, report="others")
    register(workspace, "run", "third", "own", 6)
    told, _ = news(workspace)
    assert "was measured on other pictures" in told.message
    assert told.data["champion"]["same_pictures"] is False


def test_the_link_of_a_candidate_is_that_of_the_server_that_runs(workspace, monkeypatch):
    monkeypatch.setenv("PIKAVAE_MLFLOW_UI", "http://127.0.0.1:5000")
    record.begin(workspace.home, Outbox(workspace.home))
    finished = {"snapshot": "s", "start_step": 0, "steps": 1, "best_step": 1, "snapshot_sha256": {}}
    write_atomically(workspace.home / "runs" / "run" / "train.json", json.dumps({**finished, "experiment_id": "7"}))
    register(workspace, "run", "key")
    (told,) = news(workspace)
    assert told.link == "http://127.0.0.1:5000/#/experiments/7/runs/run?workflowType=machine_learning"
    assert "Its report is gone." in told.message


def test_a_candidate_of_a_run_at_work_is_told_when_it_ends_with_how_it_stands(workspace):
    outbox = Outbox(workspace.home)
    record.begin(workspace.home, outbox)
    retraining = Attempt(id="a", what="retrain", started="", host="here", run="run")
    lock = retraining.begin(outbox)
    register(workspace, "run", "key", version=4)
    register(workspace, "other", "another", version=5)
    assert [told.data["version"] for told in news(workspace)] == [5]
    found = {"outcome": "hold", "gain": 0.25, "interval": [-0.1, 0.6], "findings": ["regression: hold: psnr gain"]}
    Standing.model_validate({"version": 4, "champion": 3, **found}).save(workspace.home / "runs" / "run", "key")
    retraining.remove(outbox)
    lock.release()
    (told,) = news(workspace)
    line = "PSNR 0.25 dB better than champion 3 (95 %: -0.10 to +0.60, no difference shown); a person must decide"
    assert told.title == f"pikavae: version 4 of pikavae is ready: {line}"
    assert "regression: hold: psnr gain\n" in told.message
    assert "`pikavae promote 4 --reason TEXT` asks for its promotion." in told.message
    assert told.data["standing"]["interval"] == [-0.1, 0.6]
    assert news(workspace) == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"reason": "a file is gone"}, "not compared: a file is gone"),
        ({"champion": 3, "reason": "a file is gone"}, "not compared with champion 3: a file is gone"),
        ({"outcome": "fail"}, "there is no champion yet; not proposed"),
        ({"champion": 3, "outcome": "fail"}, "champion 3 could not be compared; not proposed"),
        (
            {"champion": 3, "outcome": "pass", "metric": "lpips", "gain": 0.01, "interval": [0.005, 0.02]},
            "LPIPS 0.0100 better than champion 3 (95 %: +0.0050 to +0.0200); proposed for promotion",
        ),
    ],
)
def test_a_standing_is_one_line(content, line):
    assert Standing.model_validate({"version": 4, **content}).line() == line


def watched(workspace, name, fell, source="/new", version=3):
    values = {
        **{"id": name, "time": "2026-11-27T06:00:00+00:00", "model": "pikavae", "version": version, "source": source},
        **{"fell": fell, "line": "PSNR 1.20 dB worse than in its report", "findings": ["The champion fell."]},
        **{"metric": "psnr", "tolerance": 0.0, "num_fresh": 40, "num_trained_on": 0, "scores": {}, "drift": {}},
        **{"evaluation_set": "e", "report": "r", "champion_report": "c", "page": f"watches/{name}/page.html"},
        **{"run_id": "run", "experiment_id": "7"},
    }
    write_atomically(workspace.home / "watches" / name / "watch.json", Watch(**values).to_json())


def test_a_champion_that_fell_is_told_once_until_the_same_pictures_find_it_well(workspace, monkeypatch):
    watched(workspace, "0", fell=True)
    record.begin(workspace.home, Outbox(workspace.home))
    assert news(workspace) == []  # it happened before anybody asked to be told
    watched(workspace, "1", fell=True)
    watched(workspace, "2", fell=False, source="/other")
    (told,) = news(workspace)
    assert told.event == "champion_fell"
    assert told.severity == "warning"
    assert told.title == ("pikavae: the champion fell: version 3 of pikavae: PSNR 1.20 dB worse than in its report")
    assert str(workspace.home / "watches" / "1" / "page.html") in told.message
    assert (told.data["source"], told.data["run_id"]) == ("/new", "run")
    watched(workspace, "3", fell=True)
    assert news(workspace) == []
    watched(workspace, "4", fell=True, version=4)  # another champion
    assert [told.data["version"] for told in news(workspace)] == [4]
    watched(workspace, "5", fell=False)
    watched(workspace, "6", fell=True)
    monkeypatch.setenv("PIKAVAE_MLFLOW_UI", "http://127.0.0.1:5000")
    (told,) = news(workspace)
    assert told.link.startswith("http://127.0.0.1:5000/#/experiments/7/runs/run")
    assert news(workspace) == []
