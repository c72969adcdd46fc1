from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from pikavae.errors import DamagedFileError, UserError
from pikavae.registry import versions
from pikavae.registry.package import file_hashes
from pikavae.tracker import run_log, tags
from pikavae.tracker.client import Workspace
from pikavae.tracker.mlflow_files import local_folder
from pikavae.weights.published import read_snapshot


@pytest.fixture
def name(request):
    return request.node.name.partition("[")[0]


def register(client, run, snapshot, name, **given):
    defaults = {
        "run_id": run.run_id,
        "snapshot": snapshot,
        "model_name": name,
        "image_size": 32,
        "step": 400,
        "metrics": {"val/psnr": 21.5},
        "tags": {"pikavae.fingerprint": "abc"},
        "description": "# A model",
    }
    return versions.register(client, **(defaults | given))


def packages(client, run):
    query = f"source_run_id = '{run.run_id}' AND name = 'autoencoder'"
    return client.search_logged_models([run.experiment_id], query)


def test_a_version_has_its_run_scores_tags_and_whole_files(client, run, snapshot, name):
    run.log({"val/psnr": 21.5}, 400)
    run.flush()
    made = register(client, run, snapshot, name)
    assert (made.name, made.version, made.run_id, made.aliases) == (name, 1, run.run_id, ())
    assert made.metrics == {"val/psnr": 21.5}
    assert made.tags["pikavae.fingerprint"] == "abc"
    assert client.get_model_version(name, "1").description == "# A model"
    (package,) = packages(client, run)
    assert (package.model_id, str(package.status)) == (made.model_id, "READY")
    assert {metric.key: metric.value for metric in package.metrics} == {"val/psnr": 21.5}
    assert file_hashes(local_folder(package.artifact_location)) == made.manifest
    assert len(client.get_metric_history(run.run_id, "val/psnr")) == 1


def test_mlflows_list_of_versions_shows_the_tags_that_a_person_reads(client, run, snapshot, name):
    register(client, run, snapshot, name, tags={"pikavae.fingerprint": "abc", tags.SNAPSHOT_TAG: "weights"})
    assert set(client.get_model_version(name, "1").tags) == {"pikavae.fingerprint", tags.DETAILS_TAG}


@pytest.mark.parametrize("beginning", ["pikavae.", tags.HIDDEN])
def test_a_version_of_which_each_detail_is_a_tag_is_read_and_gets_scores(client, run, snapshot, name, beginning):
    made = register(
        client, run, snapshot, name, tags={"pikavae.fingerprint": "abc", tags.SNAPSHOT_TAG: "weights"}, metrics={}
    )
    number = str(made.version)
    details = json.loads(client.get_model_version(name, number).tags[tags.DETAILS_TAG])
    client.delete_model_version_tag(name, number, tags.DETAILS_TAG)
    for tag, value in details.items():
        client.set_model_version_tag(name, number, tag.replace("pikavae.", beginning), value)
    assert versions.get_version(client, name, made.version) == made
    versions.add_scores(client, made, step=6, metrics={"psnr": 20.0}, tags={"pikavae.report": "x"}, description="")
    scored = versions.get_version(client, name, made.version)
    assert scored == replace(made, metrics={"psnr": 20.0}, tags={**made.tags, "pikavae.report": "x"})


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"pikavae.manifest": 7, "name": "x"}', "[" * 100_000])
def test_details_that_somebody_edited_leave_the_rest_readable(client, run, snapshot, name, text):
    made = register(client, run, snapshot, name, tags={"pikavae.fingerprint": "abc"})
    client.set_model_version_tag(name, str(made.version), tags.DETAILS_TAG, text)
    edited = versions.get_version(client, name, made.version)
    assert (edited.manifest, edited.metrics, edited.tags) == ({}, {}, {"pikavae.fingerprint": "abc"})
    assert edited.model_id == made.model_id


def test_registering_makes_no_store_where_one_stands(client, run, snapshot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register(client, run, snapshot, "elsewhere")
    assert list(tmp_path.iterdir()) == []
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_the_snapshot_of_a_version_is_read_where_it_lies(client, run, snapshot, name, tmp_path):
    found = versions.snapshot_folder_of(client, register(client, run, snapshot, name), tmp_path / "downloads")
    ours, theirs = read_snapshot(snapshot).state_dict(), read_snapshot(found).state_dict()
    assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    assert not (tmp_path / "downloads").exists()


def test_files_that_are_gone_are_told_with_their_version(client, run, snapshot, name, tmp_path):
    made = register(client, run, snapshot, name)
    shutil.rmtree(versions.snapshot_folder_of(client, made, tmp_path))
    with pytest.raises(DamagedFileError, match=f"{name} version 1 are gone"):
        versions.snapshot_folder_of(client, made, tmp_path)


def test_registering_the_same_again_gives_the_version_that_is_there(client, run, snapshot, name):
    first = register(client, run, snapshot, name, tags={"pikavae.register_key": "one"})
    again = register(client, run, snapshot, name, tags={"pikavae.register_key": "one"})
    other = register(client, run, snapshot, name, tags={"pikavae.register_key": "two"})
    assert (first, other.version) == (again, 2)
    assert versions.find_version(client, name, "two") == other
    assert versions.find_version(client, name, "three") is None


def test_without_a_key_the_files_decide(client, run, snapshot, name, tmp_path):
    changed = shutil.copytree(snapshot, tmp_path / "changed")
    (changed / "pikavae.yaml").write_text("data: {image_size: 64}\n")
    assert [register(client, run, folder, name).version for folder in (snapshot, snapshot, changed)] == [1, 1, 2]


class StoreBrokeError(Exception):
    pass


def fails(*given, **named):
    raise StoreBrokeError


@pytest.mark.parametrize("failing", ["log_model_artifacts", "create_registered_model", "create_model_version"])
def test_a_failure_half_way_leaves_nothing_behind(client, run, snapshot, failing, monkeypatch):
    monkeypatch.setattr(type(client), failing, fails)
    with pytest.raises(StoreBrokeError):
        register(client, run, snapshot, "broken")
    assert client.search_registered_models("name = 'broken'") == []
    assert packages(client, run) == []
    models = local_folder(client.get_experiment(run.experiment_id).artifact_location) / "models"
    kept = [client.get_logged_model(folder.parent.name) for folder in models.glob("*/artifacts")]
    assert run.run_id not in {model.source_run_id for model in kept}


def test_a_failure_leaves_earlier_versions_alone(client, run, snapshot, name, monkeypatch):
    made = register(client, run, snapshot, name)
    monkeypatch.setattr(type(client), "create_model_version", fails)
    with pytest.raises(StoreBrokeError):
        register(client, run, snapshot, name, tags={"pikavae.register_key": "two"})
    assert versions.list_versions(client, name) == [made]
    assert [package.model_id for package in packages(client, run)] == [made.model_id]


def test_what_a_killed_process_left_is_replaced(client, run, snapshot, name):
    tags = {"pikavae.register_key": "one"}
    orphan = client.create_logged_model(run.experiment_id, "autoencoder", run.run_id, tags, {}, "autoencoder")
    made = register(client, run, snapshot, name, tags=tags)
    assert [package.model_id for package in packages(client, run)] == [made.model_id] != [orphan.model_id]


def test_versions_are_listed_newest_first_with_their_aliases(client, run, snapshot, name):
    for key in "abc":
        register(client, run, snapshot, name, tags={"pikavae.register_key": key})
    client.set_registered_model_alias(name, "champion", "2")
    listed = versions.list_versions(client, name)
    assert [(version.version, version.aliases) for version in listed] == [(3, ()), (2, ("champion",)), (1, ())]
    assert versions.get_version(client, name, 2) == versions.get_by_alias(client, name, "champion") == listed[1]


def test_a_version_that_is_not_there_is_told_with_those_that_are(client, run, snapshot, name):
    assert versions.list_versions(client, name) == []
    with pytest.raises(UserError, match=f"version 7 of '{name}': no such version; none is registered yet"):
        versions.get_version(client, name, 7)
    with pytest.raises(UserError, match=f"champion of '{name}'"):
        versions.get_by_alias(client, name, "champion")
    register(client, run, snapshot, name)
    with pytest.raises(UserError, match=r"there are 1$"):
        versions.get_version(client, name, 7)


def test_scores_that_are_no_numbers_are_kept_as_such(client, run, snapshot, name):
    assert math.isnan(register(client, run, snapshot, name, metrics={"val/psnr": math.nan}).metrics["val/psnr"])


@pytest.mark.slow
def test_all_of_it_works_through_a_server(server, snapshot, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    client = Workspace(tmp_path).client
    experiment = Workspace(tmp_path).experiment_id("remote")
    run = run_log.RunLog.start(client, experiment, "a run", tags={}, params={})
    run.log({"train/loss": math.nan, "val/psnr": 21.5}, 400)
    kept, _ = (run.log_checkpoint(snapshot, step, {"val/psnr": 21.5}) for step in (400, 300))
    run.drop_checkpoint(300)
    assert [checkpoint.model_id for checkpoint in run.checkpoints()] == [kept]
    made = register(client, run, snapshot, "remote")
    assert register(client, run, snapshot, "remote") == made
    run.end("FINISHED")

    copy = versions.snapshot_folder_of(client, made, tmp_path / "downloads")
    assert copy.is_relative_to(tmp_path / "downloads")
    assert set(read_snapshot(copy).state_dict()) == set(read_snapshot(snapshot).state_dict())
    (copy / "config.json").write_text("{}")
    assert (
        json.loads((versions.snapshot_folder_of(client, made, tmp_path / "downloads") / "config.json").read_text())
        != {}
    )

    monkeypatch.chdir(tmp_path)
    model = mlflow.pyfunc.load_model("models:/remote/1")
    assert model.predict(np.zeros((1, 3, 32, 32), np.float32)).shape == (1, 3, 32, 32)
    assert not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize("model_id", ["../../../elsewhere", "", "a\nb'\"", "x" * 5_000])
def test_no_edited_tag_leads_a_download_out_of_its_folder(client, run, snapshot, name, model_id, tmp_path, monkeypatch):
    made = replace(register(client, run, snapshot, name), model_id=model_id)
    elsewhere = tmp_path / "elsewhere" / "kept"
    elsewhere.parent.mkdir()
    elsewhere.write_text("")
    monkeypatch.setattr(versions, "local_folder", lambda location: None)  # as on a server
    copy = versions.snapshot_folder_of(client, made, tmp_path / "home" / "downloads" / "below")
    assert copy.parent == tmp_path / "home" / "downloads" / "below"
    assert elsewhere.exists()
    assert set(read_snapshot(copy).state_dict()) == set(read_snapshot(snapshot).state_dict())
    assert versions.snapshot_folder_of(client, made, copy.parent) == copy
