"""A home with one finished run to prune, and what is left of it."""

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from pikavae.production.changes import promote as production
from pikavae.registry.package import file_hashes
from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.tags import MANIFEST_TAG, read_version_tags
from pikavae.workspace.runs import run_folder, step_of
from tests.support import commands, configs
from tests.support.commands import bare_client as client
from tests.support.house import files_alone
from tests.support.promoting import promote

DATABASE = ("mlflow.db", "mlflow.db-wal", "mlflow.db-shm")
STEPS = [2, 4, 6, 8, 10, 12]


def tiny(**overrides):
    small = {"training.steps": STEPS[-1], "training.keep_checkpoints": 6, "data.sprites_count": 8}
    return configs.tiny(**{**small, **overrides})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with one finished run of six snapshots, of which 4 and the last are registered and 6 is promoted."""
    path = tmp_path_factory.mktemp("made") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        patch.setattr(production, "smoke_test", files_alone)
        run_id = commands.run(tiny())["run_id"]
        commands.register_model(f"run:{run_id}@4", tiny())
        promote(f"run:{run_id}@6", tiny(), reason="a test")
        run = run_folder(path, run_id)
        run.finish(run.result.model_copy(update={"best_step": 2}))  # so small a training gets better to the end
    copy = path.with_name("copy")
    shutil.copytree(path, copy, ignore=shutil.ignore_patterns(*DATABASE))
    copy_database(path / "mlflow.db", copy / "mlflow.db")
    return path, copy, run_id


@pytest.fixture
def run(monkeypatch, isolated, made):
    """The finished run's folder, in that home as it was made. It is put back in its place: addresses are absolute."""
    path, copy, run_id = made
    monkeypatch.setenv("PIKAVAE_HOME", str(path))
    yield run_folder(path, run_id)
    put_back(path, copy)


def put_back(path, copy):
    for name in [path, *path.rglob("*")]:
        if name.is_dir():
            name.chmod(0o755)
    for name in path.iterdir():
        if name.is_dir():
            shutil.rmtree(name)
        elif name.name not in DATABASE:
            name.unlink()
    shutil.copytree(copy, path, ignore=shutil.ignore_patterns(*DATABASE), dirs_exist_ok=True)
    copy_database(copy / "mlflow.db", path / "mlflow.db")


def copy_database(source, target):
    """Through SQLite, into the same file: MLflow keeps connections open."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def steps_of(run, kind):
    return [step_of(path) for path in sorted((run.path / kind).glob("step-*"))]


def logged_models(run):
    return client().search_logged_models([client().get_run(run.run_id).info.experiment_id])


def logged_steps(run):
    """Steps of the run's checkpoints in MLflow; each has its bytes, and there are no others."""
    models = logged_models(run)
    folders = {local_folder(model.artifact_location) for model in models}
    root = local_folder(client().get_run(run.run_id).info.artifact_uri).parents[1]
    assert {path for path in root.glob("models/*/artifacts") if any(path.iterdir())} == folders
    return sorted(int(model.params["step"]) for model in models if model.model_type == "checkpoint")


KEPT = [2, 4, 6, 12]
"""Steps that stay with --keep 1: the best, two that are registered, and the last; 8 and 10 are free."""


def assert_versions_are_whole():
    for version in client().search_model_versions():
        files = local_folder(client().get_model_version_download_uri(version.name, version.version))
        assert file_hashes(files) == json.loads(read_version_tags(version.tags)[MANIFEST_TAG])
