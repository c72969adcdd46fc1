"""Prefect's surroundings: where its state goes, and what becomes of servers that nobody ends any more."""

import os
import subprocess
import sys

import psutil
import pytest

from flows.environment import OWNER, Services, end_orphans, mark_of, set_up_prefect
from pikavae.errors import UserError


@pytest.fixture
def stand_in(tmp_path):
    """Starts a process that was left by the given owner in the given Prefect home."""
    started = []

    def start(owner, prefect_home):
        environment = {**os.environ, OWNER: str(owner), "PREFECT_HOME": str(prefect_home)}
        process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)"],
            env=environment,
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def owner_that_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = mark_of(psutil.Process(process.pid))
    process.communicate(b"\n")
    return mark


def test_only_orphans_of_this_home_are_ended(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    mine = mark_of(psutil.Process())
    pid, _, started = mine.partition(":")
    orphan = stand_in(owner_that_is_gone(), tmp_path / "prefect")
    of_an_earlier_pid = stand_in(f"{pid}:{int(started) - 3600}", tmp_path / "prefect")
    owned = stand_in(mine, tmp_path / "prefect")
    stranger = stand_in(owner_that_is_gone(), tmp_path / "elsewhere")
    assert end_orphans(tmp_path) == 2
    orphan.wait(10)
    of_an_earlier_pid.wait(10)
    assert owned.poll() is None
    assert stranger.poll() is None


def test_a_server_that_is_away_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(UserError, match=r"PREFECT_API_URL http://127\.0\.0\.1:9/api: no answer"):
        set_up_prefect(tmp_path)


def test_the_server_of_pikavae_up_is_used_while_it_runs(tmp_path, monkeypatch):
    for name in ("PREFECT_HOME", "PREFECT_API_URL", "PIKAVAE_MLFLOW_UI"):
        monkeypatch.delenv(name, raising=False)
    Services(owner_that_is_gone(), "http://127.0.0.1:4200", "http://127.0.0.1:5000").save(tmp_path)
    set_up_prefect(tmp_path)
    assert "PREFECT_API_URL" not in os.environ
    Services(mark_of(psutil.Process()), "http://127.0.0.1:4200", "http://127.0.0.1:5000").save(tmp_path)
    set_up_prefect(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert os.environ["PIKAVAE_MLFLOW_UI"] == "http://127.0.0.1:5000"


def test_state_goes_below_the_home_unless_the_user_said_otherwise(tmp_path, monkeypatch):
    for name in ("PREFECT_HOME", "DO_NOT_TRACK", OWNER, "PREFECT_LOGGING_EXTRA_LOGGERS", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    set_up_prefect(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert (tmp_path / "prefect").is_dir()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    set_up_prefect(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "mine")
