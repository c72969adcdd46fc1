"""Whatever a model is called or wherever it comes from, it becomes a version by the same path, with scores."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from flows.cli import main
from pikavae import operations, runs
from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.home import home
from pikavae.presets import parse_config
from pikavae.tracking import tracking_uri
from tests.test_exchange import write_form
from tests.test_pipeline import tiny

SIZES = ModelConfig(channels=(8, 8), norm_groups=4, num_res_blocks=1)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with one finished run, for tests that add versions, and what the run returned."""
    path = tmp_path_factory.mktemp("registering") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path))
        return path, operations.run(tiny())


@pytest.fixture
def finished(monkeypatch, isolated, shared_home):
    monkeypatch.setenv("PIKAVAE_HOME", str(shared_home[0]))
    return shared_home[1]


def client():
    return MlflowClient(tracking_uri(home()))


def scores_of(version):
    """The scores of a version's logged model, as MLflow ranks them."""
    return {metric.key: metric.value for metric in client().get_logged_model(version.model_id).metrics}


@pytest.mark.parametrize("which", ["@2", "@4", ""])
def test_every_kept_checkpoint_of_a_run_is_registered_with_its_own_scores(finished, which):
    run = runs.find_run(home(), finished["run_id"])
    done = operations.register_model(f"run:{run.run_id}{which}", tiny())
    assert done.version.tags["pikavae.snapshot"] == runs.snapshot_digest(run.snapshot(which.strip("@") or None))
    assert done.version.metrics["val/psnr"] == scores_of(done.version)["val/psnr"]
    if which == "":
        assert done.version.version == finished["version"]
    by_path = operations.register_model(str(run.snapshot(which.strip("@") or None)), tiny())
    assert (by_path.version, by_path.reused) == (done.version, True)


@pytest.mark.parametrize("form", ["snapshot", "LDM file"])
def test_weights_of_a_path_become_a_version_with_scores_once(finished, tmp_path, form):
    sizes = SIZES.model_copy(update={"latent_channels": len(form) % 5 + 2})  # not the bytes of another form
    path = str(write_form(form, tmp_path / "theirs", sizes))
    config = tiny(**{"model.latent_channels": sizes.latent_channels, "model.num_res_blocks": 1})
    done = operations.register_model(path, config)
    run = client().get_run(done.version.run_id)
    assert (run.info.status, done.reused) == ("FINISHED", False)
    assert done.version.metrics["val/psnr"] == pytest.approx(run.data.metrics["val/psnr"])
    assert scores_of(done.version) == pytest.approx(done.version.metrics)
    assert done.version.tags["pikavae.evaluation_set"]
    said = client().get_model_version("pikavae", str(done.version.version)).description
    assert said.startswith("PSNR")
    assert "not measured" not in said
    assert f"Imported from `{path}`" in said
    again = operations.register_model(path, config)
    assert (again.version, again.reused) == (done.version, True)


def test_an_imported_version_gets_scores_when_it_is_first_evaluated(finished, tmp_path):
    path = write_form("diffusers folder", tmp_path / "theirs", SIZES.model_copy(update={"channels": (8, 16)}))
    made = operations.import_model(str(path), parse_config({})).version
    assert made.metrics == {}
    config = tiny(**{"model.channels": [8, 16]})
    for model in (str(made.version), f"run:{made.run_id}"):
        report = operations.evaluate_model(model, config).report
        assert operations.show_model(made.version, config).metrics["val/psnr"] == report.metrics["psnr"]
    measured = operations.show_model(made.version, config)
    operations.evaluate_model(str(made.version), tiny(**{"data.sprites_seed": 3}))
    assert operations.show_model(made.version, config) == measured


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("1", "register '1': a version already"),
        ("champion", "register 'champion': a version already"),
        ("run:none", "run:none: no such run"),
        ("nowhere/vae.ckpt", "import 'nowhere/vae.ckpt': no such file or folder"),
    ],
)
def test_what_cannot_be_registered_is_said_in_one_line(finished, model, said):
    with pytest.raises(UserError, match=said):
        operations.register_model(model, tiny())


def test_the_command_registers_a_file_of_weights(finished, tmp_path, capsys, tiny_flags):
    path = write_form("LDM file", tmp_path / "theirs", SIZES.model_copy(update={"channels": (16, 8)}))
    flags = [word for word in tiny_flags if word not in ("--model.channels", "8")]
    assert main(["register", str(path), *flags, "--model.channels", "16", "8", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["model"] == "pikavae"
    assert operations.show_model(done["version"], tiny()).metrics
    assert Path(client().get_run(operations.show_model(done["version"], tiny()).run_id).info.run_name).name == path.name
