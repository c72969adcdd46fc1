"""Free disk space: what goes is what nothing refers to."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta

import mlflow
import numpy as np
import pytest

from flows.cli import main
from pikavae.config import Config
from pikavae.errors import DamagedFileError, UserError
from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.operations.stages import keys
from pikavae.operations.upkeep import retention
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.run_log import RunLog
from pikavae.tracker.tags import SNAPSHOT_TAG, read_version_tags
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import exclusive
from pikavae.workspace.home import home
from pikavae.workspace.runs import run_folder
from tests.operations.retention.conftest import (
    DATABASE,
    KEPT,
    STEPS,
    assert_versions_are_whole,
    client,
    logged_models,
    logged_steps,
    steps_of,
    tiny,
)
from tests.support import commands


def listing(path):
    """Every name below a folder with the hash of its content; of the database, its rows."""
    names = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        for file in path.rglob("*")
        if file.name not in DATABASE
    }
    with closing(sqlite3.connect(path / "mlflow.db")) as opened:
        return names, list(opened.iterdump())


def test_best_last_and_what_is_referred_to_stay(run):
    assert steps_of(run, "snapshots") == logged_steps(run) == STEPS
    removed = commands.prune(keep=1)
    assert steps_of(run, "snapshots") == logged_steps(run) == KEPT
    assert steps_of(run, "checkpoints") == [12]
    for what in ("snapshot", "logged model"):
        assert sorted(item.step for item in removed if item.what == what) == [8, 10]
    assert all(item.bytes > 0 and item.run_id == run.run_id for item in removed)

    assert_versions_are_whole()
    read_snapshot(commands.find_model("champion", Config()))
    mlflow.set_tracking_uri(Workspace(home()).tracking_uri)
    champion = mlflow.pyfunc.load_model("models:/pikavae-production@champion")
    mlflow.set_tracking_uri(None)
    assert champion.predict(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 3, 16, 16)

    assert commands.prune(keep=1) == []
    assert commands.run(tiny())["stages"]["train"]["status"] == "reused"


def test_each_run_keeps_as_many_as_it_was_told(run):
    removed = commands.prune()
    assert {(item.what, item.step) for item in removed} == {("checkpoint", 10)}
    assert steps_of(run, "snapshots") == STEPS


def test_a_dry_run_changes_nothing_and_names_what_would_go(run):
    (run.path / "snapshots" / ".step-00000014.x.tmp").mkdir()
    before = listing(home())
    would_go = commands.prune(keep=1, dry_run=True)
    assert listing(home()) == before
    assert commands.prune(keep=1) == would_go
    assert listing(home()) != before


def test_a_dry_run_of_an_empty_home_makes_nothing():
    assert commands.prune(dry_run=True) == []
    assert not home().exists()


@pytest.mark.parametrize("lock", ["of the training's key", "in the run's folder"])
def test_a_run_whose_lock_is_held_is_not_touched(run, caplog, lock):
    key = home() / "runs" / f"{run.record.key}.lock"
    with exclusive(key if lock == "of the training's key" else run.path / "writer.lock"):
        assert commands.prune(keep=1) == []
    assert f"kept run {run.run_id}: its lock is held" in caplog.text
    assert steps_of(run, "snapshots") == STEPS


def test_a_run_that_is_evaluated_or_registered_now_is_not_touched(run, caplog):
    log = RunLog.resume(Workspace(home()).client, run.run_id)
    assert commands.prune(keep=1) == []
    assert "it is being evaluated or registered" in caplog.text
    log.end("FINISHED")
    assert commands.prune(keep=1) != []


def test_a_run_that_this_store_does_not_know_is_not_touched(run, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    before = listing(home())
    assert commands.prune(keep=1) == []
    assert listing(home()) == before


def test_nothing_goes_while_the_ledger_is_damaged(run):
    ledger = home() / "production" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace("a test", "no test"))
    before = listing(home())
    with pytest.raises(DamagedFileError, match="line 1 was edited"):
        commands.prune(keep=1)
    assert listing(home()) == before


def test_what_a_person_registered_from_a_checkpoint_stays(run):
    model = next(m for m in logged_models(run) if m.name == "step-00000008")
    client().create_registered_model("by hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", Workspace(home()).tracking_uri)
        client().create_model_version("by hand", model.artifact_location)
        client().create_model_version("by hand", run.snapshot("10").as_uri())
    commands.prune(keep=1)
    assert steps_of(run, "snapshots") == STEPS
    assert local_folder(model.artifact_location).is_dir()


def test_a_version_that_names_the_run_alone_keeps_all_its_snapshots(run, caplog):
    client().create_registered_model("by hand")
    client().create_model_version("by hand", f"runs:/{run.run_id}/model", run_id=run.run_id)
    commands.prune(keep=1)
    assert steps_of(run, "snapshots") == STEPS
    assert "by hand version 1" in caplog.text


@pytest.mark.parametrize("who", ["latents", "a run that began with it"])
def test_what_was_made_with_a_snapshot_keeps_it(run, who):
    digest = runs.snapshot_digest(run.snapshot("8"))
    if who == "latents":
        (home() / "latents" / "some").mkdir(parents=True)
        (home() / "latents" / "some" / "latents.json").write_text(json.dumps({"model": digest}))
    else:
        runs.create_run_folder(home(), "another", run.record.model_copy(update={"inputs": {keys.START: digest}}))
    commands.prune(keep=1)
    assert steps_of(run, "snapshots") == logged_steps(run) == [2, 4, 6, 8, 12]


def test_the_ledger_keeps_what_was_promoted_when_the_candidate_is_deleted(run, monkeypatch):
    monkeypatch.setattr(retention, "REGISTERING", timedelta(0))
    promoted = next(
        version
        for version in client().search_model_versions("name='pikavae'")
        if read_version_tags(version.tags)[SNAPSHOT_TAG] == runs.snapshot_digest(run.snapshot("6"))
    )
    client().delete_model_version("pikavae", promoted.version)
    client().delete_model_version("pikavae", "2")  # of step 4
    client().delete_model_version("pikavae-production", "1")
    packages = [model for model in logged_models(run) if model.model_type == "autoencoder"]
    removed = commands.prune(keep=1)
    assert steps_of(run, "snapshots") == [2, 6, 12]
    assert len([model for model in logged_models(run) if model.model_type == "autoencoder"]) == len(packages) - 2
    assert [item.reason for item in removed].count("the version that was made of it is deleted") == 2
    assert_versions_are_whole()


def test_files_that_a_version_is_about_to_be_made_of_stay(run):
    client().delete_model_version("pikavae", "2")
    packages = [model.model_id for model in logged_models(run) if model.model_type == "autoencoder"]
    commands.prune(keep=1)
    assert [model.model_id for model in logged_models(run) if model.model_type == "autoencoder"] == packages


def test_models_of_others_and_runs_of_others_are_not_touched(run):
    experiment = client().get_run(run.run_id).info.experiment_id
    stranger = client().create_run(experiment)
    theirs = [
        client().create_logged_model(experiment, name, run_id, params=params, model_type=kind).model_id
        for name, run_id, params, kind in [
            ("mine", run.run_id, {"step": "2"}, "checkpoint"),
            ("step-00000002", stranger.info.run_id, {"step": "2"}, "checkpoint"),
            ("autoencoder", run.run_id, {"step": "2"}, "autoencoder"),
            ("anything", run.run_id, {}, "classifier"),
        ]
    ]
    commands.prune(keep=1)
    assert {model.model_id for model in logged_models(run)} >= set(theirs)


def test_a_logged_model_whose_snapshot_is_gone_goes(run):
    shutil.rmtree(run.snapshot("8"))
    removed = commands.prune()
    assert [(item.step, item.reason) for item in removed if item.what == "logged model"] == [
        (8, "its snapshot is gone or goes")
    ]
    assert logged_steps(run) == [2, 4, 6, 10, 12]


def test_a_snapshot_without_weights_is_none(run):
    (run.snapshot("8") / WEIGHTS_NAME).unlink()
    commands.prune(keep=1)
    assert steps_of(run, "snapshots") == KEPT


def test_what_killed_writers_left_goes_unless_somebody_writes_there(run):
    report = next(path for path in (home() / "evaluations").iterdir() if path.is_dir())
    for folder in (run.path, run.path / "checkpoints", run.path / "previews"):
        (folder / ".half.0123.tmp").write_bytes(b"1234")
    left = home() / "evaluations" / f".{report.name}.0123.tmp"
    left.mkdir()
    with exclusive(report.with_suffix(".lock")):
        removed = commands.prune()
        assert left.is_dir()
    assert [item.bytes for item in removed if item.what == "leftover"] == [4, 4, 4]
    assert [item.where for item in commands.prune()] == [str(left)]
    assert not left.exists()
    assert not list(run.path.rglob(".*"))


def test_an_imported_model_and_a_run_without_a_checkpoint_stop_no_prune(run):
    imported = commands.import_model(str(run.snapshot("4")), tiny(**{"registry.model_name": "imports"})).version
    runs.create_run_folder(home(), "another", run.record.model_copy(update={"key": "of another"}))
    commands.prune(keep=1)
    assert run_folder(home(), imported.run_id).snapshot().is_dir()


def test_fewer_than_one_cannot_be_kept():
    with pytest.raises(UserError, match="--keep 0: at least the last snapshot of each run stays"):
        commands.prune(keep=0)


def test_the_command_lists_what_would_go_and_then_removes_it(run, capsys, caplog):
    assert main(["prune", "--keep", "1", "--dry-run"]) == 0
    would_go = capsys.readouterr().out.splitlines()
    assert f"kept snapshot, run {run.run_id} step 2, " in caplog.text
    assert any(line.startswith(f"would go snapshot, run {run.run_id} step 8, ") for line in would_go)
    assert main(["prune", "--keep", "1", "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["dry_run"] is False
    assert len(done["removed"]) == len(would_go) - 1
    assert all(set(item) == {"what", "run_id", "step", "bytes"} for item in done["removed"])
    assert done["bytes"] == sum(item["bytes"] for item in done["removed"]) > 0
    assert main(["prune", "--keep", "1"]) == 0
    assert capsys.readouterr().out == "0 things, 0.0 MB removed.\n"
