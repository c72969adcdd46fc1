"""The bytes at an artifact location: counted and deleted alike on this machine and on a server."""

import pytest

from pikavae.tracker import run_log
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import delete_files, list_files, size_of_files


@pytest.mark.parametrize("place", ["here", "on a server"])
def test_files_are_counted_in_all_folders_and_deleted(request, client, registry_home, tmp_path, monkeypatch, place):
    if place == "on a server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
        client = Workspace(registry_home).client
    experiment = Workspace(registry_home).experiment_id("sizes")
    log = run_log.RunLog.start(client, experiment, "a run", tags={}, params={})
    (tmp_path / "files" / "deeper").mkdir(parents=True)
    (tmp_path / "files" / "config.json").write_bytes(b"12345")
    (tmp_path / "files" / "deeper" / "weights").write_bytes(b"1234567")
    model = log.log_checkpoint(tmp_path / "files", 2, {})
    location = client.get_logged_model(model).artifact_location
    assert location.startswith("file:") == (place == "here")
    assert size_of_files(client, location) == 12
    assert sorted(file.path for file in list_files(client, location)) == ["config.json", "deeper/weights"]
    delete_files(client, location, "config.json")
    assert [file.path for file in list_files(client, location)] == ["deeper/weights"]
    delete_files(client, location)
    assert size_of_files(client, location) == 0
    delete_files(client, location)  # a second time does no harm
