"""Whatever a model is called or wherever it comes from, it becomes a version by the same path, with scores.

And it leaves: what is exported comes back as the version that it was; and it is told where each version comes from.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as TheirAutoencoder
from mlflow import MlflowClient
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from flows.cli import main
from pikavae import operations, runs
from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.home import home
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import read_snapshot, write_snapshot
from pikavae.operations.cards import has_the_latents_of_others
from pikavae.presets import parse_config
from pikavae.registry import production, transactions
from pikavae.registry.ledger import read as read_ledger
from pikavae.tracking import connect, tracking_uri
from tests.published_forms import write_form
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
    exported = operations.export_model(str(made.version), tmp_path / "out", config)
    assert json.loads((exported / "config.json").read_text())["scaling_factor"] == 0.5  # the one that it came with


@pytest.mark.parametrize(("trainable", "is_theirs"), [("all", False), ("decoder", True)])
def test_latents_are_those_of_the_weights_it_began_with_where_the_decoder_alone_was_trained(
    tmp_path, trainable, is_theirs
):
    settings = parse_config({"model": SIZES.model_dump(), "training": {"trainable": trainable}})
    write_snapshot(tmp_path, AutoencoderKL(SIZES), image_size=32, settings=settings.to_yaml())
    assert has_the_latents_of_others(tmp_path) is is_theirs


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


def test_an_export_has_the_measured_scaling_and_comes_back_as_the_version_that_it_was(finished, tmp_path):
    version = operations.show_model(finished["version"], tiny())
    out = operations.export_model(str(version.version), tmp_path / "out", tiny())
    theirs = TheirAutoencoder.from_pretrained(out, local_files_only=True).eval()
    for name in ("scaling_factor", "shift_factor"):
        assert theirs.config[name] == finished["metrics"][name]
    ours = read_snapshot(runs.find_run(home(), finished["run_id"]).snapshot())
    images = torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(
            theirs.decode(theirs.encode(images).latent_dist.mode()).sample,
            ours.decode(ours.encode(images).mode()),
            rtol=0,
            atol=1e-4,
        )
    card = (out / "README.md").read_text()
    assert card.count(f"pikavae version {version.version}") == 2
    assert f"PSNR {finished['metrics']['psnr']:.2f} dB" in card
    before = client().search_model_versions("name='pikavae'")
    back = operations.import_model(str(out), parse_config({}))
    assert (back.version, back.reused) == (version, True)
    assert client().search_model_versions("name='pikavae'") == before
    again = operations.export_model(str(out), tmp_path / "again", parse_config({}))
    assert {file.name: file.read_bytes() for file in again.iterdir() if file.name != "README.md"} == {
        file.name: file.read_bytes() for file in out.iterdir() if file.name != "README.md"
    }


def test_the_card_of_an_evaluation_is_with_its_run(finished):
    assert "evaluation/model_card.md" in {
        file.path for file in client().list_artifacts(finished["run_id"], "evaluation")
    }
    card = Path(client().download_artifacts(finished["run_id"], "evaluation/model_card.md")).read_text()
    assert "on the pictures of sprites at 16 px, 6 steps of 2 pictures, from new weights" in card


@pytest.fixture
def promoted(finished, tmp_path, monkeypatch):
    """A copy of the home, in which the run's version was promoted."""
    copy = tmp_path / "copy"
    shutil.copytree(home(), copy, symlinks=True)
    monkeypatch.setenv("PIKAVAE_HOME", str(copy))
    operations.relocate()
    production.promote(
        connect(copy), copy, model_name="pikavae", version=finished["version"], reason='for\n"lineage" ../'
    )
    return finished


def test_lineage_leads_from_the_pictures_to_the_alias_and_says_what_is_gone(promoted, capsys):
    number = promoted["version"]
    assert main(["models", "lineage", str(number), "--json"]) == 0
    captured = capsys.readouterr()
    links = json.loads(captured.out.splitlines()[-1])["lineage"]
    names = {link["what"]: link["name"] for link in links}
    assert list(dict.fromkeys(link["what"] for link in links)) == [
        "source",
        "prepared set",
        "run",
        "snapshot",
        "report",
        "version",
        "event",
        "alias",
    ]
    version = operations.show_model(number, tiny())
    assert (names["source"], names["prepared set"]) == ("sprites", promoted["fingerprint"])
    assert (names["run"], names["report"]) == (promoted["run_id"], Path(promoted["report"]).name)
    assert (names["snapshot"], names["alias"]) == (version.tags["pikavae.snapshot"], "champion")
    events = [link for link in links if link["what"] == "event"]
    assert [event["name"] for event in events] == ["1 promote intent", "2 promote done"]
    assert all(link["there"] for link in links if link["what"] not in ("source", "alias"))
    assert len(captured.err.splitlines()) == len(links)

    client().delete_run(promoted["run_id"])
    shutil.rmtree(home() / "prepared")
    shutil.rmtree(home() / "evaluations" / names["report"])
    client().delete_model_version("pikavae", str(number))
    assert main(["models", "lineage", str(number)]) == 0
    lines = capsys.readouterr().out.splitlines()
    gone = {line.split("  ")[0].strip() for line in lines if "(gone)" in line}
    assert gone == {"prepared set", "run", "snapshot", "report", "version"}
    assert f"run           {promoted['run_id']} (gone)" in "\n".join(lines)
    assert main(["models", "lineage", "99"]) == 2
    assert "version 99 of 'pikavae': no such version" in capsys.readouterr().err


def test_the_ledger_has_a_copy_in_mlflow_that_the_next_event_makes_good(promoted, monkeypatch, caplog):
    def copy():
        (run,) = client().search_runs(
            [client().get_experiment_by_name(production.PRODUCTION_NAME).experiment_id],
            "tags.`pikavae.ledger` = 'true'",
        )
        return Path(client().download_artifacts(run.info.run_id, "ledger.jsonl")).read_bytes()

    ledger = home() / "production" / "ledger.jsonl"
    assert copy() == ledger.read_bytes()
    entry = read_ledger(ledger)[-1].entry(reason="again")

    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalArtifactRepository, "log_artifact", full)
        transactions.record(connect(home()), home(), entry)
    assert "the ledger's copy in MLflow was not written: no space left" in caplog.text
    assert copy() != ledger.read_bytes()
    transactions.record(connect(home()), home(), entry)
    assert copy() == ledger.read_bytes()
