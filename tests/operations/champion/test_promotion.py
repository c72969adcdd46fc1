"""Promotion as a user meets it: gates measure, a person approves; nothing moves by what is forged, stale or broken."""

import json
import math
import shlex
import shutil

import pytest
import torch

from flows.cli import main
from pikavae import operations
from pikavae.config import Config
from pikavae.errors import GateError, UserError
from pikavae.model.snapshot import WEIGHTS_NAME, write_snapshot
from pikavae.operations.stages import keys
from pikavae.operations.stages.training_pictures import trace_training_pictures
from pikavae.production.changes import promote as production
from pikavae.production.changes import requests
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.record import ledger, statuses
from pikavae.production.record.rules import Rules
from pikavae.registry import versions
from pikavae.registry.package import file_hashes
from pikavae.tracker import tags as tags_module
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.tags import DETAILS_TAG, PREVIOUS, REPORT_SHA256_TAG
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import sha256_of
from pikavae.workspace.home import home
from pikavae.workspace.run_record import RunRecord
from tests.support import commands
from tests.support.configs import tiny
from tests.support.house import copy_home
from tests.support.promoting import promote

SMALL = {"data.sprites_count": 60, "data.validation_fraction": 0.4, "training.steps": 24}
CADENCE = {f"training.{name}_every": 12 for name in ("checkpoint", "validate", "preview")}


def config(**policy):
    return tiny(**SMALL, **CADENCE, **{f"promotion.{name}": value for name, value in policy.items()})


@pytest.fixture(scope="module")
def first_home(tmp_path_factory):
    """A home with a run whose steps 12 and 24 are versions 1 and 2; each test has a copy."""
    path = tmp_path_factory.mktemp("promotion") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path))
        trained = commands.train(config(), commands.prepare(config()))
        for step in (12, 24):
            commands.register_model(f"run:{trained.run.run_id}@{step}", config())
    return path


@pytest.fixture
def run_id(first_home, isolated, monkeypatch):
    """The id of the run, in a home of its own, where the smoke test compares files but starts no process."""
    copy_home(first_home, home())

    def files_alone(uri, tracking_uri):
        name, version = uri.removeprefix("models:/").split("/")
        return {"manifest": file_hashes(local_folder(client().get_model_version_download_uri(name, version)))}

    monkeypatch.setattr(production, "smoke_test", files_alone)
    (run,) = runs.run_folders(home())
    return run.run_id


def client():
    return Workspace(home()).client


def events():
    return ledger.read(ledger_path(home()))


def version(number):
    return versions.get_version(client(), "pikavae", number)


def told():
    """What the ledger tells, in short."""
    return [(event.action, event.state, event.version, event.champion_after) for event in events()]


def asked(number, reason="because", *, force=False, **policy):
    return commands.promote(str(number), config(**policy), reason=reason, force=force)


def approved(number, reason="seen", **policy):
    return commands.approve(number, config(**policy), reason=reason)


def report_of(number, champion=None):
    """The folder of the report that the last request of a version was decided by."""
    request = statuses.newest_request(events(), "pikavae", number)
    return home() / "evaluations" / request.verdicts["reports"]["candidate" if champion is None else champion]["report"]


def refused(call, complaint, *, writes=0):
    """The call is refused with status 3, moves nothing, and writes as many events."""
    before, count = production.roles(client(), "pikavae"), len(events())
    with pytest.raises(GateError, match=complaint) as caught:
        call()
    assert caught.value.exit_status == 3
    assert production.roles(client(), "pikavae") == before
    assert len(events()) == count + writes
    return caught.value


def test_what_passes_waits_for_a_person_and_the_three_axes_are_told_apart(run_id):
    waiting = asked(1, "the first")
    assert (waiting.command, waiting.champion, waiting.production_version) == (
        "pikavae approve 1 --reason TEXT",
        None,
        None,
    )
    assert waiting.verdicts.outcome == "pass"
    assert list(waiting.verdicts.gates) == [
        *("integrity", "reports", "floors", "regression", "worst tenth", "leakage", "half precision")
    ]
    assert waiting.verdicts.evaluation_set == version(1).tags["pikavae.evaluation_set"]
    assert asked(1, "the first") == waiting  # asked again, it is the same request
    assert told() == [("request", "done", 1, None)]
    found = commands.status_of(version(1))
    assert (found.role, found.gate.outcome, found.approval.state) == ("candidate", "pass", "waiting")
    assert found.gate.report == sha256_of(report_of(1) / "report.json")

    done = approved(1)
    assert (done.champion, done.production_version, done.changed) == (1, 1, True)
    assert not approved(1).changed  # the same again, as after a crash
    assert told()[1:] == [("approve", "done", 1, None), ("promote", "intent", 1, 1), ("promote", "done", 1, 1)]
    found = commands.status_of(version(1))
    assert (found.role, found.gate.outcome, found.approval.state) == ("champion", "pass", "approved")
    assert (found.approval.reason, found.gate.reason) == ("seen", "the first")
    tags = {name.removeprefix(tags_module.STATUS_PREFIX): value for name, value in version(1).tags.items()}
    assert (tags["role"], tags["gate"], tags["approval"]) == ("champion", "pass", "approved")
    assert tags["gate.report"] == found.gate.report
    assert not asked(1, "again").changed
    assert len(events()) == 4
    assert commands.status_of(version(2)) == statuses.Status("candidate", None, None)


def test_candidate_and_champion_are_measured_on_the_same_pictures(run_id):
    promote("1", config())
    waiting = asked(2)
    reports = {who: report.report for who, report in waiting.verdicts.reports.items()}
    assert reports["candidate"] == version(2).tags["pikavae.report"]  # found again, not measured again
    assert reports["champion"] == version(1).tags["pikavae.report"]
    assert waiting.verdicts.champion == 1
    regression = waiting.verdicts.gates["regression"]
    assert regression.outcome in {"pass", "hold"}
    difference = version(2).metrics["val/psnr"] - version(1).metrics["val/psnr"]
    assert any(f"psnr gain {difference:+.4g}" in finding.reason for finding in regression.findings)
    page = home() / waiting.verdicts.comparison
    assert "<title>version 2 against version 1, the champion" in page.read_text()
    assert [file.path for file in client().list_artifacts(run_id, "comparison")] == [f"comparison/{page.name}"]
    assert commands.verdict_lines(waiting.verdicts)[-1].endswith(str(page))
    assert approved(2).previous == 1
    roles = [commands.status_of(version(number)).role for number in (1, 2)]
    assert roles == [PREVIOUS, "champion"]
    assert commands.rollback(reason="worse").champion == 1
    assert version(1).tags[f"{tags_module.STATUS_PREFIX}role"] == "champion"
    other = commands.promote(f"run:{run_id}@24", config(), reason="by its run", force=True)
    assert (other.version, other.champion) == (2, 1)


def test_a_gate_that_fails_refuses_and_force_is_recorded_and_still_approved(run_id, capsys):
    error = refused(lambda: asked(1, psnr_floor=60), "promote 1: refused by floors; --force overrides", writes=1)
    assert [line.split(":")[0] for line in str(error).splitlines()] == ["promote 1", "  floors"]
    assert error.result["verdicts"]["gates"]["floors"]["outcome"] == "fail"
    assert commands.status_of(version(1)).approval.state == "refused"
    refused(lambda: approved(1, psnr_floor=60), "refused by floors")
    forced = asked(1, "it is urgent", force=True, psnr_floor=60)
    assert forced.command == "pikavae approve 1 --promotion.psnr_floor 60.0 --reason TEXT"
    words = shlex.split(forced.command.replace("TEXT", "yes"))[1:]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["champion"] == 1
    done = events()[-1]
    assert (done.forced, done.overridden, done.reason) == (True, ["floors"], "it is urgent")
    assert (commands.status_of(version(1)).gate.outcome, done.approver) == ("fail", events()[-3].actor)
    assert version(1).tags[f"{tags_module.STATUS_PREFIX}gate.overridden"] == "floors"


def test_what_passes_is_promoted_at_once_where_the_policy_says_so_and_what_is_open_waits(run_id):
    done = asked(1, approval="automatic")
    assert (done.changed, done.champion, events()[-1].approver) == (True, 1, None)
    assert commands.status_of(version(1)).approval.state == "automatic"
    waiting = asked(2, approval="automatic", min_gain=version(2).metrics["val/psnr"] - version(1).metrics["val/psnr"])
    assert (waiting.verdicts.outcome, waiting.champion) == ("hold", 1)
    assert "--promotion.approval automatic" in waiting.command
    forced = asked(2, force=True, approval="automatic", psnr_floor=60)
    assert (forced.changed, forced.champion) == (False, 1)


@pytest.mark.parametrize("force", [False, True])
def test_weights_that_are_not_finite_are_refused_and_nobody_can_force_them(run_id, tmp_path, force):
    model = read_snapshot(commands.find_model("1", Config()))
    with torch.no_grad():
        next(model.parameters())[0] = math.nan
    write_snapshot(tmp_path, model, image_size=16, config=config().to_yaml())
    versions.register(
        client(),
        run_id=run_id,
        snapshot=tmp_path,
        model_name="pikavae",
        image_size=16,
        step=24,
        metrics={},
        tags={},
        description="",
    )
    refused(
        lambda: asked(3, force=force),
        "refused by integrity; nobody can override that\n  integrity: weight '.*' is not finite",
        writes=1,
    )
    assert statuses.newest_request(events(), "pikavae", 3).overridden == []


def test_files_that_are_not_those_that_were_registered_are_refused(run_id):
    weights = commands.find_model("1", Config()) / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    refused(lambda: asked(1, force=True), "integrity: file '.*safetensors' is missing or not as registered", writes=1)


def test_an_edited_report_is_refused(run_id):
    folder = home() / "evaluations" / version(1).tags["pikavae.report"]
    report = folder / "report.json"
    whole, better = report.read_text(), json.loads(report.read_text())
    better["metrics"]["psnr"] = 50.0
    report.write_text(json.dumps(better))
    refused(lambda: asked(1), r"report\.json: it was edited since the model was measured")
    stage = json.loads((folder / "stage.json").read_text())
    stage["sha256"]["report.json"] = sha256_of(report)
    (folder / "stage.json").write_text(json.dumps(stage))
    refused(lambda: asked(1, force=True), r"report\.json: it was edited since the model was measured")
    report.write_text(whole)
    refused(lambda: asked(1), "report.json: it was edited")  # what is written beside it is not its hash
    shutil.rmtree(folder)
    assert asked(1).verdicts.outcome == "pass"  # measured again


def test_a_report_of_another_set_in_the_place_of_the_right_one_is_refused(run_id):
    right = home() / "evaluations" / version(1).tags["pikavae.report"]
    other = commands.evaluate_model("1", tiny(**SMALL, **CADENCE, **{"data.sprites_seed": 1})).folder
    for name in ("report.json", "per_image.csv"):
        shutil.copyfile(other / name, right / name)
    stage = json.loads((right / "stage.json").read_text())
    stage["sha256"] = {name: sha256_of(right / name) for name in stage["sha256"]}
    (right / "stage.json").write_text(json.dumps(stage))
    details = json.loads(client().get_model_version("pikavae", "1").tags[DETAILS_TAG])
    del details[REPORT_SHA256_TAG]
    client().set_model_version_tag("pikavae", "1", DETAILS_TAG, json.dumps(details))
    refused(
        lambda: asked(1, force=True),
        "refused by reports; nobody can override that\n  reports: the candidate's report is of evaluation set",
        writes=1,
    )


def test_a_request_is_void_once_its_report_policy_or_champion_changed(run_id):
    asked(1)
    refused(
        lambda: approved(1, psnr_floor=1),
        r"approve 1: its request of .* is void: promotion\.psnr_floor was 0\.0 and is 1\.0",
    )
    report = report_of(1) / "per_image.csv"
    whole = report.read_bytes()
    report.write_bytes(whole + b"\n")
    refused(lambda: approved(1), r"is void: the candidate's report .*per_image\.csv is gone or was edited")
    report.unlink()
    refused(lambda: approved(1), "is gone or was edited")
    report.write_bytes(whole)
    promote("2", config())
    refused(lambda: approved(1), "measured against no champion, and now version 2 is champion; promote it again")


def test_nothing_is_approved_that_was_not_asked_for(run_id):
    with pytest.raises(UserError, match="approve 1: nothing was asked for; `pikavae promote 1 --reason TEXT`"):
        approved(1)
    with pytest.raises(UserError, match="version 9 of 'pikavae': no such version"):
        approved(9)
    with pytest.raises(UserError, match="--reason: it is empty"):
        asked(1, " \n")
    assert events() == []


@pytest.mark.parametrize("name", ["../../etc", 'a"b\nc', "x" * 10_000, "champion", "run:../..", "0", "-1", "1e0"])
def test_names_that_lead_nowhere_are_refused_in_one_line(run_id, name, capsys):
    status = main(["promote", name, "--reason", "x"])
    err = capsys.readouterr().err
    assert (status, len(err.splitlines())) == (2, 1), err
    assert events() == []


def test_pictures_that_a_model_was_trained_on_are_found_and_unknown_ones_told(run_id):
    pictures = commands.prepare(config()).prepared_set
    one = version(1)
    whole = trace_training_pictures(commands.workspace(), one, "candidate", pictures.validation)
    assert (whole.leaked, whole.unknown) == ((), ())
    assert trace_training_pictures(commands.workspace(), one, "candidate", pictures.train).leaked == tuple(
        pictures.train.names
    )

    inputs = {"prepared set": "gone", keys.START: one.tags["pikavae.snapshot"]}
    training = config().model_dump(mode="json")
    child = RunRecord(key="k", inputs=inputs, created="2030", config=training)
    runs.create_run_folder(home(), "child", child)
    heir = versions.Version(**{**vars(one), "run_id": "child", "tags": {}})
    found = trace_training_pictures(commands.workspace(), heir, "candidate", pictures.train)
    assert found.leaked == tuple(pictures.train.names)  # of the weights that it began with
    assert found.unknown == ("prepared set gone is not there any more",)
    unknown = {**inputs, keys.START: "unknown"}
    runs.create_run_folder(home(), "child", child.model_copy(update={"inputs": unknown}))
    assert (
        "began with weights of which no run here is known"
        in trace_training_pictures(commands.workspace(), heir, "x", pictures.train).unknown[0]
    )
    shutil.rmtree(home() / "runs" / run_id)
    found = trace_training_pictures(commands.workspace(), one, "candidate", pictures.train)
    assert len(found.leaked) == len(pictures.train)
    assert found.unknown == (f"the folder of run {run_id} is not there any more",)


def test_a_prepared_set_that_is_gone_is_made_again_and_other_pictures_can_be_named(run_id):
    shutil.rmtree(home() / "prepared" / version(1).tags["pikavae.fingerprint"])
    again = asked(1, reason="x")  # the pictures are drawn again: the set is made anew
    assert again.verdicts.gates["leakage"].outcome == "pass"
    other = commands.promote("1", tiny(**SMALL, **CADENCE, **{"data.sprites_seed": 1}), reason="on others")
    assert other.verdicts.evaluation_set != again.verdicts.evaluation_set


def test_tags_that_were_lost_or_altered_are_written_again_from_the_ledger(run_id):
    promote("1", config())
    prefix = tags_module.STATUS_PREFIX
    client().set_model_version_tag("pikavae", "1", f"{prefix}role", "retired")
    client().delete_model_version_tag("pikavae", "1", f"{prefix}gate")
    client().set_model_version_tag("pikavae", "1", f"{prefix}made.up", "x")
    mended = statuses.project(client(), events())
    assert [line.split()[1] for line in mended] == [f"{prefix}{name}" for name in ("gate", "made.up", "role")]
    assert statuses.project(client(), events()) == []
    assert version(1).tags[f"{prefix}role"] == "champion"


def test_a_policy_of_the_requester_does_not_get_around_the_rules(run_id):
    requests.set_rules(Workspace(home()), Rules(two_people=True), reason="as agreed")
    waiting = asked(1, approval="automatic")
    assert (waiting.verdicts.outcome, waiting.champion) == ("pass", None)
    assert waiting.command == "pikavae approve 1 --promotion.approval automatic --reason TEXT"
    refused(lambda: approved(1, approval="automatic"), "asked for it, and the rules want another person to approve")
    policy = config(approval="automatic")
    done = operations.approve(Workspace(home()), 1, policy, reason="seen", actor="max@host")
    assert (done.champion, events()[-1].approver, events()[-1].actor) == (1, "max@host", "max@host")
    refused(
        lambda: operations.promote(Workspace(home()), version(2), policy, reason="x", actor="prefect:svc@host"),
        "promote 2: .* Prefect does not say who asks",
    )
