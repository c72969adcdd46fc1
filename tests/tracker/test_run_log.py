from __future__ import annotations

import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from pikavae.errors import PikavaeError, UserError
from pikavae.tracker import queries, run_log, ui
from pikavae.tracker.checkout import git_tags
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    # A blank and an accent: paths are written into addresses.
    return tmp_path_factory.mktemp("state of Zoé")


@pytest.fixture(autouse=True)
def _no_other_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def client(home):
    return Workspace(home).client


@pytest.fixture
def experiment(client, home, request):
    return Workspace(home).experiment_id(request.node.name)


def start(client, experiment, **given):
    return run_log.RunLog.start(client, experiment, "a run", **({"tags": {}, "params": {}} | given))


def curve(client, log, key):
    return [(point.step, point.value) for point in client.get_metric_history(log.run_id, key)]


def test_the_environment_names_the_store_before_the_home_does(home, monkeypatch):
    assert Workspace(home).tracking_uri == f"sqlite:///{home}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert Workspace(home).tracking_uri == "http://tracker:5000"


def test_our_database_lies_in_the_home_in_wal_mode(client, home):
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.slow
def test_processes_that_make_one_new_database_at_once_all_succeed_and_call_nobody(tmp_path):
    code = f"""
from pathlib import Path
from pikavae.tracker.client import Workspace
Workspace(Path({str(tmp_path)!r})).client
from mlflow.telemetry.client import get_telemetry_client
assert get_telemetry_client() is None
"""
    # Without what tells MLflow that this is a test, where it never calls home.
    clean = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "CI", "GITHUB", "MLFLOW"))
    }
    clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(run_log.__file__).parents[2])}
    clean.pop("DO_NOT_TRACK", None)
    processes = [subprocess.Popen([sys.executable, "-c", code], env=clean, cwd=tmp_path) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_a_dead_server_is_told_at_once_by_its_variable(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(PikavaeError, match=r"MLFLOW_TRACKING_URI http://127\.0\.0\.1:9: no answer"):
        _ = Workspace(home).client
    assert time.monotonic() - begin < 10


def test_a_store_that_mlflow_refuses_is_the_users_mistake(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{tmp_path}/mlruns")
    with pytest.raises(PikavaeError, match="mlruns") as caught:
        _ = Workspace(home).client
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database " * 100)
    with pytest.raises(PikavaeError, match=r"mlflow\.db"):
        _ = Workspace(tmp_path).client


def test_experiments_keep_their_files_below_the_home_wherever_one_stands(client, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = [Workspace(home).experiment_id(name) for name in ("faces / 64", "faces ? 64", "faces / 64")]
    assert ids[0] == ids[2] != ids[1]
    folders = [local_folder(client.get_experiment(key).artifact_location) for key in ids]
    assert folders[0].parent == folders[1].parent == home / "artifacts"
    assert folders[0] != folders[1]
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_experiment_is_told_with_its_remedy(client, home):
    client.delete_experiment(Workspace(home).experiment_id("gone"))
    with pytest.raises(UserError, match=r"tracking\.experiment 'gone'.*mlflow experiments restore"):
        Workspace(home).experiment_id("gone")


def test_a_run_holds_its_parameters_tags_and_note(client, experiment):
    params = {"a.none": None, "a.list": [1, 2], "a.flag": True, "a.text": "word", "a.long": "x" * 7000}
    params |= {f"b.field{number}": number for number in range(250)}
    log = start(client, experiment, params=params, tags={"pikavae.run_key": "k"})
    log.set_note("# Title")
    run = client.get_run(log.run_id)
    assert run.info.run_name == log.name == "a run"
    assert run.info.status == "RUNNING"
    assert len(run.data.params) == 255
    expected = {"a.none": "null", "a.list": "[1, 2]", "a.flag": "true", "a.text": "word", "b.field249": "249"}
    assert expected.items() <= run.data.params.items()
    assert len(run.data.params["a.long"]) == 6000
    tags = {"pikavae.run_key": "k", "mlflow.note.content": "# Title", "mlflow.source.name": "pikavae"}
    assert tags.items() <= run.data.tags.items()


def test_points_arrive_in_batches_and_all_of_them(client, experiment):
    log = start(client, experiment)
    log.log({"train/loss": 3.0}, 1)
    assert curve(client, log, "train/loss") == []
    for step in range(2, 700):
        log.log({"train/loss": step * 1.0}, step)
    log.end("FINISHED")
    assert curve(client, log, "train/loss") == [(1, 3.0)] + [(step, step * 1.0) for step in range(2, 700)]
    assert client.get_run(log.run_id).info.status == "FINISHED"


def test_points_do_not_wait_longer_than_two_seconds(client, experiment, monkeypatch):
    log = start(client, experiment)
    log.log({"train/loss": 3.0}, 1)
    later = time.monotonic() + 2.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    log.log({"train/loss": 2.0}, 2)
    assert len(curve(client, log, "train/loss")) == 2


def test_a_point_that_is_measured_again_is_the_one_that_counts(client, experiment):
    log = start(client, experiment)
    log.log({"val/psnr": 20.0}, 2, time_ms=1000)
    log.log({"val/psnr": 21.0}, 2, time_ms=2000)
    log.log({"val/psnr": 22.0}, 2, again=True, time_ms=3000)
    log.flush()
    points = client.get_metric_history(log.run_id, "val/psnr")
    assert [(point.step, point.value, point.timestamp) for point in points] == [(2, 20.0, 1000), (2, 22.0, 3000)]
    assert client.get_run(log.run_id).data.metrics == {"val/psnr": 22.0}


def test_nan_is_kept(client, experiment):
    log = start(client, experiment)
    log.log({"train/loss": math.nan}, 1)
    log.flush()
    assert math.isnan(client.get_run(log.run_id).data.metrics["train/loss"])


def test_a_resumed_run_repeats_no_point_and_no_picture(client, experiment):
    picture = Image.new("RGB", (8, 8), "red")
    log = start(client, experiment)
    for step in (1, 2, 3):
        log.log({"train/loss": step * 1.0}, step)
        log.log_image("val/preview", picture, step)
    log.log({"val/psnr": 20.0}, 2)
    log.end("FAILED")
    resumed = run_log.RunLog.resume(client, log.run_id)
    assert (resumed.run_id, resumed.name, resumed.experiment_id) == (log.run_id, log.name, experiment)
    assert client.get_run(log.run_id).info.status == "RUNNING"
    for step in (2, 3, 4):
        resumed.log({"train/loss": step * 10.0, "val/psnr": step * 10.0}, step)
        resumed.log_image("val/preview", picture, step)
    resumed.end("FINISHED")
    assert curve(client, log, "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]
    assert curve(client, log, "val/psnr") == [(2, 20.0), (3, 30.0), (4, 40.0)]
    files = [Path(file.path).name for file in client.list_artifacts(log.run_id, "images")]
    steps = [int(name.split("+")[2]) for name in files if name.endswith(".png")]
    assert sorted(steps) == [1, 2, 3, 4]


def stored_images(client, log):
    """The series, step and kind of each file of a picture, and its bytes."""
    files = [Path(client.download_artifacts(log.run_id, f.path)) for f in client.list_artifacts(log.run_id, "images")]
    return sorted((file.name.split("+timestamp")[0] + file.suffix, file.read_bytes()) for file in files)


@pytest.mark.parametrize("call", ["picture", "thumbnail", "tag"])
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("resumed", [False, True])
def test_an_upload_that_failed_anywhere_leaves_each_picture_once_and_whole(
    client, experiment, monkeypatch, call, torn, resumed
):
    pictures = [Image.effect_noise((300, 200), 60 + step) for step in range(3)]
    undisturbed, log = start(client, experiment), start(client, experiment)
    for step in range(3):
        undisturbed.log_image("val/preview", pictures[step], step)
    log.log_image("val/preview", pictures[0], 0)
    store = client.log_artifact

    def upload(run_id, path, *folder):
        if Path(path).suffix != {"picture": ".png", "thumbnail": ".webp"}.get(call):
            return store(run_id, path, *folder)
        if torn:
            Path(path).write_bytes(Path(path).read_bytes()[:100])
            store(run_id, path, *folder)
        raise ConnectionError("cut off")

    def set_tag(*_):
        raise ConnectionError("cut off")

    with monkeypatch.context() as broken:
        broken.setattr(client, "log_artifact", upload)
        broken.setattr(client, "set_tag", set_tag)
        with pytest.raises(ConnectionError):
            log.log_image("val/preview", pictures[1], 1)
    if resumed:
        log = run_log.RunLog.resume(client, log.run_id)
    for step in range(3):
        log.log_image("val/preview", pictures[step], step)
    assert len(stored_images(client, log)) == 6
    assert stored_images(client, log) == stored_images(client, undisturbed)


def test_files_and_texts_are_kept(client, experiment, tmp_path):
    (tmp_path / "report.html").write_text("<p>")
    log = start(client, experiment)
    log.log_file(tmp_path / "report.html", "evaluation")
    log.log_text("seed: 0", "config.yaml")
    assert {file.path for file in client.list_artifacts(log.run_id)} == {"evaluation", "config.yaml"}
    assert [file.path for file in client.list_artifacts(log.run_id, "evaluation")] == ["evaluation/report.html"]


def test_data_sets_are_recorded_once_under_our_digest(client, experiment):
    log = start(client, experiment)
    for _ in range(2):
        log.log_dataset("emoji", "d" * 36, "training", num_rows=3, source="hub:a/b")
    (found,) = client.get_run(log.run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("emoji", "d" * 36)
    assert json.loads(found.dataset.profile) == {"num_rows": 3}
    assert {tag.key: tag.value for tag in found.tags} == {"mlflow.data.context": "training"}


@pytest.fixture
def snapshot(tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_checkpoints_are_logged_models_with_scores_on_the_validation_set(client, experiment, snapshot):
    log = start(client, experiment)
    log.log_dataset("emoji", "abc", "validation", num_rows=3, source="x")
    for step in (200, 100):
        log.log({"val/psnr": step / 10}, step)
        log.log_checkpoint(snapshot, step, {"val/psnr": step / 10})
    kept = log.checkpoints()
    assert [(checkpoint.step, checkpoint.metrics) for checkpoint in kept] == [
        (100, {"val/psnr": 10.0}),
        (200, {"val/psnr": 20.0}),
    ]
    assert (local_folder(kept[0].location) / "config.json").read_text() == "{}"
    assert curve(client, log, "val/psnr").count((200, 20.0)) == 1
    (metric,) = client.get_logged_model(kept[0].model_id).metrics
    assert (metric.dataset_name, metric.dataset_digest) == ("emoji", "abc")
    outputs = client.get_run(log.run_id).outputs.model_outputs
    assert {(output.model_id, output.step) for output in outputs} == {(one.model_id, one.step) for one in kept}


def test_a_resumed_run_reuses_a_whole_checkpoint_and_replaces_a_part(client, experiment, snapshot):
    log = start(client, experiment)
    whole = log.log_checkpoint(snapshot, 100, {"val/psnr": 10.0})
    part = client.create_logged_model(experiment, "step-00000200", log.run_id, {}, {"step": "200"}, "checkpoint")
    resumed = run_log.RunLog.resume(client, log.run_id)
    assert resumed.log_checkpoint(snapshot, 100, {"val/psnr": 10.0}) == whole
    assert resumed.log_checkpoint(snapshot, 200, {"val/psnr": 20.0}) != part.model_id
    assert [checkpoint.step for checkpoint in resumed.checkpoints()] == [100, 200]
    assert curve(client, log, "val/psnr") == [(100, 10.0), (200, 20.0)]


def test_a_dropped_checkpoint_leaves_no_bytes(client, experiment, snapshot):
    log = start(client, experiment)
    log.log_checkpoint(snapshot, 100, {})
    (checkpoint,) = log.checkpoints()
    log.drop_checkpoint(100)
    assert log.checkpoints() == []
    assert not local_folder(checkpoint.location).exists()


def test_attempts_are_listed_once_each(client, experiment):
    log = start(client, experiment)
    for attempt in ("one", "two", "one"):
        log.add_attempt(attempt)
    log.set_tags({"pikavae.stage": "train"})
    log.set_note("done")
    tags = client.get_run(log.run_id).data.tags
    assert (tags["mlflow.pikavae.flow_run_ids"], tags["pikavae.stage"]) == ("one,two", "train")
    assert tags["mlflow.note.content"] == "done"


def test_runs_are_found_by_all_their_tags_newest_first(client, experiment):
    logs = [start(client, experiment, tags={"pikavae.run_key": "k", "pikavae.n": str(n)}) for n in (1, 2)]
    start(client, experiment, tags={"pikavae.run_key": "other"})
    logs[0].end("FINISHED")
    found = queries.query_runs(client, experiment, {"pikavae.run_key": "k"})
    assert [(run.run_id, run.status) for run in found] == [(logs[1].run_id, "RUNNING"), (logs[0].run_id, "FINISHED")]
    (second,) = queries.query_runs(client, experiment, {"pikavae.run_key": "k", "pikavae.n": "2"})
    assert second.tags["pikavae.n"] == "2"


def test_a_run_exists_until_it_is_deleted(client, experiment):
    log = start(client, experiment)
    assert queries.get_run(client, log.run_id).name == log.name
    client.delete_run(log.run_id)
    assert queries.get_run(client, log.run_id) is None
    assert queries.get_run(client, "0" * 32) is None


def test_the_address_of_a_run_opens_the_mode_with_the_registry():
    assert (
        ui.ui_url("http://127.0.0.1:5000/", "3", "abc")
        == "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning"
    )


def test_a_store_that_is_a_server_needs_no_other(home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    with pytest.raises(UserError, match="http://tracker:5000"):
        ui.ui_argv(Workspace(home), 5000)


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "file").write_text("one")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "first")
    return folder


def git(folder, *arguments):
    subprocess.run(["git", "-C", folder, *arguments], check=True)


def test_git_tags_tell_a_clean_checkout_from_each_change(checkout):
    clean = git_tags(checkout)
    (checkout / "file").write_text("two")
    two = git_tags(checkout)
    (checkout / "file").write_text("three")
    three = git_tags(checkout)
    assert len(clean["mlflow.source.git.commit"]) == 40
    assert clean["mlflow.source.git.commit"] == two["mlflow.source.git.commit"]
    assert clean["pikavae.git.dirty"] == ""
    assert (
        len(
            {
                clean["pikavae.git.dirty"],
                two["pikavae.git.dirty"],
                three["pikavae.git.dirty"],
            }
        )
        == 3
    )


def test_a_folder_that_is_no_part_of_a_checkout_has_no_git_tags(checkout, tmp_path):
    (checkout / "site-packages").mkdir()
    assert git_tags(tmp_path) == {}
    assert git_tags(checkout / "site-packages") == {}
