"""Prefect's surroundings: where its state goes, and what becomes of servers that nobody ends any more."""

import os
import subprocess
import sys

import pytest

from flows.environment import EMBEDDED_SERVER, OWNER, end_orphaned_servers, set_up_prefect


@pytest.fixture
def stand_in(tmp_path):
    """Starts a process that looks like an embedded server of the given owner and Prefect home."""
    started = []

    def start(owner, prefect_home):
        environment = {**os.environ, OWNER: str(owner), "PREFECT_HOME": str(prefect_home)}
        process = subprocess.Popen(
            [sys.executable, "-c", "print(flush=True); import time; time.sleep(60)", EMBEDDED_SERVER],
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


def pid_that_is_gone():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_orphans_of_this_home_are_ended(stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    orphan = stand_in(pid_that_is_gone(), tmp_path / "prefect")
    owned = stand_in(os.getpid(), tmp_path / "prefect")
    stranger = stand_in(pid_that_is_gone(), tmp_path / "elsewhere")
    end_orphaned_servers(tmp_path)
    orphan.wait(10)
    assert owned.poll() is None
    assert stranger.poll() is None


def test_state_goes_below_the_home_unless_the_user_said_otherwise(tmp_path, monkeypatch):
    for name in ("PREFECT_HOME", "DO_NOT_TRACK", OWNER, "PREFECT_LOGGING_EXTRA_LOGGERS", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    set_up_prefect(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert (tmp_path / "prefect").is_dir()
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "mine"))
    set_up_prefect(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "mine")
