"""Prefect's surroundings: where its state goes, and what becomes of servers that nobody ends any more."""

import os
import subprocess
import sys

import psutil
import pytest

from flows.server.environment import OWNER, Services, end_orphans, running_services, set_up_prefect
from pikavae.errors import UserError
from pikavae.process.marks import mark_of
from tests.support.answering import answering
from tests.support.places import ROOT

ADDRESSES = {"mlflow": "http://127.0.0.1:5000", "prefect": "http://127.0.0.1:4200"}


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
    pid, started = mine.split(":")[:2]
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
    Services(owner=owner_that_is_gone(), **ADDRESSES).save(tmp_path)
    set_up_prefect(tmp_path)
    assert "PREFECT_API_URL" not in os.environ
    Services(owner=mark_of(psutil.Process()), **ADDRESSES).save(tmp_path)
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


def test_what_is_logged_outside_of_a_flow_brings_no_warning_of_prefect(tmp_path):
    code = f"""
import logging, pathlib
from flows.server.environment import import_prefect, set_up_prefect
set_up_prefect(pathlib.Path({str(tmp_path)!r}))
import_prefect()
import prefect.main
logging.getLogger("pikavae.operations").warning("said once")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "flow run" not in done.stderr


LEFT_OVER = {
    "PREFECT__FLOW_RUN_ID": "of somebody",
    "PREFECT_PROFILE": "cloud",
    "PREFECT_API_KEY": "secret",
    "PREFECT_API_AUTH_STRING": "a:b",
    "PREFECT_SERVER_API_AUTH_STRING": "c:d",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////elsewhere.db",
    "PREFECT_SERVER_API_BASE_PATH": "/prefect",
    "PREFECT_LOGGING_LEVEL": "CHATTY",
    "PREFECT_UI_URL": "http://127.0.0.1:9",
}


def test_what_another_server_or_flow_run_left_decides_nothing(tmp_path, monkeypatch):
    for name, value in LEFT_OVER.items():
        monkeypatch.setenv(name, value)
    set_up_prefect(tmp_path)
    assert not LEFT_OVER.keys() & os.environ.keys()


def test_what_a_named_server_needs_stays(tmp_path, monkeypatch):
    with answering("127.0.0.1") as port:
        for name, value in {**LEFT_OVER, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}.items():
            monkeypatch.setenv(name, value)
        set_up_prefect(tmp_path)
        assert os.environ["PREFECT_API_URL"].endswith(f":{port}/api")
    assert os.environ["PREFECT_API_KEY"] == "secret"
    assert "PREFECT__FLOW_RUN_ID" not in os.environ
    assert "PREFECT_PROFILE" not in os.environ  # it is kept in the PREFECT_HOME that somebody else had


def test_settings_of_the_folder_where_one_stands_are_not_prefects(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://env.invalid/api\n")
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://toml.invalid/api"\n')
    (tmp_path / "pyproject.toml").write_text('[tool.prefect.api]\nurl = "http://pyproject.invalid/api"\n')
    code = (
        "import pathlib; from flows.server.environment import import_prefect, set_up_prefect; "
        "set_up_prefect(pathlib.Path.cwd() / 'home'); import_prefect(); "
        "import prefect.settings; print(prefect.settings.PREFECT_API_URL.value())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"owner": 3}'])
def test_a_damaged_record_of_services_is_none(tmp_path, content):
    (tmp_path / "up.json").write_text(content)
    assert running_services(tmp_path) is None
