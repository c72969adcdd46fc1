"""Free disk space around what is not whole: a prune that is killed, unfinished and half-made runs, lost records."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.cli import main
from pikavae.config import content_hash
from pikavae.operations.upkeep import retention
from pikavae.tracker import mlflow_files
from pikavae.tracker.mlflow_files import local_folder
from pikavae.training.state import STATE_NAME, read_state
from pikavae.training.worker import JOB_NAME
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import write_atomically
from pikavae.workspace.home import home
from tests.operations.retention.conftest import (
    KEPT,
    STEPS,
    assert_versions_are_whole,
    client,
    logged_steps,
    put_back,
    steps_of,
    tiny,
)
from tests.support import commands


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
    assert client().get_run(done["run_id"]).data.tags["mlflow.pikavae.start_step"] == "12"


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
