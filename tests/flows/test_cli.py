"""The terminal as a user meets it: exit status, one line on standard error, JSON as the last line."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pikavae.operations.using.picture_formats import read_picture
from tests.support.commands import run_cli
from tests.support.places import ROOT

HASH = re.compile(r"\b[0-9a-f]{17,}\b")
"""Longer than the 16 digits of a key, which may be a folder's name in a path."""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["rnu"], "rnu: no such command; did you mean run?"),
        (["plan", "dmeo"], "preset 'dmeo': no such preset and no such file; did you mean demo"),
        (["plan", "demo", "extra"], "'extra': one preset at a time"),
        (["plan", "demo", "--training.stepz", "3"], "--training.stepz: no such flag; did you mean --training.steps?"),
        (["plan", "demo", "--training.steps", "x"], "training.steps 'x': input should be a valid integer"),
        (["plan", "demo", "--training.steps", "0"], "training.steps 0: input should be greater than or equal to 1"),
        (["plan", "demo", "--training.steps"], "training.steps"),
        (
            ["plan", "demo", "--data.image_size", "90"],
            "data.image-size 90 is not a multiple of the downsampling factor 4",
        ),
        (["plan", "--data.validation_fraction", "1.5"], "data.validation-fraction 1.5: input should be less than 1"),
        (["plan", "--data.source", "no/such/folder"], "no/such/folder"),
        (["prepare", "--data.source", "no/such/*.parquet"], "no/such/*.parquet"),
        (["evaluate"], "evaluate: name a model"),
        (["evaluate", "run:nothing"], "run:nothing: no such run"),
        (["evaluate", "no/such/folder"], "model 'no/such/folder'"),
        (["reconstruct", "7", "a.png"], "7"),
        (["models", "show", "x"], "model 'x': no such file or folder"),
        (["models", "shwo", "1"], "models shwo: did you mean show?"),
        (["models", "lineage"], "models lineage: name a model"),
        (["models", "lineage", "champion"], "nothing is in production yet"),
        (["models", "show", "previous"], "previous of 'pikavae-production': there is none"),
        (["promote", "1", "--reason", "why", "else"], "--reason: one value is expected, and 'else' is another"),
        (["export", "1"], "export: name a model and a new folder"),
        (["run", "--name", "a\nb"], "--name 'a\\nb': it has a line break"),
        (["train", "--tag", "mlflow.user=me"], "--tag: 'mlflow.user': tags that begin with mlflow."),
        (["plan", "--experiment", "pikavae-production"], "tracking.experiment 'pikavae-production': this experiment"),
        (["run", "."], "preset '.': a folder; pictures are named by --data.source"),
        (["promote"], "promote: name one version number"),
        (["promote", "1"], "--reason: it is empty"),
        (["promote", "1", "--reason", "  "], "--reason: it is empty"),
        (["promote", "9", "--reason", "x"], "version 9 of 'pikavae': no such version"),
        (["promote", "run:none@3", "--reason", "x"], "run:none: no such run"),
        (["rollback"], "--reason: it is empty"),
        (["rollback", "--reason", "x"], "rollback: there is no previous champion"),
        (["evaluate", "champion"], "nothing is in production yet"),
        (["doctor", "now"], "'now': this command takes no such word"),
    ],
)
def test_a_mistake_gives_one_line_and_status_two(capsys, words, complaint):
    status, out, err = run_cli(capsys, *words)
    assert status == 2
    assert out == ""
    assert complaint in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_help_and_version(capsys):
    assert run_cli(capsys, "--version")[1].startswith("0.")
    status, out, _ = run_cli(capsys, "--help")
    assert status == 0
    assert "demo" in out
    assert all(f"  {name}" in out for name in ("run", "plan", "models", "doctor"))
    status, help_text, _ = run_cli(capsys, "run", "demo", "--help")
    assert status == 0
    assert "--training.steps INT" in help_text
    assert "Optimizer steps in all. (default: 1200)" in " ".join(help_text.split())


def test_prepare_plan_and_train_give_the_documented_keys(capsys, tiny_flags):
    status, out, _ = run_cli(capsys, "plan", "demo", *tiny_flags, "--json")
    assert status == 0
    assert {name: stage["status"] for name, stage in json.loads(out)["stages"].items()} == dict.fromkeys(
        ("prepare", "train", "evaluate", "register"), "runs"
    )
    _, out, _ = run_cli(capsys, "prepare", "demo", *tiny_flags, "--json")
    prepared = json.loads(out)
    assert {"fingerprint", "num_images", "num_quarantined", "num_left_out", "path"} <= prepared.keys()
    assert (prepared["num_quarantined"], prepared["unreadable"]) == (0, {})
    assert (prepared["num_left_out"], prepared["left_out"]) == (0, {})
    assert Path(prepared["page"]).is_file()
    assert any("held out for validation" in warning for warning in prepared["warnings"])
    _, out, _ = run_cli(capsys, "prepare", "demo", *tiny_flags)
    assert out.splitlines()[-1] == prepared["path"]
    assert f"Page with pictures: {prepared['page']}" in out.splitlines()
    assert all(f"Warning: {warning}" in out for warning in prepared["warnings"])
    assert prepared["num_images"] == 24
    _, out, _ = run_cli(capsys, "train", "demo", *tiny_flags, "--json")
    trained = json.loads(out)
    assert trained.keys() == {"run_id", "start_step", "steps", "images_seen", "images_per_second", "snapshot"}
    assert (trained["start_step"], trained["steps"], trained["images_seen"]) == (0, 6, 12)
    _, out, _ = run_cli(capsys, "plan", "demo", *tiny_flags)
    assert out.splitlines()[1].startswith("train     done")


def test_pictures_of_any_size_are_reconstructed(capsys, tiny_flags, folder_of_pictures, tmp_path):
    _, out, _ = run_cli(capsys, "train", "demo", *tiny_flags, "--json")
    model = f"run:{json.loads(out)['run_id']}"
    first, second = folder_of_pictures / "00.png", folder_of_pictures / "01.png"
    status, out, _ = run_cli(
        capsys, "reconstruct", model, str(first), str(second), "--out", str(tmp_path / "out"), "--json"
    )
    assert status == 0
    files = json.loads(out)["files"]
    assert [Path(file).name for file in files] == ["00.png", "01.png"]
    assert [read_picture(Path(file)).shape for file in files] == [(1, 3, 18, 20)] * 2
    status, _, err = run_cli(capsys, "reconstruct", model, str(tmp_path / "none.png"), "--out", str(tmp_path / "out"))
    assert (status, "none.png" in err) == (2, True)


def test_versions_are_promoted_and_taken_back(capsys, tiny_flags, folder_of_pictures, tmp_path):
    _, out, _ = run_cli(capsys, "train", "demo", *tiny_flags, "--json")
    run = f"run:{json.loads(out)['run_id']}"
    promoted = []
    for model, version in ((f"{run}@2", "1"), (f"{run}@6", "2")):
        words = ("--reason", 'it is "better",\nhe said', "--json")
        status, out, err = run_cli(capsys, "promote", model, *words)
        asked = json.loads(out)
        assert (status, asked["version"], asked["production_version"]) == (3, int(version), None), err
        assert f"\npikavae approve {version} --reason TEXT\n" in err
        status, out, err = run_cli(capsys, "approve", version, *words)
        assert status == 0, err
        promoted.append(json.loads(out))
        assert promoted[-1].keys() == {"version", "production_version", "champion", "previous", "verdicts"}
        assert promoted[-1]["verdicts"] == asked["verdicts"]
    status, out, _ = run_cli(capsys, "rollback", "--reason", "worse after all", "--json")
    assert (status, json.loads(out)["champion"], json.loads(out)["previous"]) == (0, 1, 2)
    _, out, _ = run_cli(capsys, "models", "history")
    assert [line.split()[2] for line in out.splitlines()[1:] if line[0] != " "].count("promote") == 2
    assert 'it is "better", he said' in " ".join(out.split())
    _, out, _ = run_cli(capsys, "models", "list")
    assert [line.split()[1] for line in out.splitlines() if line[0] != " "] == ["ROLE", "previous", "champion"]
    assert all(len(line) <= 80 for line in out.splitlines())
    shown = json.loads(run_cli(capsys, "models", "list", "--json")[1])["versions"]
    assert [(item["version"], item["data_source"]) for item in shown] == [(2, "sprites"), (1, "sprites")]
    for model, number in (("champion", 1), ("previous", 2), (f"{run}@2", 1), (run, 2), ("1", 1)):
        _, out, _ = run_cli(capsys, "models", "show", model)
        assert out.startswith(f"pikavae version {number}: "), model
        assert len(out) < 1200
        assert all(len(line) <= 80 for line in out.splitlines())
        assert not HASH.search(out)
        _, out, _ = run_cli(capsys, "models", "lineage", model)
        assert re.search(rf"^version +pikavae {number} ", out, re.MULTILINE), model
        assert all(len(line) <= 80 for line in out.splitlines())
    status, out, _ = run_cli(
        capsys, "reconstruct", "champion", str(folder_of_pictures / "00.png"), "--out", str(tmp_path / "out"), "--json"
    )
    assert (status, len(json.loads(out)["files"])) == (0, 1)


def test_doctor_knows_what_is_here(capsys):
    status, out, _ = run_cli(capsys, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 0
    assert checks["torch"]["status"] == "ok"
    assert checks["hub"]["status"] == "warning"
    assert {checks[name]["status"] for name in ("LPIPS weights", "rFID weights")} == {"warning"}
    assert "curl -fL --create-dirs -o" in checks["LPIPS weights"]["remedy"]
    assert all(check["remedy"] for check in checks.values() if check["status"] != "ok")


@pytest.mark.slow
def test_the_pipeline_runs_under_prefect_without_a_server(tiny_flags, tmp_path):
    """From a working directory elsewhere; the flow, its tasks and its artifact are in Prefect's database."""
    command = [sys.executable, "-m", "flows.cli", "run", "demo", *tiny_flags, "--json"]
    labels = ["--name", "fit for a talk", "--note", "for Monday", "--tag", "team=a", "--experiment", "talk"]
    home = tmp_path / "home"
    environment = {"PATH": "/usr/bin:/bin", "PIKAVAE_HOME": str(home), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    work = tmp_path / "elsewhere"
    work.mkdir()
    done = subprocess.run([*command, *labels], cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= {"run_id", "fingerprint", "model", "version", "metrics", "stages"}
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list(work.iterdir()) == []

    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        (flow_run,) = database.execute("select id, state_type, name, tags from flow_run").fetchall()
        tasks = {
            name.split(" ")[0] for (name,) in database.execute("select name from task_run where state_type='COMPLETED'")
        }
        artifacts = dict(database.execute("select key, data from artifact"))
    assert flow_run[1:3] == ("COMPLETED", "fit for a talk")
    assert "team=a" in json.loads(flow_run[3])
    assert tasks == {"prepare", "train", "evaluate", "register"}
    assert sorted(artifacts) == ["pipeline-result", "prepared-set", "training", "training-progress"]
    assert float(artifacts["training-progress"]) == 100
    assert "step 6, 100%" in artifacts["training"]
    assert "![reconstructions](data:image/jpeg;base64," in artifacts["training"]
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        tags = dict(database.execute("select key, value from tags where run_uuid=?", (result["run_id"],)))
        run = "select runs.name, experiments.name from runs join experiments using (experiment_id) where run_uuid=?"
        assert database.execute(run, (result["run_id"],)).fetchall() == [("fit for a talk", "talk")]
    assert tags["team"] == "a"
    assert tags["mlflow.note.content"].split("\n\n")[1] == "for Monday"
    assert tags["pikavae.flow_run_id"].replace("-", "") == flow_run[0].replace("-", "")

    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "a.png").write_bytes(b"no picture")
    refused = subprocess.run(
        [*command, "--data.source", str(bad)], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith(f"pikavae: data.source '{bad}': none of its 1 pictures can be read (a.png: ")
    assert len(refused.stderr.splitlines()) == 1

    again = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert {s["status"] for s in json.loads(again.stdout.splitlines()[-1])["stages"].values()} == {"reused"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["up", "--mlflow-port", "99999"], "--mlflow-port 99999"),
        (["ui", "--port", "99999"], "--port 99999"),
        (["ui", "--run", "nothing"], "run:nothing: no such run"),
        (
            ["schedule", "demo", "--cron", "0 3 * * 1"],
            "no Prefect server runs for this state folder; start `pikavae up`",
        ),
        (["schedule", "--training.steps", "0"], "training.steps 0"),
    ],
)
def test_services_say_what_keeps_them_from_starting(capsys, words, complaint):
    status, out, err = run_cli(capsys, *words)
    assert (status, out) == (2, "")
    assert complaint in err
    assert len(err.strip().splitlines()) == 1


def test_a_prefect_server_that_is_away_is_named(capsys, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    for words, complaint in [
        (["run", "demo"], "PREFECT_API_URL http://127.0.0.1:9/api: no answer"),
        (["up"], "`up` starts a server of its own"),
        (["schedule", "list"], "PREFECT_API_URL http://127.0.0.1:9/api: no answer"),
    ]:
        status, _, err = run_cli(capsys, *words)
        assert (status, len(err.strip().splitlines())) == (2, 1)
        assert complaint in err
