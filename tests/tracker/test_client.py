"""A workspace: its client is made when it is needed, once, and nobody is asked more often than is useful."""

import time

import pytest

from pikavae import operations
from pikavae.errors import TransientError
from pikavae.presets import parse_config
from pikavae.tracker import client as client_module
from pikavae.tracker.client import Workspace


def test_the_client_is_made_when_it_is_first_needed_and_once(tmp_path):
    workspace = Workspace(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert workspace.client is workspace.client
    assert (tmp_path / "mlflow.db").is_file()


def test_work_that_needs_no_database_makes_none(tmp_path):
    workspace = Workspace(tmp_path)
    config = parse_config({"data": {"source": "sprites", "sprites_count": 24, "image_size": 16}})
    operations.prepare(workspace, config)
    operations.plan(workspace, config, start=None)
    operations.doctor(workspace, operations.account_of(workspace.home))
    assert operations.history(workspace) == []
    assert not (tmp_path / "mlflow.db").exists()


def test_the_address_of_the_store_is_that_of_when_the_workspace_was_made(tmp_path, monkeypatch):
    before = Workspace(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # as MLflow sets it for a moment
    assert (before.server, Workspace(tmp_path).server) == (None, "http://127.0.0.1:9")
    assert before.client.tracking_uri == before.tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_a_server_is_asked_again_only_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    asked, now = [], 100.0
    monkeypatch.setattr(client_module, "why_no_answer", lambda address, seconds: asked.append(address))
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(Workspace, "_connect", lambda workspace: object())
    workspace = Workspace(tmp_path)
    for later, times in ((0.0, 1), (4.0, 1), (2.0, 2)):
        now += later
        assert workspace.client is workspace.client
        assert asked == ["http://127.0.0.1:9"] * times


def test_a_server_that_went_away_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    workspace = Workspace(tmp_path)
    assert not workspace.answers()
    with pytest.raises(TransientError, match=r"\AMLFLOW_TRACKING_URI http://127.0.0.1:9: no answer .*\Z"):
        _ = workspace.client
