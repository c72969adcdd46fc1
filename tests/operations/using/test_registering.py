"""Whatever a model is called or wherever it comes from, it becomes a version by the same path, with scores.

And it leaves: what is exported comes back as the version that it was; and it is told where each version comes from.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as TheirAutoencoder
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from flows.catalog import COMMANDS
from flows.cli import main
from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.operations.resolving.scaling import scaling_of
from pikavae.operations.stages.describing import card_of, has_the_latents_of_others, newest_report
from pikavae.presets import parse_config
from pikavae.production.changes import moves, promote
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.record.ledger import read as read_ledger
from pikavae.tracker.client import Workspace
from pikavae.tracker.tags import EVALUATED_TAG
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.files import sha256_of
from pikavae.workspace.home import home
from tests.conftest import TINY
from tests.support import commands
from tests.support.commands import bare_client as client
from tests.support.configs import tiny
from tests.support.house import files_alone
from tests.support.published_forms import write_form

SIZES = ModelConfig(channels=(8, 8), norm_groups=4, num_res_blocks=1)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with one finished run, for tests that add versions, and what the run returned."""
    path = tmp_path_factory.mktemp("registering") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path))
        return path, commands.run(tiny())


@pytest.fixture
def finished(monkeypatch, isolated, shared_home):
    monkeypatch.setenv("PIKAVAE_HOME", str(shared_home[0]))
    return shared_home[1]


def scores_of(version):
    """The scores of a version's logged model, as MLflow ranks them."""
    return {metric.key: metric.value for metric in client().get_logged_model(version.model_id).metrics}


def test_the_card_of_an_evaluation_is_with_its_run_and_those_of_other_snapshots_below(finished):
    commands.register_model(f"run:{finished['run_id']}@2", tiny())
    trained = len(commands.prepare(tiny()).prepared_set.train)
    for folder, steps, then in (
        ("evaluation", 6, ""),
        ("evaluation/step-00000002", 2, "; the training went on to step 6"),
    ):
        files = {file.path for file in client().list_artifacts(finished["run_id"], folder)}
        assert {f"{folder}/{name}" for name in ("model_card.md", "report.html", "report.json")} <= files
        card = Path(client().download_artifacts(finished["run_id"], f"{folder}/model_card.md")).read_text()
        assert (
            f"on the {trained} training pictures of sprites at 16 px, {steps} steps of 2 pictures ({2 * steps} "
            f"pictures seen, {2 * steps / trained:.1f} times each){then}, from new weights" in card
        )
        assert "evaluation pictures (posterior's mode)" in card


def test_a_version_of_another_snapshot_leaves_its_run_as_it_was(finished):
    def page_of_run():
        """The run's tags but the names of its evaluations, its latest scores and the digests of its report's files."""
        run = client().get_run(finished["run_id"])
        told = (EVALUATED_TAG, "mlflow.log-model")
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith(told)}
        files = client().list_artifacts(finished["run_id"], "evaluation")
        texts = {
            file.path: sha256_of(Path(client().download_artifacts(run.info.run_id, file.path)))
            for file in files
            if not file.is_dir
        }
        scores = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
        return tags, scores, texts

    before = page_of_run()
    assert before[0]["pikavae.version"] == str(finished["version"])
    sprites = tiny(**{"data.sprites_seed": 5})  # registered by no other test
    other = commands.register_model(f"run:{finished['run_id']}@2", sprites)
    assert (other.reused, other.version.run_id) == (False, finished["run_id"])
    assert page_of_run() == before


@pytest.mark.parametrize("which", ["@2", "@4", ""])
def test_every_kept_checkpoint_of_a_run_is_registered_with_its_own_scores(finished, which):
    run = runs.run_folder(home(), finished["run_id"])
    done = commands.register_model(f"run:{run.run_id}{which}", tiny())
    assert done.version.tags["pikavae.snapshot"] == runs.snapshot_digest(run.snapshot(which.strip("@") or None))
    assert done.version.metrics["val/psnr"] == scores_of(done.version)["val/psnr"]
    if which == "":
        assert done.version.version == finished["version"]
    by_path = commands.register_model(str(run.snapshot(which.strip("@") or None)), tiny())
    assert (by_path.version, by_path.reused) == (done.version, True)


@pytest.mark.parametrize(("form", "latent_channels"), [("snapshot", 5), ("LDM file", 6)])
def test_weights_of_a_path_become_a_version_with_scores_once(finished, tmp_path, form, latent_channels):
    sizes = SIZES.model_copy(update={"latent_channels": latent_channels})  # not the weights of the other form
    path = str(write_form(form, tmp_path / "theirs", sizes))
    config = tiny(**{"model.latent_channels": sizes.latent_channels, "model.num_res_blocks": 1})
    done = commands.register_model(path, config)
    run = client().get_run(done.version.run_id)
    assert (run.info.status, done.reused) == ("FINISHED", False)
    assert done.version.metrics["val/psnr"] == pytest.approx(run.data.metrics["val/psnr"])
    assert scores_of(done.version) == pytest.approx(done.version.metrics)
    assert done.version.tags["pikavae.evaluation_set"]
    said = client().get_model_version("pikavae", str(done.version.version)).description
    assert said.startswith("PSNR")
    assert "not measured" not in said
    assert f"Imported from `{path}`" in said
    again = commands.register_model(path, config)
    assert (again.version, again.reused) == (done.version, True)


def test_an_imported_version_gets_scores_when_it_is_first_evaluated(finished, tmp_path):
    path = write_form("diffusers folder", tmp_path / "theirs", SIZES.model_copy(update={"channels": (8, 16)}))
    made = commands.import_model(str(path), parse_config({})).version
    assert made.metrics == {}
    config = tiny(**{"model.channels": [8, 16]})
    for model in (str(made.version), f"run:{made.run_id}"):
        report = commands.beside(model, config).evaluated.report  # what the command evaluate does
        assert commands.show_model(made.version, config).metrics["val/psnr"] == report.metrics["psnr"]
    measured = commands.show_model(made.version, config)
    commands.evaluate_model(str(made.version), tiny(**{"data.sprites_seed": 3}))
    assert commands.show_model(made.version, config) == measured
    exported = commands.export_model(str(made.version), tmp_path / "out", config)
    assert json.loads((exported / "config.json").read_text())["scaling_factor"] == 0.5  # the one that it came with


@pytest.mark.parametrize(("trainable", "is_theirs"), [("all", False), ("decoder", True)])
def test_latents_are_those_of_the_weights_it_began_with_where_the_decoder_alone_was_trained(
    tmp_path, trainable, is_theirs
):
    settings = parse_config({"model": SIZES.model_dump(), "training": {"trainable": trainable}})
    write_snapshot(tmp_path, AutoencoderKL(SIZES), image_size=32, config=settings.to_yaml())
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
        commands.register_model(model, tiny())


def test_the_command_registers_a_file_of_weights(finished, tmp_path, capsys):
    path = write_form("LDM file", tmp_path / "theirs", SIZES.model_copy(update={"channels": (16, 8)}))
    own = {name: value for name, value in TINY.items() if COMMANDS["register"].reads(name) and name != "model.channels"}
    flags = [
        word for name, value in own.items() for word in (f"--{name}", *([value] if isinstance(value, str) else value))
    ]
    assert main(["register", str(path), *flags, "--model.channels", "16", "8", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["model"] == "pikavae"
    assert commands.show_model(done["version"], tiny()).metrics
    assert Path(client().get_run(commands.show_model(done["version"], tiny()).run_id).info.run_name).name == path.name


def test_an_export_has_the_measured_scaling_and_comes_back_as_the_version_that_it_was(finished, tmp_path):
    version = commands.show_model(finished["version"], tiny())
    out = commands.export_model(str(version.version), tmp_path / "out", tiny())
    theirs = TheirAutoencoder.from_pretrained(out, local_files_only=True).eval()
    latents = commands.encode(str(version.version), tiny(), tmp_path / "latents", logvar=False)
    assert theirs.config["scaling_factor"] == pytest.approx(latents["scaling_factor"], rel=1e-6)
    assert theirs.config["shift_factor"] == pytest.approx(latents["shift"], rel=1e-6)
    assert theirs.config["scaling_factor"] != pytest.approx(finished["metrics"]["scaling_factor"], rel=1e-6)
    ours = read_snapshot(runs.run_folder(home(), finished["run_id"]).snapshot())
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
    trained = len(commands.prepare(tiny()).prepared_set.train)
    assert f"Scaling factor {theirs.config['scaling_factor']:.6g}, " in card
    assert f"measured on the {trained} training pictures" in card
    assert f"on the {trained} training pictures of sprites at 16 px, 6 steps of 2 pictures (12 pictures seen" in card
    assert f"PSNR {finished['metrics']['psnr']:.2f} dB" in card
    before = client().search_model_versions("name='pikavae'")
    back = commands.import_model(str(out), parse_config({}))
    assert (back.version, back.reused) == (version, True)
    assert client().search_model_versions("name='pikavae'") == before
    again = commands.export_model(str(out), tmp_path / "again", parse_config({}))
    assert {file.name: file.read_bytes() for file in again.iterdir() if file.name != "README.md"} == {
        file.name: file.read_bytes() for file in out.iterdir() if file.name != "README.md"
    }


def test_the_card_of_a_training_that_ended_by_time_tells_the_steps_that_it_took(finished, tmp_path):
    run = runs.run_folder(home(), finished["run_id"])
    copy = tmp_path / "home"
    shutil.copytree(home(), copy, symlinks=True)
    result = run.result.model_copy(update={"steps": 4, "images_seen": 8, "snapshot": "step-00000004"})
    folder = copy / "runs" / run.run_id
    (folder / "train.json").write_text(result.to_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(copy))
        card = card_of(commands.workspace(), folder / "snapshots" / "step-00000004", None, "a")
        earlier = card_of(commands.workspace(), folder / "snapshots" / "step-00000002", None, "a")
    assert "4 steps of 2 pictures (8 pictures seen" in card
    assert "2 steps of 2 pictures (4 pictures seen" in earlier
    assert "the training went on to step 4" in earlier


@pytest.mark.parametrize("known", ["training pictures", "a report", "nothing"])
def test_a_scaling_is_that_of_the_training_pictures_or_says_whose_it_is(finished, tmp_path, monkeypatch, known):
    copy = tmp_path / "home"
    shutil.copytree(home(), copy, symlinks=True)
    monkeypatch.setenv("PIKAVAE_HOME", str(copy))
    snapshot = runs.run_folder(copy, finished["run_id"]).snapshot()
    if known != "training pictures":
        shutil.rmtree(copy / "prepared")
    report = newest_report(commands.workspace(), snapshot) if known != "nothing" else None
    scaling = scaling_of(commands.workspace(), snapshot, report, tiny())
    assert (None if scaling is None else scaling.side) == {
        "training pictures": "training",
        "a report": "evaluation",
        "nothing": None,
    }[known]
    assert (
        scaling_of(commands.workspace(), snapshot, report, tiny()) == scaling
    )  # found, and the same to the last digit


@pytest.fixture
def promoted(finished, tmp_path, monkeypatch):
    """A copy of the home, in which the run's version was promoted."""
    copy = tmp_path / "copy"
    shutil.copytree(home(), copy, symlinks=True)
    monkeypatch.setenv("PIKAVAE_HOME", str(copy))
    commands.relocate()
    monkeypatch.setattr(promote, "smoke_test", files_alone)
    promote.promote(Workspace(copy), model_name="pikavae", version=finished["version"], reason='for\n"lineage" ../')
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
    version = commands.show_model(number, tiny())
    assert (names["source"], names["prepared set"]) == ("sprites", promoted["fingerprint"])
    assert (names["run"], names["report"]) == (promoted["run_id"], Path(promoted["report"]).name)
    assert (names["snapshot"], names["alias"]) == (version.tags["pikavae.snapshot"], "champion")
    events = [link for link in links if link["what"] == "event"]
    assert [event["name"] for event in events] == ["1 promote intent", "2 promote done"]
    assert all(link["there"] for link in links if link["what"] not in ("source", "alias"))
    assert len([line for line in captured.err.splitlines() if not line.startswith(" ")]) == len(links)

    client().delete_run(promoted["run_id"])
    shutil.rmtree(home() / "prepared")
    shutil.rmtree(home() / "evaluations" / names["report"])
    client().delete_model_version("pikavae", str(number))
    assert main(["models", "lineage", str(number)]) == 0
    lines = capsys.readouterr().out.splitlines()
    gone = {line.split("  ")[0].strip() for line in lines if "(gone)" in line}
    assert gone == {"prepared set", "run", "snapshot", "report", "version"}
    assert f"run           {promoted['run_id'][:8]} (gone)" in "\n".join(lines)
    assert main(["models", "lineage", "99"]) == 2
    assert "version 99 of 'pikavae': no such version" in capsys.readouterr().err


def test_the_ledger_has_a_copy_in_mlflow_that_the_next_event_makes_good(promoted, monkeypatch, caplog):
    def copy():
        (run,) = client().search_runs(
            [client().get_experiment_by_name(PRODUCTION_NAME).experiment_id],
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
        moves.append_event(commands.workspace(), entry)
    assert "the ledger's copy in MLflow was not written: no space left" in caplog.text
    assert copy() != ledger.read_bytes()
    moves.append_event(commands.workspace(), entry)
    assert copy() == ledger.read_bytes()
