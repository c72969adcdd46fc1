"""Fixtures of a store with versions: for the tests of registry, production and tracker."""

from __future__ import annotations

import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.production.changes import promote
from pikavae.tracker import run_log
from pikavae.tracker.client import Workspace
from tests.support.house import House, copied, files_alone
from tests.support.mlflow_server import free_port, mlflow_server


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory):
    """A snapshot of factor 4 with shortcuts trained in, and a file that is none of a snapshot's."""
    folder = tmp_path_factory.mktemp("snapshots") / "step-00000400"
    folder.mkdir()
    torch.manual_seed(0)
    model = AutoencoderKL(
        ModelConfig(channels=(8, 8, 16), norm_groups=4, num_res_blocks=1, resample_shortcuts=True, latent_channels=3)
    )
    write_snapshot(folder, model, image_size=32, config="data: {image_size: 32}\n")
    (folder / "optimizer.pt").write_bytes(b"\x80\x02stray")
    return folder


@pytest.fixture(scope="session")
def registry_home(tmp_path_factory):
    return tmp_path_factory.mktemp("state of Zoé")


@pytest.fixture
def client(registry_home, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Workspace(registry_home).client


@pytest.fixture
def run(client, registry_home):
    experiment = Workspace(registry_home).experiment_id("registry")
    return run_log.RunLog.start(client, experiment, "a run", tags={}, params={})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The address of an MLflow server with a store of its own."""
    with mlflow_server(tmp_path_factory.mktemp("server"), free_port()) as address:
        yield address


@pytest.fixture(scope="session")
def first_house(tmp_path_factory):
    """The home with two candidates that each test has a copy of."""
    folder = tmp_path_factory.mktemp("first house")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return House(folder / "home", folder)


@pytest.fixture
def house(first_house, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return copied(first_house.home, tmp_path / "home")


@pytest.fixture
def quick(house, monkeypatch):
    """The files compared as the smoke test does, but without its process of five seconds: for what comes after it."""
    monkeypatch.setattr(promote, "smoke_test", files_alone)
