"""Sweeps on real parts: trainings in processes, MLflow on SQLite, a kill, a trial that is pruned, ones that fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from flows.cli import main
from pikavae import operations
from pikavae.errors import BusyError, PikavaeError
from pikavae.notify.outbox import Outbox
from pikavae.operations.sweeps import trials
from pikavae.operations.sweeps.space import make_space
from pikavae.tracker.tags import START_STEP_TAG
from pikavae.workspace.files import exclusive
from pikavae.workspace.runs import RunFolder, run_folders
from tests.conftest import DISTURBED_WORKER, TINY
from tests.support import commands
from tests.support.commands import bare_client as client
from tests.support.configs import tiny
from tests.support.places import ROOT

RATES = ["0.001", "0.005"]
GRID = {"optimizer.learning_rate": RATES, "loss.kl_weight": ["1e-8", "1e-6"]}
WORDS = [
    *(word for name, value in TINY.items() for word in (f"--{name}", *([value] if isinstance(value, str) else value))),
    *(word for name, values in GRID.items() for word in (f"--{name}", *values)),
]
FAULTY = """
# Python reads a module of this name in every process: here it disturbs the one that trains, by its learning rate.
import os, sys
if "pikavae.training.worker" in sys.orig_argv and "FAULTY" in os.environ:
    import time
    from pikavae.errors import NonFiniteLossError
    from pikavae.training.step import Stepper

    real = Stepper.step
    def step(self, *rest):
        rate = self.config.optimizer.learning_rate
        if rate > 100 and self.state.step == 1:
            raise NonFiniteLossError("step 2: train/loss is nan")
        if rate < 1e-6 and self.state.step >= 2:
            time.sleep(5)  # as long as a step of a large model takes
        return real(self, *rest)
    Stepper.step = step
"""


def sweep(space, *, workspace=None, **options):
    plan = operations.SweepPlan(tiny(), make_space(space, None, {}), "demo", **options)
    return operations.sweep(workspace or commands.workspace(), plan)


def runs_of(name):
    experiments = [found.experiment_id for found in client().search_experiments()]
    return client().search_runs(experiments, f"tags.`pikavae.sweep` = '{name}'")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A home with a grid of four trials whose first was killed, and what the resumed command printed as JSON."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "disturbance").mkdir()
    (folder / "disturbance" / "sitecustomize.py").write_text(DISTURBED_WORKER)
    with mock.patch.dict(os.environ), pytest.MonkeyPatch.context() as patch:  # `main` changes the environment
        patch.setenv("PIKAVAE_HOME", str(folder / "home"))
        path = os.pathsep.join([str(folder / "disturbance"), str(ROOT)])
        disturbance = {"DISTURB": f"kill everything,4,{folder / 'once'}", "PYTHONPATH": path}
        command = [sys.executable, "-m", "flows.cli", "sweep", "demo", *WORDS, "--name", "grid"]
        killed = subprocess.run(command, env={**os.environ, **disturbance}, capture_output=True, check=False)
        assert killed.returncode == -9
        (begun,) = run_folders(folder / "home")
        patch.setattr(sys, "stdout", (folder / "out").open("w"))
        status = main(["sweep", "demo", *WORDS, "--name", "grid", "--json"])
        sys.stdout.close()
    assert status == 0
    return folder / "home", json.loads((folder / "out").read_text().splitlines()[-1]), begun.run_id


@pytest.fixture
def grid(monkeypatch, isolated, swept):
    home, result, begun = swept
    monkeypatch.setenv("PIKAVAE_HOME", str(home))
    return result, begun


@pytest.mark.slow
def test_a_grid_that_was_killed_is_finished_by_the_same_command(grid):
    result, begun = grid
    assert result["done"]
    assert {
        (one["values"]["optimizer.learning_rate"], one["values"]["loss.kl_weight"]) for one in result["trials"]
    } == {(rate, weight) for rate in (0.001, 0.005) for weight in (1e-8, 1e-6)}
    assert [one["state"] for one in result["trials"]] == ["complete"] * 4
    scores = [one["score"] for one in result["trials"]]
    assert scores == sorted(scores, reverse=True)
    first = next(one for one in result["trials"] if one["number"] == 1)
    assert first["run_id"] == begun  # its training went on in the run that the kill left
    assert client().get_run(begun).data.tags[START_STEP_TAG] == "4"
    assert sorted(map(int, first["scores"])) == [2, 4, 6]


@pytest.mark.slow
def test_each_trial_is_an_ordinary_run_below_the_sweeps_own(grid):
    result, _ = grid
    parent, *others = [run for run in runs_of("grid") if run.info.run_id == result["run_id"]]
    assert not others
    children = [run for run in runs_of("grid") if run.data.tags.get("mlflow.parentRunId") == result["run_id"]]
    assert {run.info.run_id for run in children} == {one["run_id"] for one in result["trials"]}
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    assert {run.data.tags["pikavae.trial"] for run in children} == {"1", "2", "3", "4"}
    names = sorted(run.info.run_name for run in children)
    assert names[0] == "grid · trial 1: optimizer.learning_rate 0.001, loss.kl_weight 1e-08"
    assert parent.data.metrics["sweep/best_psnr"] == pytest.approx(result["best"]["score"])
    assert result["command"] in parent.data.tags["mlflow.note.content"]
    artifacts = {file.path for file in client().list_artifacts(result["run_id"])}
    assert {"sweep.html", "sweep.json", "config.yaml"} <= artifacts
    assert "parallel" in Path(result["page"]).read_text()
    assert client().search_model_versions() == []  # a sweep registers nothing


@pytest.mark.slow
def test_the_finished_sweep_is_found_again_and_its_best_is_run_by_the_command(grid):
    result, _ = grid
    folders = {path.name for path in (commands.workspace().home / "runs").iterdir()}
    again = sweep(GRID, name="grid")
    assert again.is_done
    assert again.summary()["trials"] == result["trials"]
    words = result["command"].split()[2:]
    plans = commands.plan(operations_config(words))
    assert [plans[name].status for name in ("prepare", "train", "evaluate", "register")] == ["done"] * 3 + ["runs"]
    assert {path.name for path in (commands.workspace().home / "runs").iterdir()} == folders


def operations_config(words):
    """The configuration that a command line gives."""
    from flows.command_line.arguments import read_arguments

    return read_arguments("run", words).config


@pytest.mark.slow
def test_some_trials_are_pruned_or_fail_and_the_sweep_goes_on(grid, monkeypatch, tmp_path, real_process):
    (tmp_path / "sitecustomize.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("FAULTY", "1")
    monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", "json://127.0.0.1:9")
    monkeypatch.setattr(trials, "PRUNE_AFTER_TRIALS", 2)
    workspace = commands.workspace()
    space = {"optimizer.learning_rate": [*RATES, "1e-9", "1000"], "model.channels": [[8, 8], [8, 6]]}
    with operations.attempt(workspace, "sweep"):
        done = sweep(space, name="faulty", workspace=workspace)
    found = {(one.values["optimizer.learning_rate"], one.values["model.channels"][1]): one for one in done.entries}

    assert done.is_done
    assert {rate: found[rate, 8].state for rate in (0.001, 0.005, 1e-9, 1000)} == {
        0.001: "complete",
        0.005: "complete",
        1e-9: "pruned",
        1000: "failed",
    }
    assert found[0.001, 8].is_reused  # the grid trained it, and its run stays below the grid's
    assert client().get_run(found[0.001, 8].run_id).data.tags["pikavae.sweep"] == "grid"
    assert found[1000, 8].reason.startswith("step 2: train/loss is nan")
    for rate in (0.001, 0.005, 1e-9, 1000):
        assert "model.norm_groups 4 does not divide the 6 of model.channels" in found[rate, 6].reason
        assert not found[rate, 6].run_id

    # What was pruned says so, in its folder, in MLflow, in a plan, and to nobody else
    pruned = RunFolder(workspace.home / "runs" / found[1e-9, 8].run_id)
    assert "is worse than the median of the sweep's trials there; stopped at step" in pruned.pruned.reason
    assert pruned.result is None
    run = client().get_run(pruned.run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["pikavae.pruned"] == pruned.pruned.reason
    assert "pikavae.error" not in run.data.tags
    config = tiny(**{"optimizer.learning_rate": "1e-9"})
    assert "was pruned by a sweep" in commands.plan(config)["train"].reason
    assert [event.notification.event for event in Outbox(workspace.home).events()] == []

    # An ordinary training of the same settings resumes where it was stopped, and is not called pruned any more
    monkeypatch.delenv("FAULTY")
    trained = commands.train(config, commands.prepare(config))
    assert trained.run.run_id == pruned.run_id
    assert trained.result.start_step > 0
    assert pruned.pruned is None
    assert "pikavae.pruned" not in client().get_run(pruned.run_id).data.tags


@pytest.mark.slow
def test_one_process_of_a_home_runs_a_sweep(grid):
    with (
        exclusive(commands.workspace().home / "sweeps" / "grid" / "sweep.lock"),
        pytest.raises(BusyError, match="another process of this state folder runs it"),
    ):
        sweep(GRID, name="grid")


def test_a_sweep_without_any_score_says_the_reason(isolated):
    with pytest.raises(PikavaeError, match=r"no trial has a score: .*does not divide the 6") as failed:
        sweep({"model.channels": [[8, 6], [6, 8]]}, name="none")
    assert [one["state"] for one in failed.value.result["trials"]] == ["failed"] * 2
