"""What runs used is in their record, in MLflow, on cards and pages, and in sum; every attempt counts once."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from mlflow import MlflowClient

from flows.cli import main
from pikavae.operations.running import supervision
from pikavae.operations.stages import accounting
from pikavae.operations.stages.accounting import account_of, disk_of, usage_of
from pikavae.process import meter
from pikavae.tracker.client import Workspace
from pikavae.workspace.home import home
from pikavae.workspace.runs import run_folders
from pikavae.workspace.usage import UsageRecord, usage_folder
from tests.operations.running.test_supervision import LONG, told
from tests.support import commands
from tests.support.configs import tiny
from tests.support.places import ROOT
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def written_often(monkeypatch):
    monkeypatch.setattr(meter, "SECONDS_BETWEEN_WRITES", 0.2)


def attempts(run_id, stage="train"):
    return [UsageRecord.read(path) for path in sorted(usage_folder(home(), run_id).glob(f"{stage}-*.json"))]


def metrics_of(run_id):
    return MlflowClient(tracking_uri=Workspace(home()).tracking_uri).get_run(run_id).data.metrics


def test_a_run_says_what_it_used_everywhere(capsys, real_process):
    commands.prepare(tiny())  # in processes of its own
    before, began = os.times(), time.monotonic()
    done = commands.run(tiny())
    elapsed, after = time.monotonic() - began, os.times()
    run_id = done["run_id"]
    (trained,), (evaluated,) = attempts(run_id), attempts(run_id, "evaluate")
    waited_for = after.children_user + after.children_system - before.children_user - before.children_system
    assert trained.cpu_seconds == pytest.approx(waited_for, rel=0.1)  # training is nearly all that was started
    own = after.user + after.system - before.user - before.system
    assert 0 < evaluated.cpu_seconds < own
    assert trained.seconds + evaluated.seconds < elapsed

    used = usage_of(home(), run_id)
    found = metrics_of(run_id)
    assert found["system/used_cpu_hours"] == pytest.approx(used.cpu_seconds / 3600)
    assert found["system/used_gpu_hours"] == 0.0
    assert found["system/used_disk_megabytes"] > 0.01
    assert "system/used_energy_kwh" not in found

    main(["models", "show", "1"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("used")]
    assert used.text() in line
    main(["models", "show", "1", "--json"])
    shown = json.loads(capsys.readouterr().out)["versions"][0]["used"]
    assert shown["cpu_hours"] == used.cpu_seconds / 3600
    assert shown["disk_bytes"] == accounting.disk_of_run(home(), run_id)

    card = next((home() / "evaluations").glob("*/model_card.md")).read_text()
    assert f"It used {usage_of(home(), run_id, 'train').text()}." in card

    main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["used"]["experiments"]["pikavae"] == used.numbers()
    assert f"{used.text()} by 1 run of 'pikavae'" in [check["detail"] for check in report["checks"]]

    commands.run(tiny())  # reused: nothing is used
    assert usage_of(home(), run_id) == used
    commands.evaluate_model(f"run:{run_id}", tiny())
    account = account_of(home())
    assert usage_of(home(), run_id) == used
    assert (account.apart.attempts, account.num_runs) == (1, {"pikavae": 1})
    assert account.total == used + account.apart


def test_a_training_that_is_killed_and_restarted_has_two_attempts_that_count_once_each(disturb):
    disturb("kill", 3)
    done = commands.run(tiny())
    first, second = sorted(attempts(done["run_id"]), key=lambda record: record.seconds)
    total = metrics_of(done["run_id"])["system/used_cpu_hours"] * 3600
    evaluated = sum(record.cpu_seconds for record in attempts(done["run_id"], "evaluate"))
    assert total == pytest.approx(first.cpu_seconds + second.cpu_seconds + evaluated)
    assert min(first.cpu_seconds, second.cpu_seconds) > 0.5  # each imported torch


WRITING_OFTEN = (
    "import sys; from pikavae.process import meter; meter.SECONDS_BETWEEN_WRITES = 0.2; "
    "from flows.cli import main; sys.exit(main(sys.argv[1:]))"
)


@contextmanager
def long_training(tiny_flags):
    """A command that trains until it is told to stop."""
    long = {**LONG, "training.preview_every": 10**6, "training.log_every": 10}
    flags = [word for name, value in long.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-c", WRITING_OFTEN, "train", "demo", *tiny_flags, *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_command_that_is_killed_and_one_that_resumes_it_count_once_each(tiny_flags):
    with long_training(tiny_flags) as process:
        wait_for(lambda: told() >= 10)
        (run,) = run_folders(home())
        wait_for(lambda: any(record.cpu_seconds > 1 for record in attempts(run.run_id)))
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: list(run.path.glob("checkpoints/step-*")))  # the orphan saves and ends
    (killed,) = attempts(run.run_id)

    resumed = told()
    with long_training(tiny_flags) as process:
        wait_for(lambda: told() > resumed)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 75
    both = attempts(run.run_id)
    assert len(both) == 2
    assert killed in both  # nobody touches the record of the attempt that was killed
    used = usage_of(home(), run.run_id)
    assert used.cpu_seconds == pytest.approx(sum(record.cpu_seconds for record in both))
    assert metrics_of(run.run_id)["system/used_cpu_hours"] == pytest.approx(used.cpu_seconds / 3600)


def test_all_processes_that_train_together_are_counted_and_each_of_their_gpus(monkeypatch, real_process):
    counters = {"GPU-1": iter(range(0, 10**6, 100)), "GPU-2": iter(range(0, 10**6, 400))}
    monkeypatch.setattr(meter, "read_joules", lambda cards: float(sum(next(counters[card]) for card in cards)))
    real = meter.Meter
    monkeypatch.setattr(
        supervision, "Meter", lambda *rest, **how: real(*rest, **{**how, "cards": ("GPU-1", "GPU-2"), "num_gpus": 2})
    )
    config = tiny(**{"training.processes": 2, "training.steps": 4})
    prepared, before = commands.prepare(config), os.times()
    trained = commands.train(config, prepared)
    after = os.times()
    (record,) = attempts(trained.run.run_id)
    waited_for = after.children_user + after.children_system - before.children_user - before.children_system
    assert record.cpu_seconds == pytest.approx(waited_for, rel=0.1)  # the launcher waits for both, and we for it
    assert record.gpu_seconds == pytest.approx(2 * record.seconds, abs=0.01)
    assert record.joules >= 500.0
    assert record.joules % 500.0 == 0.0
    assert metrics_of(trained.run.run_id)["system/used_energy_kwh"] == pytest.approx(record.joules / 3.6e6)


def test_a_file_with_two_names_counts_once_and_by_what_it_is(tmp_path):
    for name, size in {
        "runs/a/checkpoints/step-1/state.pt": 3,
        "runs/a/run.json": 5,
        "prepared/shards/1.arrow": 7,
        "mlflow.db-wal": 11,
        "up.json": 13,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "prepared" / "set").mkdir()
    (tmp_path / "prepared" / "set" / "1.arrow").hardlink_to(tmp_path / "prepared" / "shards" / "1.arrow")
    (tmp_path / "prepared" / "elsewhere").symlink_to("/")
    link = (tmp_path / "prepared" / "elsewhere").lstat().st_size
    assert disk_of(tmp_path) == {
        "all else": 13,
        "databases": 11,
        "prepared sets": 7 + link,
        "records of runs": 5,
        "checkpoints": 3,
    }
    assert disk_of(tmp_path / "none") == {}
