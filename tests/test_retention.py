"""Free disk space: what goes is what nothing refers to, whatever happens meanwhile."""

import hashlib
import json
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from pikavae import operations
from pikavae.config import load_config
from pikavae.errors import PikavaeError, UserError
from pikavae.files import exclusive
from pikavae.home import home
from pikavae.model.snapshot import read_snapshot
from pikavae.operations import retention
from pikavae.operations.models import find_model
from pikavae.registry.package import file_hashes
from pikavae.registry.store import local_folder
from pikavae.runs import find_run, step_of
from pikavae.tracking import tracking_uri
from tests.conftest import TINY

STEPS = 12


def tiny(**overrides):
    numbers = {name: json.loads(v) if isinstance(v, str) else [int(x) for x in v] for name, v in TINY.items()}
    small = {"training.steps": STEPS, "training.keep_checkpoints": 6, "data.sprites_count": 8}
    return load_config("demo", {**numbers, **small, **overrides})


def client():
    return MlflowClient(tracking_uri(home()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A home with one finished run of six snapshots: 4 is registered, 6 promoted, the last registered."""
    path = tmp_path_factory.mktemp("made") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        done = operations.run(tiny())
        operations.register_model(f"run:{done['run_id']}@4", tiny())
        operations.promote(f"run:{done['run_id']}@6", tiny(), reason="a test")
    return path, done["run_id"]


@pytest.fixture
def run(monkeypatch, isolated, made):
    """That home as it was made, put back afterwards: addresses in it are absolute. The run's folder."""
    path, run_id = made
    monkeypatch.setenv("PIKAVAE_HOME", str(path))
    copy = path.with_name("copy")
    shutil.copytree(path, copy, symlinks=True)
    yield find_run(path, run_id)
    _make_writable(path)
    shutil.rmtree(path)
    copy.rename(path)


def _make_writable(path):
    for folder in (path, *path.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)


def steps(run, kind):
    return [step_of(path) for path in sorted((run.path / kind).glob("step-*"))]


def logged(run):
    """Steps of the run's checkpoints in MLflow, and how many packages there are."""
    experiment = client().get_run(run.run_id).info.experiment_id
    models = client().search_logged_models([experiment])
    kinds = [model.model_type for model in models]
    assert all(local_folder(model.artifact_location).is_dir() for model in models)
    folders = {local_folder(model.artifact_location) for model in models}
    root = local_folder(client().get_experiment(experiment).artifact_location) / "models"
    assert {path for path in root.glob("*/artifacts") if any(path.iterdir())} == folders, "bytes without a record"
    steps = sorted(int(model.params["step"]) for model in models if model.model_type == "checkpoint")
    return steps, kinds.count("autoencoder")


def listing(path):
    """Every name below a folder, with the hash of every file but the database, and the database's rows."""
    database = {"mlflow.db", "mlflow.db-wal", "mlflow.db-shm"}
    names = {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        for file in path.rglob("*")
        if file.name not in database
    }
    with closing(sqlite3.connect(path / "mlflow.db")) as opened:
        return names, list(opened.iterdump())


def test_best_last_and_what_is_referred_to_stay(run):
    assert steps(run, "snapshots") == [2, 4, 6, 8, 10, 12]
    best = run.result["best_step"]
    kept = sorted({4, 6, 12, best})
    removed = operations.prune(keep=1)
    assert steps(run, "snapshots") == kept
    assert logged(run) == (kept, 3)
    assert steps(run, "checkpoints") == [12]
    for what in ("snapshot", "logged model"):
        assert sorted(item.step for item in removed if item.what == what) == sorted({2, 4, 6, 8, 10, 12} - set(kept))
    assert all(item.bytes > 0 and item.run_id == run.run_id for item in removed)

    for version in client().search_model_versions():
        files = local_folder(client().get_model_version_download_uri(version.name, version.version))
        assert file_hashes(files) == json.loads(version.tags["pikavae.manifest"])
    read_snapshot(find_model("champion", "pikavae"))
    import mlflow

    mlflow.set_tracking_uri(tracking_uri(home()))
    champion = mlflow.pyfunc.load_model("models:/pikavae-production@champion")
    assert champion.predict(np.zeros((1, 3, 16, 16), np.float32)).shape == (1, 3, 16, 16)
    mlflow.set_tracking_uri(None)

    assert operations.prune(keep=1) == []
    assert operations.run(tiny())["stages"]["train"]["status"] == "reused"
