"""A state folder is moved, renamed, backed up and restored; one command makes MLflow find its files again."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from mlflow import MlflowClient

from flows.cli import main
from pikavae.config import ModelConfig
from pikavae.errors import BusyError, UserError
from pikavae.production.changes import promote as production
from pikavae.tracker import relocation
from pikavae.tracker.client import Workspace
from pikavae.workspace.files import exclusive
from tests.support import commands
from tests.support.configs import tiny
from tests.support.house import files_alone
from tests.support.published_forms import write_form

SIZES = ModelConfig(channels=(8, 8), norm_groups=4, num_res_blocks=1)
CONFIG = {"model.num_res_blocks": 1}


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory):
    """A home with a measured version in production and another to promote; it is moved away before a test begins."""
    path = tmp_path_factory.mktemp("moving")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path / "home"))
        for latent_channels in (4, 3):
            sizes = SIZES.model_copy(update={"latent_channels": latent_channels})
            theirs = write_form("diffusers folder", path / f"theirs-{latent_channels}", sizes)
            commands.register_model(str(theirs), tiny(**CONFIG, **{"model.latent_channels": latent_channels}))
        promote(1)
        shutil.move(path / "home", path / "backup")
    return path / "home", path / "backup"


@pytest.fixture
def moved(monkeypatch, isolated, lived_in, tmp_path):
    """The home at another path, whose name needs escaping, and where it was."""
    new = tmp_path / "state of Zoé, 100% 'new'"
    shutil.copytree(lived_in[1], new, symlinks=True)
    monkeypatch.setenv("PIKAVAE_HOME", str(new))
    return new, lived_in[0]


def promote(version):
    """Without gates and the smoke test's process, which are tested elsewhere."""
    with mock.patch.object(production, "smoke_test", files_alone):
        return production.promote(commands.workspace(), model_name="pikavae", version=version, reason="because")


def content(folder):
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return list(database.iterdump())


def test_a_moved_home_says_so_before_it_shows_empty_listings(moved, capsys):
    new, old = moved
    before = content(new)
    for words in (["models", "list"], ["reconstruct", "champion", "a.png"]):
        assert main(words) == 2
        captured = capsys.readouterr()
        assert captured.err == (
            f"pikavae: {new}: was at {old} before; `pikavae store relocate` makes MLflow find its files\n"
        )
        assert captured.out == ""
    assert main(["doctor"]) == 0
    assert "pikavae store relocate" in capsys.readouterr().out
    assert content(new) == before


def test_afterwards_everything_is_found_at_the_new_place(moved, capsys, folder_of_pictures, tmp_path):
    new, old = moved
    before = content(new)
    assert main(["store", "relocate", "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (planned["from"], planned["to"], planned["dry_run"]) == (str(old), str(new), True)
    assert content(new) == before
    assert main(["store", "relocate", "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done == {**planned, "dry_run": False, "backup": str(new / relocation.BACKUP_NAME)}
    assert set(done["addresses"]) == {
        "experiments.artifact_location",
        "experiment_tags.value",
        "runs.artifact_uri",
        "logged_models.artifact_location",
        "model_versions.storage_location",
    }
    assert not [line for line in content(new) if f"{old}/" in line or f"{old}'" in line]
    with closing(sqlite3.connect(done["backup"])) as backup:
        assert list(backup.iterdump()) == before

    assert main(["store", "relocate"]) == 0
    assert capsys.readouterr().out == f"every address is one of {new} already\n"

    assert [version.version for version in commands.list_models(tiny())] == [2, 1]
    out = commands.reconstruct("champion", [folder_of_pictures / "00.png"], tmp_path / "out", tiny())
    assert out[0].is_file()
    assert commands.evaluate_model("champion", tiny(**CONFIG)).folder.is_relative_to(new)
    assert commands.register_model(str(old.parent / "theirs-3"), tiny(**CONFIG, **{"model.latent_channels": 3})).reused
    client = MlflowClient(Workspace(new).tracking_uri)
    for version in commands.list_models(tiny()):
        assert {file.path for file in client.list_artifacts(version.run_id)} >= {"config.yaml", "evaluation"}
        assert Path(client.download_artifacts(version.run_id, "config.yaml")).read_text().startswith("data:")
    assert promote(2).previous == 1
    import mlflow

    images = np.zeros((1, 3, 8, 8), np.float32)
    mlflow.set_tracking_uri(Workspace(new).tracking_uri)
    try:
        assert mlflow.pyfunc.load_model("models:/pikavae-production@champion").predict(images).shape == images.shape
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    assert not old.exists()


def test_a_copy_beside_the_original_does_not_write_into_it(moved):
    new, old = moved
    shutil.copytree(new, old)
    try:
        _ = Workspace(old).client
        with pytest.raises(UserError, match=r"store relocate"):
            _ = Workspace(new).client
        commands.relocate()
        _ = Workspace(new).client
        assert commands.relocate().old is None
        _ = Workspace(old).client
    finally:
        shutil.rmtree(old)


def test_a_home_that_is_still_reached_by_its_old_path_was_not_moved(moved):
    new, old = moved
    old.symlink_to(new)
    try:
        _ = Workspace(new).client
    finally:
        old.unlink()


@pytest.mark.parametrize("lock", ["production.lock", "runs/0123/writer.lock", "up.lock"])
def test_it_waits_for_nobody_and_changes_nothing_while_something_runs(moved, lock):
    new, _ = moved
    before = content(new)
    with exclusive(new / lock), pytest.raises(BusyError, match=f"{lock} is held: something runs in"):
        commands.relocate()
    assert content(new) == before
    assert not (new / relocation.BACKUP_NAME).exists()


def test_a_failure_leaves_the_database_as_it_was(moved, monkeypatch):
    new, _ = moved
    before = content(new)

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(relocation, "_back_up", full)
    assert main(["store", "relocate"]) == 1
    assert content(new) == before


def test_addresses_of_another_folder_are_named_by_hand(moved, tmp_path, capsys):
    new, old = moved
    before = content(new)
    assert main(["store", "relocate", "--from", str(tmp_path / "elsewhere")]) == 2
    assert f"no address begins with it; those of pikavae begin with: {old}" in capsys.readouterr().err
    assert content(new) == before
    assert commands.relocate(str(old), dry_run=True).addresses


def test_only_whole_folder_names_count(tmp_path):
    assert relocation._new_address("file:///a/home2/x", Path("/a/home"), Path("/b")) is None
    assert relocation._new_address("file:///a/home/x", Path("/a/home"), Path("/b c")) == "file:///b%20c/x"
    assert relocation._new_address("/a/home", Path("/a/home"), Path("/b c")) == "/b c"
    assert relocation._new_address(None, Path("/a/home"), Path("/b")) is None


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "store: expected `store relocate`"),
        (["move"], "store move: expected `store relocate`"),
        (["relocate", "now"], "'now': this command takes no such word"),
    ],
)
def test_store_knows_one_word(words, complaint, capsys):
    assert main(["store", *words]) == 2
    assert complaint in capsys.readouterr().err


def test_there_must_be_a_home(capsys):
    assert main(["store", "relocate"]) == 2
    assert "no mlflow.db in" in capsys.readouterr().err
