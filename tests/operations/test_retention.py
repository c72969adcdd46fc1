"""Free disk space: what goes is what nothing refers to, whatever happens meanwhile."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from flows.cli import main
from pikavae.config import Config, content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.operations import keys, retention
from pikavae.presets import load_config
from pikavae.registry.package import file_hashes
from pikavae.tracker import mlflow_files
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.run_log import RunLog
from pikavae.training.state import STATE_NAME, read_state
from pikavae.training.worker import JOB_NAME
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import exclusive, write_atomically
from pikavae.workspace.home import home
from pikavae.workspace.runs import run_folder, step_of
from tests.conftest import TINY
from tests.support import commands
from tests.support.promoting import promote

DATABASE = ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm")
STEPS = [2, 4, 6, 8, 10, 12]


def tiny(**overrides):
    numbers = {name: json.loads(v) if isinstance(v, str) else [int(x) for x in v] for name, v in TINY.items()}
    small = {"training.steps": STEPS[-1], "training.keep_checkpoints": 6, "data.sprites_count": 8}
    return load_config("demo", {**numbers, **small, **overrides})


def client():
    return MlflowClient(Workspace(home()).tracking_uri)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with one finished run of six snapshots, of which 4 and the last are registered and 6 is promoted."""
    path = tmp_path_factory.mktemp("made") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        run_id = commands.run(tiny())["run_id"]
        commands.register_model(f"run:{run_id}@4", tiny())
        promote(f"run:{run_id}@6", tiny(), reason="a test")
        run = run_folder(path, run_id)
        run.finish(run.result.model_copy(update={"best_step": 2}))  # so small a training gets better to the end
    copy = path.with_name("copy")
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(*DATABASE))
    copy_database(path / "mlflow.db", copy / "mlflow.db")
    return path, copy, run_id


@pytest.fixture
def run(monkeypatch, isolated, made):
    """The finished run's folder, in that home as it was made. It is put back in its place: addresses are absolute."""
    path, copy, run_id = made
    monkeypatch.setenv("PIKAVAE_HOME", str(path))
    yield run_folder(path, run_id)
    put_back(path, copy)


def put_back(path, copy):
    for name in [path, *path.rglob("*")]:
        if name.is_dir():
            name.chmod(0o755)
    for name in path.iterdir():
        if name.is_dir():
            shutil.rmtree(name)
        elif name.name not in DATABASE:
            name.unlink()
    shutil.copytree(copy, path, ignore=shutil.ignore_patterns(*DATABASE), dirs_exist_ok=True)
    copy_database(copy / "mlflow.db", path / "mlflow.db")


def copy_database(source, target):
    """Through SQLite, into the same file: MLflow keeps connections open."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def steps_of(run, kind):
    return [step_of(path) for path in sorted((run.path / kind).glob("step-*"))]


def logged_models(run):
    return client().search_logged_models([client().get_run(run.run_id).info.experiment_id])


def logged_steps(run):
    """Steps of the run's checkpoints in MLflow; each has its bytes, and there are no others."""
    models = logged_models(run)
    folders = {local_folder(model.artifact_location) for model in models}
    root = local_folder(client().get_run(run.run_id).info.artifact_uri).parents[1]
    assert {path for path in root.glob("models/*/artifacts") if any(path.iterdir())} == folders
    return sorted(int(model.params["step"]) for model in models if model.model_type == "checkpoint")


def listing(path):
    """Every name below a folder with the hash of its content; of the database, its rows."""
    names = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        for file in path.rglob("*")
        if file.name not in DATABASE
    }
    with closing(sqlite3.connect(path / "mlflow.db")) as opened:
        return names, list(opened.iterdump())


KEPT = [2, 4, 6, 12]
"""Steps that stay with --keep 1: the best, two that are registered, and the last; 8 and 10 are free."""


def assert_versions_are_whole():
    for version in client().search_model_versions():
        files = local_folder(client().get_model_version_download_uri(version.name, version.version))
        assert file_hashes(files) == json.loads(version.tags["pikavae.manifest"])


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


class Killed(BaseException):
    """The end of the process, as far as a test in the same process can have it."""


def dies_after(monkeypatch, count, *, torn):
    """Let the process end at the `count`-th change to disk or store: before it, or (`torn`) half way through it."""
    left = [count]

    def deadly(real, torn_real):
        def change(*args, **kwargs):
            left[0] -= 1
            if left[0] > 0:
                return real(*args, **kwargs)
            if torn:
                torn_real(*args, **kwargs)
            raise Killed

        return change

    def delete_half(folder):
        for file in sorted(Path(folder).iterdir())[:1]:
            file.unlink() if file.is_file() else shutil.rmtree(file)

    rmtree, rename, write, unlink = shutil.rmtree, Path.rename, write_atomically, Path.unlink
    delete_files, delete_record = mlflow_files.delete_files, MlflowClient.delete_logged_model

    def delete_half_the_files(client, location):
        delete_half(local_folder(location))

    monkeypatch.setattr(retention, "write_atomically", deadly(write, write))
    for module in (retention, mlflow_files):
        monkeypatch.setattr(module, "delete_files", deadly(delete_files, delete_half_the_files))
    monkeypatch.setattr(MlflowClient, "delete_logged_model", deadly(delete_record, delete_record))
    monkeypatch.setattr(shutil, "rmtree", deadly(rmtree, delete_half))
    monkeypatch.setattr(Path, "rename", deadly(rename, rename))
    monkeypatch.setattr(Path, "unlink", deadly(unlink, unlink))


@pytest.mark.parametrize("torn", [False, True])
def test_after_a_kill_at_any_moment_the_next_prune_finishes_and_nothing_referred_to_is_lost(
    run, made, monkeypatch, torn
):
    home_path, copy, _ = made
    moment, was_killed = 0, True
    while was_killed:
        moment += 1
        assert moment < 60
        was_killed = False
        for count in (moment, 3):  # the second prune is killed as well
            with monkeypatch.context() as patch:
                dies_after(patch, count, torn=torn)
                try:
                    commands.prune(keep=1)
                except Killed:
                    was_killed |= count == moment
            assert set(KEPT) <= set(steps_of(run, "snapshots"))
            for step in steps_of(run, "snapshots"):  # none is there in part
                read_snapshot(run.snapshot(str(step)))
        commands.prune(keep=1)
        assert steps_of(run, "snapshots") == logged_steps(run) == KEPT
        assert steps_of(run, "checkpoints") == [12]
        assert not [name for name in run.path.rglob("*") if name.name.startswith(".")]
        assert not (run.path / retention.LIST_NAME).exists()
        assert_versions_are_whole()
        assert commands.prune(keep=1) == []
        put_back(home_path, copy)
    assert moment > 10


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
        if version.tags["pikavae.snapshot"] == runs.snapshot_digest(run.snapshot("6"))
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


@pytest.fixture
def unfinished(run):
    """The run as if it had been killed after its last checkpoint, with two older states than training leaves."""
    (run.path / runs.TRAIN_NAME).unlink()
    for step in ("06", "08"):
        shutil.copytree(run.path / "checkpoints" / "step-00000010", run.path / "checkpoints" / f"step-000000{step}")
    return run


def test_an_unfinished_run_keeps_two_states_its_best_and_its_last_and_goes_on(unfinished, monkeypatch):
    scores = {"scores": {str(step): float(step == 8) for step in STEPS}}
    with monkeypatch.context() as patch:
        patch.setattr(retention, "read_state", lambda folder: read_state(folder).model_copy(update=scores))
        commands.prune(keep=1)
    assert steps_of(unfinished, "checkpoints") == [10, 12]
    assert steps_of(unfinished, "snapshots") == logged_steps(unfinished) == [4, 6, 8, 12]
    done = commands.run(tiny())
    assert done["run_id"] == unfinished.run_id
    assert client().get_run(done["run_id"]).data.tags["pikavae.start_step"] == "12"


def test_a_damaged_state_does_not_count_as_one_to_resume_from(unfinished):
    (unfinished.path / "checkpoints" / "step-00000012" / "optimizer.pt").write_bytes(b"rot")
    commands.prune()
    assert steps_of(unfinished, "checkpoints") == [8, 10, 12]


def test_where_no_checkpoint_tells_the_best_all_snapshots_stay(unfinished):
    shutil.rmtree(unfinished.path / "checkpoints")
    commands.prune(keep=1)
    assert steps_of(unfinished, "snapshots") == STEPS


def stopped_before_the_first_score(run):
    """Its only state has no scores."""
    (run.path / runs.TRAIN_NAME).unlink()
    for step in STEPS[:-1]:
        shutil.rmtree(run.path / "checkpoints" / f"step-{step:08d}", ignore_errors=True)
    folder = run.path / "checkpoints" / "step-00000012"
    values = {**read_state(folder).content(), "scores": {}}
    (folder / STATE_NAME).write_text(json.dumps({**values, "digest": content_hash(values)}))


def stopped_before_the_first_checkpoint(run):
    (run.path / runs.TRAIN_NAME).unlink()
    shutil.rmtree(run.path / "checkpoints")
    shutil.rmtree(run.path / "snapshots")


def emptied(run):
    for path in run.path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def with_things_of_others(run):
    """Somebody's copies lie beside the snapshots and the states."""
    for folder in ("snapshots", "checkpoints"):
        shutil.copytree(run.path / folder / "step-00000012", run.path / folder / "step-00000012 (copy)")
        (run.path / folder / "step-00000002.zip").write_bytes(b"zip")


def with_a_cut_result(run):
    (run.path / runs.TRAIN_NAME).write_text('{"best_')


def without_a_best_step(run):
    (run.path / runs.TRAIN_NAME).write_text("{}")


def deleted_in_mlflow(run):
    client().delete_run(run.run_id)


def without_artifacts_in_mlflow(run):
    shutil.rmtree(local_folder(client().get_run(run.run_id).info.artifact_uri).parent)


@pytest.mark.parametrize(
    "half_made",
    [
        stopped_before_the_first_score,
        stopped_before_the_first_checkpoint,
        emptied,
        with_things_of_others,
        with_a_cut_result,
        without_a_best_step,
        deleted_in_mlflow,
        without_artifacts_in_mlflow,
    ],
)
def test_a_run_that_is_not_as_a_finished_one_is_stops_no_prune(run, half_made, caplog):
    """Of such a run nothing is lost that was there; a leftover elsewhere is still found."""
    half_made(run)
    before = {path for path in run.path.rglob("*") if "(copy)" in path.name or path.suffix == ".zip"}
    snapshots = [] if half_made is emptied else list(runs.folders_by_step(run.path / "snapshots"))
    left = home() / "evaluations" / ".some.0123.tmp"
    left.mkdir()
    for dry_run in (True, False):
        assert str(left) in [item.where for item in commands.prune(dry_run=dry_run)]
    assert all(path.exists() for path in before)
    assert list(runs.folders_by_step(run.path / "snapshots")) == snapshots
    if half_made in (with_a_cut_result, without_a_best_step):
        assert f"kept run {run.run_id}: its train.json cannot be read" in caplog.text


RECORDS = {"cut": b'{"key": "0123', "empty": b"", "other": b"[]", "gone": None}


def write_record(path, damage):
    if RECORDS[damage] is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(RECORDS[damage])


def lost_run(run, damage):
    """Another run, whose record is damaged."""
    lost = run.path.with_name("0f0f")
    shutil.copytree(run.path, lost)
    write_record(lost / runs.RUN_NAME, damage)
    return lost


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", RECORDS)
def test_a_run_without_its_record_is_named_and_the_others_are_pruned(run, damage, capsys, caplog):
    lost = lost_run(run, damage)
    before = files_of(lost)
    assert main(["prune", "--keep", "1", "--dry-run"]) == 0
    assert steps_of(run, "snapshots") == STEPS
    assert main(["prune", "--keep", "1"]) == 0
    assert f"kept run {lost.name}: its run.json is missing or damaged" in caplog.text
    assert steps_of(run, "snapshots") == logged_steps(run) == KEPT
    assert files_of(lost) == before


@pytest.mark.parametrize("damage", RECORDS)
def test_what_a_run_without_its_record_began_with_stays(run, damage, capsys):
    lost = lost_run(run, damage)
    job = json.loads((lost / JOB_NAME).read_text())
    (lost / JOB_NAME).write_text(json.dumps({**job, "start": str(run.snapshot("8"))}))
    commands.prune(keep=1)
    assert steps_of(run, "snapshots") == sorted([*KEPT, 8])
    write_record(lost / JOB_NAME, damage)
    before = files_of(home() / "runs")
    assert main(["prune", "--keep", "1"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"pikavae: {lost}: run.json and job.json are missing or damaged")
    assert files_of(home() / "runs") == before


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
