"""The process that trains, as a program: alone, several together, killed, told to stop, left by its parent."""

import json
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from pikavae.errors import UserError
from pikavae.training import worker
from pikavae.training.journal import JOURNAL_NAME, read_events
from pikavae.training.processes import Processes
from pikavae.training.worker import OUTCOME_NAME, Job
from pikavae.workspace.files import exclusive
from tests.support.places import ROOT
from tests.support.prepared_sets import make_prepared, random_pictures
from tests.support.trainings import weights
from tests.support.waiting import wait_for
from tests.training.conftest import make_config

EVERYTHING = {
    "data.image_size": 32,
    "data.flip": True,
    "training.batch_size": 4,
    "training.accumulation": 2,
    "training.ema_decay": 0.9,
    "loss.adversarial_weight": 0.5,
    "loss.adversarial_start": 0.2,
    "loss.adversarial_warmup": 0.2,
    "loss.equivariance": 0.4,
    "loss.kl_warmup": 0.5,
    "optimizer.learning_rate": 1e-3,
}
TIMED = ("per_second", "wait_fraction")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Ten pictures of 32 px to train on, and five to validate."""
    folder = tmp_path_factory.mktemp("prepared") / "set"
    drawn = random_pictures(15, (32, 32))
    return make_prepared(folder, drawn[:10], drawn[10:], image_size=32)


def write_job(folder, pictures, *, processes=1, **overrides):
    folder.mkdir(parents=True, exist_ok=True)
    config = make_config(**{**EVERYTHING, **overrides})
    Job(config, pictures.path, None, "cpu", 1, processes).write(folder)
    return folder


def start(folder):
    command = [sys.executable, "-m", "pikavae.training.worker", str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run(folder, status=0):
    process = start(folder)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == status, said
    return said


def curves(folder):
    events, _ = read_events(folder / JOURNAL_NAME)
    points = [(name, event.step, value) for event in events for name, value in event.values.items()]
    return [point for point in points if not point[0].endswith(TIMED)]


def told(folder):
    """The last step that the journal tells of."""
    return max((event.step for event in read_events(folder / JOURNAL_NAME)[0]), default=-1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, pictures):
    """The folder of an undisturbed run in one process."""
    folder = write_job(tmp_path_factory.mktemp("alone") / "run", pictures)
    run(folder)
    return folder


def test_two_processes_train_what_one_trains(tmp_path, pictures, alone):
    folder = write_job(tmp_path / "run", pictures, processes=2)
    run(folder)
    ours, theirs = weights(folder), weights(alone)
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=0, atol=1e-4, msg=partial("{}: {}".format, name))
    points, expected = curves(folder), curves(alone)
    assert [point[:2] for point in points] == [point[:2] for point in expected]  # told once, not once by each
    for (name, step, value), (_, _, other) in zip(points, expected, strict=True):
        assert value == pytest.approx(other, rel=2e-3, abs=1e-5), (name, step)


def test_two_processes_gather_the_statistics_of_latents_that_one_gathers(tmp_path, pictures):
    own = {"model.latent_norm": True, "loss.adversarial_weight": 0.0, "loss.equivariance": 0.0}
    for folder, processes in (("alone", 1), ("both", 2)):
        run(write_job(tmp_path / folder, pictures, processes=processes, **own))
    ours, theirs = weights(tmp_path / "both"), weights(tmp_path / "alone")
    assert theirs["bn.num_batches_tracked"] == ours["bn.num_batches_tracked"] > 0
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=1e-4, atol=1e-4, msg=partial("{}: {}".format, name))


def test_a_run_goes_on_with_another_number_of_processes_and_says_so(tmp_path, pictures, alone):
    folder = write_job(tmp_path / "run", pictures, processes=2)
    run(folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    shutil.rmtree(folder / "snapshots" / "step-00000006")
    write_job(folder, pictures, processes=1)
    assert "resumes with 1 processes instead of 2" in run(folder)
    for name, expected in weights(alone).items():
        torch.testing.assert_close(weights(folder)[name], expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("count", "batch"), [(3, 4), (2, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(count, batch):
    with pytest.raises(UserError, match=rf"training.batch_size {batch} cannot be shared by {count} processes"):
        Processes(0, count).share_of(batch)


def test_shares_are_the_whole_batch():
    indices = list(range(12))
    assert [index for rank in range(3) for index in indices[Processes(rank, 3).share_of(12)]] == indices


SLOW = {"training.steps": 10**6, "training.checkpoint_every": 10**6, "training.validate_every": 10**6}


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)])
def test_told_to_stop_it_saves_the_step_and_goes_on_later(tmp_path, pictures, processes, number):
    folder = write_job(tmp_path / "run", pictures, processes=processes, **SLOW)
    process = start(folder)
    wait_for(lambda: told(folder) >= 2)
    process.send_signal(number)
    said, _ = process.communicate(timeout=120)
    if processes == 1:
        assert process.returncode == 75, said
    outcome = json.loads((folder / OUTCOME_NAME).read_text())
    assert outcome["error"] == "PreemptedError", said
    (checkpoint,) = (folder / "checkpoints").iterdir()
    step = json.loads((checkpoint / "state.json").read_text())["step"]
    assert step == told(folder)  # every point is told, and no step is lost
    write_job(folder, pictures, **{**SLOW, "training.steps": step + 1})
    run(folder)
    assert json.loads((folder / OUTCOME_NAME).read_text())["result"]["start_step"] == step


LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "pikavae.training.worker", sys.argv[1]], start_new_session=True)
child.wait()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_it_ends_with_its_parent_however_that_died_and_saves(tmp_path, pictures, processes):
    folder = write_job(tmp_path / "run", pictures, processes=processes, **SLOW)
    parent = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(folder)], cwd=ROOT)
    wait_for(lambda: told(folder) >= 2)
    parent.kill()
    parent.wait()
    wait_for((folder / OUTCOME_NAME).exists)
    assert json.loads((folder / OUTCOME_NAME).read_text())["error"] == "PreemptedError"
    with exclusive(folder / "writer.lock", busy="it is still there", patience=30):
        assert list((folder / "checkpoints").glob("step-*"))


def test_a_second_writer_is_refused_and_leaves_the_outcome_to_the_first(tmp_path, pictures):
    folder = write_job(tmp_path / "run", pictures)
    (folder / OUTCOME_NAME).write_text("{}")
    program = "import sys; from pikavae.training import worker; worker.ORPHAN_SECONDS = 0.2; sys.exit(worker.main())"
    with exclusive(folder / "writer.lock"):
        command = [sys.executable, "-c", program, folder]
        second = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == worker.REFUSED
    assert "another process trains this run" in second.stderr
    assert (folder / OUTCOME_NAME).read_text() == "{}"
