"""Production outlives what is deleted elsewhere, goes back in one step, and refuses without moving anything."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.production.changes import promote
from pikavae.production.changes.anchor import ledger_path
from pikavae.production.packages import smoke
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.packages.smoke import smoke_test
from pikavae.registry import versions
from pikavae.registry.package import file_hashes
from pikavae.tracker.client import Workspace
from tests.support.house import NAME, House


def delete_everything_else(house, *arguments):
    """Delete every run, version and logged model besides production, and have MLflow collect its garbage."""
    client = house.client
    for version in versions.list_versions(client, NAME):
        client.delete_model_version(NAME, str(version.version))
    client.delete_registered_model(NAME)
    for experiment in client.search_experiments():
        if experiment.name == PRODUCTION_NAME:
            continue
        for model in client.search_logged_models([experiment.experiment_id]):
            client.delete_logged_model(model.model_id)
        for run in client.search_runs([experiment.experiment_id]):
            client.delete_run(run.info.run_id)
    environment = {**os.environ, "MLFLOW_TRACKING_URI": client.tracking_uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", f"sqlite:///{house.home / 'mlflow.db'}"]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def check_that_production_outlives(house):
    house.promote(1)
    house.promote(2)
    expected = house.predict()
    delete_everything_else(house)
    assert not [experiment for experiment in house.client.search_experiments() if list_runs(house, experiment)]
    np.testing.assert_array_equal(house.predict(), expected)
    back = house.rollback()
    assert (back.version, back.previous) == (1, 2)
    assert not np.allclose(house.predict(), expected)


def list_runs(house, experiment):
    return experiment.name != PRODUCTION_NAME and house.client.search_runs([experiment.experiment_id])


def test_production_outlives_the_deletion_of_all_else(house):
    check_that_production_outlives(house)


@pytest.mark.slow
def test_production_outlives_the_deletion_of_all_else_behind_a_server(server, tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    house = House(tmp_path / "home", tmp_path)
    house.promote(1)
    expected = house.predict()
    served = next(path for path in tmp_path_factory.getbasetemp().glob("server*") if (path / "mlflow.db").exists())
    here, house.workspace = house.workspace, Workspace(served)
    delete_everything_else(house, "--tracking-uri", server)
    house.workspace = here
    np.testing.assert_array_equal(house.predict(), expected)
    with pytest.raises(UserError, match="no previous champion"):
        house.rollback()


def test_promotion_moves_the_aliases_and_the_ledger_tells_it(house, quick):
    first = house.promote(1, reason='first, "quoted",\nand ../over lines')
    assert (first.version, first.production_version, first.previous, first.changed) == (1, 1, None, True)
    assert house.promote(1).changed is False
    assert house.promote(2).previous == 1
    back = house.rollback("worse")
    assert (back.version, back.production_version, back.previous) == (1, 1, 2)
    events = promote.history(house.home)
    assert [(e["action"], e["state"], e["version"]) for e in events] == [
        (action, state, version)
        for action, version in (("promote", 1), ("promote", 2), ("rollback", 1))
        for state in ("intent", "done")
    ]
    assert events[0]["reason"] == 'first, "quoted",\nand ../over lines'
    assert events[3]["champion_before"] == 1
    assert house.disagreements() == []
    store = house.home / "production" / "store" / events[0]["store"]
    assert file_hashes(store) == events[0]["manifest"]
    assert all(path.stat().st_mode & 0o222 == 0 for path in store.rglob("*"))


def test_what_is_refused_moves_nothing(house, quick, monkeypatch):
    house.promote(1)
    before = house.state()
    for version, reason, complaint in ((2, " ", "--reason: it is empty"), (7, "x", "version 7 of 'candidates'")):
        with pytest.raises(UserError, match=complaint):
            house.promote(version, reason)
    with pytest.raises(UserError, match="no previous champion"):
        house.rollback()

    def fails(*_):
        raise PikavaeError("smoke test failed")

    monkeypatch.setattr(promote, "smoke_test", fails)
    with pytest.raises(PikavaeError, match="smoke test failed"):
        house.promote(2)
    assert house.state() == before


def put_nan_into(model):
    model.decoder.conv_out.bias.data.fill_(math.nan)


def make_overflow(model):
    """Give the attention finite weights of such a size that its products are infinite."""
    attention = model.decoder.mid_block.attentions[0]
    for layer in (attention.to_q, attention.to_k):
        layer.weight.data.fill_(torch.finfo(torch.float32).max)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put_nan_into, ".*holds NaN or infinite numbers"),
        (make_overflow, "2 pictures of 16x16 came back with values that are not finite$"),
    ],
)
def test_a_model_that_gives_nan_fails_the_smoke_test_and_leaves_nothing(house, tmp_path, change, said):
    house.register(tmp_path, 3, change)
    with pytest.raises(PikavaeError, match=rf"smoke test of models:/pikavae-production/1: {said}"):
        house.promote(3)
    assert house.state() == ([], {})
    assert house.client.search_registered_models(f"name = '{PRODUCTION_NAME}'") == []


def test_the_smoke_test_has_a_time_limit(house):
    with pytest.raises(PikavaeError, match=r"not done after 0\.05 seconds"):
        smoke_test(f"models:/{NAME}/1", house.client.tracking_uri, seconds=0.05)


def test_a_server_that_is_away_is_told_in_one_line_and_nothing_moves(house, quick, monkeypatch):
    from mlflow import MlflowClient

    house.promote(1)
    house.promote(2)
    before, here = house.state(), house.workspace
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        house.workspace = Workspace(here.home)
    house.workspace._client = MlflowClient(tracking_uri="http://127.0.0.1:9")
    house.workspace._probed = math.inf  # it answered a moment ago
    for call in (lambda: house.promote(1), house.rollback):
        with pytest.raises(PikavaeError, match=r"\AMLflow store http://127.0.0.1:9: .*\Z"):
            call()
    house.workspace = here
    assert house.state() == before


def test_a_damaged_ledger_refuses_promotion_and_rollback(house, quick):
    house.promote(1)
    house.promote(2)
    path = ledger_path(house.home)
    path.write_bytes(path.read_bytes().replace(b'"because"', b'"another"', 1))
    before = house.state()
    for call in (lambda: house.promote(1), house.rollback):
        with pytest.raises(DamagedFileError, match="line 1 was edited"):
            call()
    assert house.state() == before


def test_bytes_damaged_in_the_store_are_not_rolled_back_to(house, quick):
    house.promote(1)
    house.promote(2)
    store = house.home / "production" / "store" / promote.history(house.home)[0]["store"]
    (store / "MLmodel").chmod(0o644)
    (store / "MLmodel").write_text("another")
    before = house.state()
    with pytest.raises(DamagedFileError, match="damaged in the production store: MLmodel"):
        house.rollback()
    assert house.state() == before


def test_a_swapped_weights_file_is_refused(house, quick):
    house.promote(1)
    before = house.state()
    candidate = versions.get_version(house.client, NAME, 2)
    snapshot = versions.snapshot_folder_of(house.client, candidate, house.home / "downloads")
    weights = snapshot / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DamagedFileError):
        house.promote(2)
    assert house.state() == before


def test_a_model_that_diffusers_reads_otherwise_fails_the_smoke_test(house, monkeypatch, tmp_path):
    """The two agree to rounding: a consumer that asks for more than that tells by how much they differ."""
    consumer = Path(smoke.__file__).with_name("consumer.py").read_text()
    (tmp_path / "consumer.py").write_text(consumer.replace("SAME_IN_DIFFUSERS = 1e-2", "SAME_IN_DIFFUSERS = -1.0"))
    monkeypatch.setattr(smoke, "__file__", str(tmp_path / "smoke.py"))
    with pytest.raises(PikavaeError, match=r"2 pictures of 16x16 differ by .* from those of diffusers$") as caught:
        smoke_test(f"models:/{NAME}/1", house.client.tracking_uri)
    assert float(str(caught.value).partition("differ by ")[2].split()[0]) < 1e-4
