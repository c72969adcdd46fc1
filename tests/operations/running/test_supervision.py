"""Training apart from us: what comes back when it crashes, when we are told to stop, when the tracker goes away."""

import json
import resource
import signal
import subprocess
import sys
import threading

import pytest
from mlflow import MlflowClient

from pikavae.errors import BusyError, PikavaeError, TransientError
from pikavae.operations.running import supervision
from pikavae.tracker import delivery
from pikavae.tracker.client import Workspace
from pikavae.training.journal import read_events
from pikavae.training.worker import REFUSED
from pikavae.workspace.home import home
from tests.operations.running.test_pipeline import points
from tests.support import commands
from tests.support.configs import tiny
from tests.support.mlflow_server import free_port, mlflow_server
from tests.support.places import ROOT
from tests.support.waiting import wait_for

LONG = {"training.steps": 10**6, "training.checkpoint_every": 10**6, "training.validate_every": 10**6}


def only_run():
    client = MlflowClient(tracking_uri=Workspace(home()).tracking_uri)
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    return run


def told():
    """The last step of the only journal."""
    journals = list((home() / "runs").glob("*/journal.jsonl"))
    return max((event.step for path in journals for event in read_events(path)[0]), default=-1)


@pytest.mark.parametrize("threshold", [None, "131072"])
def test_training_keeps_what_a_step_frees_unless_the_environment_says_otherwise(monkeypatch, threshold):
    step = "step = lambda: len([torch.ones(2**20) for _ in range(8)])"  # 8 tensors of 4 MiB that live together
    faults = "resource.getrusage(resource.RUSAGE_SELF).ru_minflt"
    steps = "[step() for _ in range(20)]"
    code = f"import resource, torch; {step}; step(); before = {faults}; {steps}; print({faults} - before)"
    for name in supervision.KEEP_FREED_MEMORY:
        monkeypatch.delenv(name, raising=False)
        if threshold:
            monkeypatch.setenv(name, threshold)
    command, environment = [sys.executable, "-c", code], supervision._environment()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    pages = 20 * 8 * 2**22 / resource.getpagesize()
    assert (int(done.stdout) > pages / 2) == bool(threshold)


def test_a_training_that_gets_no_further_is_given_up_and_says_where_and_how(disturb):
    disturb("kill", 1, always=True)
    with pytest.raises(PikavaeError, match=r"ended with signal 9 .* kept up to its beginning.*training.log"):
        commands.run(tiny())
    assert only_run().info.status == "FAILED"


def test_memory_that_runs_out_ends_the_run_with_advice(disturb):
    disturb("run out of memory", 3, always=True)
    with pytest.raises(PikavaeError, match=r"more than the device's 11\.91 GiB had left; .*batch_size 1 with"):
        commands.run(tiny())
    assert only_run().info.status == "FAILED"


def test_another_process_in_the_run_is_no_crash_to_be_made_good(monkeypatch):
    attempts = []

    def refused(folder, *_):
        attempts.append(folder)
        return REFUSED, None

    monkeypatch.setattr(supervision, "_run", refused)
    with pytest.raises(BusyError, match="another process trains in this run"):
        commands.run(tiny())
    assert len(attempts) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_is_told_to_stop_saves_and_ends_its_run_as_killed(number, tiny_flags):
    command = [sys.executable, "-m", "flows.cli", "train", "demo", *tiny_flags]
    flags = [word for name, value in LONG.items() for word in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [*command, *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background, SIGINT is ignored, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no other thread runs here
    )
    wait_for(lambda: told() >= 3)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert "the same command resumes from the last checkpoint" in said
    assert only_run().info.status == "KILLED"
    (checkpoint,) = (home() / "runs").glob("*/checkpoints/step-*")
    assert json.loads((checkpoint / "state.json").read_text())["step"] == told()
    curve = MlflowClient(tracking_uri=Workspace(home()).tracking_uri).get_metric_history(
        only_run().info.run_id, "train/loss"
    )
    assert [point.step for point in curve] == list(range(1, told() + 1))  # all that was told is delivered


def test_a_server_that_goes_away_and_comes_back_has_every_point_once(tmp_path, monkeypatch, caplog):
    undisturbed = commands.run(tiny(**{"training.steps": 60}))
    expected = points(undisturbed["run_id"])
    store, port = tmp_path / "server", free_port()
    store.mkdir()
    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(delivery, "SECONDS_BETWEEN_TRIES", 0.5)
    results = []
    with mlflow_server(store, port):
        prepared = commands.prepare(tiny(**{"training.steps": 60}))
        thread = threading.Thread(
            target=lambda: results.append(commands.train(tiny(**{"training.steps": 60}), prepared))
        )
        thread.start()
        wait_for(lambda: told() >= 5)
    wait_for(lambda: list((home() / "runs").glob("*/outcome.json")))  # training ends without the server
    wait_for(lambda: "training continues, and its points are delivered later" in caplog.text)
    with mlflow_server(store, port):
        thread.join(120)
        (trained,) = results
        found = points(trained.run.run_id)
        assert "everything is delivered" in caplog.text
        assert {name: found[name] for name in found if name.startswith(("train/", "weighted/"))} == {
            name: expected[name] for name in expected if name.startswith(("train/", "weighted/"))
        }
        client = MlflowClient(tracking_uri=Workspace(home()).tracking_uri)
        assert client.get_run(trained.run.run_id).info.status == "FINISHED"
        images = client.list_artifacts(trained.run.run_id, "images")
        assert sum("reconstructions" in image.path and image.path.endswith(".png") for image in images) == 31


def test_a_server_that_stays_away_keeps_nothing_but_the_record_waiting(tmp_path, monkeypatch):
    store, port = tmp_path / "server", free_port()
    store.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(delivery, "SECONDS_BETWEEN_TRIES", 0.2)
    config, failures = tiny(**{"training.steps": 40}), []
    prepared = commands.prepare(config)

    def train():
        try:
            commands.train(config, prepared)
        except PikavaeError as error:
            failures.append(error)

    thread = threading.Thread(target=train)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "PATIENCE_SECONDS", 1.0)
        with mlflow_server(store, port):
            thread.start()
            wait_for(lambda: told() >= 2)
        thread.join(120)
    (failure,) = failures
    assert isinstance(failure, TransientError)
    assert "the same command delivers it" in str(failure)
    with mlflow_server(store, port):
        trained = commands.train(config, prepared)
        assert trained.result.start_step == 40  # nothing is trained again
        assert len(points(trained.run.run_id)["train/loss"]) == 40
