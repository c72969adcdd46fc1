"""Published weights come in whole, get a run and a version, and go out again as diffusers reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from flows.cli import main
from pikavae import operations, runs
from pikavae.config import ModelConfig
from pikavae.errors import DamagedFileError, UserError
from pikavae.home import home
from pikavae.model.keymaps import export_ldm, their_names
from pikavae.model.snapshot import SETTINGS_NAME, WEIGHTS_NAME, read_snapshot, write_snapshot
from pikavae.presets import load_config, parse_config
from pikavae.registry import production
from pikavae.tracking import connect, tracking_uri
from tests.conftest import TINY
from tests.data import test_hub_weights as hub
from tests.model.test_autoencoder import with_random_weights
from tests.model.test_inert_pickle import tutorial_module
from tests.model.test_published import in_diffusers

SIZES = ModelConfig(channels=(8, 16), num_res_blocks=1, latent_channels=3, norm_groups=4)
OTHER = SIZES.model_copy(update={"latent_channels": 4})
FILES = {"config.json", WEIGHTS_NAME, SETTINGS_NAME}
EXPORTED = FILES | {"README.md"}


server = hub.server
"""The fixture: a hub on this machine."""


def configured(sizes=SIZES, **training):
    return parse_config({"model": sizes.model_dump(), "training": training})


def write_form(form, folder, sizes=SIZES):
    """The same weights in one of the forms that are read; the path to name."""
    model, state = with_random_weights(sizes), dict(with_random_weights(sizes).state_dict())
    theirs = their_names("tutorial", sizes, state)
    folder.mkdir(parents=True)
    match form:
        case "snapshot":
            write_snapshot(folder, model, image_size=32, settings="data: {image_size: 32}\n")
        case "diffusers folder":
            in_diffusers(sizes, scaling_factor=0.5).save_pretrained(folder)
        case "parts":
            in_diffusers(sizes).save_pretrained(folder, max_shard_size="10KB")
        case "pipeline":
            in_diffusers(sizes).save_pretrained(folder / "vae")
            (folder / "model_index.json").write_text("{}")
        case "diffusers file":
            save_file(state, folder / "vae.safetensors")
        case "LDM file":
            torch.save({"state_dict": export_ldm(state)}, folder / "vae.ckpt")
        case "Stable Diffusion file":
            whole = {f"first_stage_model.{name}": value for name, value in export_ldm(state).items()}
            torch.save({"state_dict": {**whole, "scale_factor": torch.tensor(0.25)}}, folder / "sd.ckpt")
        case "tutorial pickle":
            torch.save(tutorial_module(sizes)[0], folder / "vae.model")
        case "tutorial state":
            torch.save({theirs[name]: value for name, value in state.items()}, folder / "vae.pt")
    single = "file" in form or "tutorial" in form
    return next(folder.iterdir()) if single else folder


READ_AS = {
    "diffusers folder": "diffusers folder",
    "LDM file": "LDM single file",
    "tutorial pickle": "tutorial file",
}
FORMS = [
    "snapshot",
    "diffusers folder",
    "parts",
    "pipeline",
    "diffusers file",
    "LDM file",
    "Stable Diffusion file",
    "tutorial pickle",
    "tutorial state",
]
SCALES = {"diffusers folder": 0.5, "Stable Diffusion file": 0.25, "parts": 0.18215, "pipeline": 0.18215}


def assert_same_model(folder, sizes=SIZES, state=None):
    model, expected = read_snapshot(folder), state or with_random_weights(sizes).state_dict()
    assert (model.config, model.state_dict().keys()) == (sizes, expected.keys())
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_without_a_start_there_are_no_starting_weights():
    assert operations.starting_weights(configured()) is None
    assert not home().exists()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_whole_snapshot_once(tmp_path, form):
    path = write_form(form, tmp_path / "theirs")
    folder = operations.starting_weights(configured(start=str(path)))
    assert_same_model(folder)
    assert {file.name for file in folder.iterdir()} >= FILES
    if form == "snapshot":
        assert folder == path
        assert not home().exists()
        return
    assert folder.parent == home() / "imported"
    settings = load_config(folder / SETTINGS_NAME)
    assert (settings.model, settings.data.image_size) == (
        SIZES,
        64 if form in ("diffusers folder", "parts", "pipeline") else 512,
    )
    assert json.loads((folder / "config.json").read_text()).get("scaling_factor") == SCALES.get(form)
    before = stamps(folder)
    assert operations.starting_weights(configured(start=str(path), steps=7)) == folder
    assert stamps(folder) == before
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_the_number_of_groups_is_taken_from_the_settings_where_the_file_does_not_tell_it(tmp_path):
    path = write_form("LDM file", tmp_path / "theirs")
    other = SIZES.model_copy(update={"norm_groups": 2})
    folders = [operations.starting_weights(configured(sizes, start=str(path))) for sizes in (SIZES, other)]
    assert [read_snapshot(folder).config.norm_groups for folder in folders] == [4, 2]


def damage_weights(folder):
    content = bytearray((folder / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(content)


DAMAGES = {
    "a bit": damage_weights,
    "a file that is gone": lambda folder: (folder / "config.json").unlink(),
    "no record": lambda folder: (folder / "imported.json").unlink(),
    "half a record": lambda folder: (folder / "imported.json").write_text('{"sha'),
    "an empty record": lambda folder: (folder / "imported.json").write_text('{"sha256": {}, "form": "", "notes": []}'),
    "another record": lambda folder: (folder / "imported.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_conversion_that_was_damaged_is_noticed_and_made_anew(tmp_path, caplog, damage):
    config = configured(start=str(write_form("LDM file", tmp_path / "theirs")))
    folder = operations.starting_weights(config)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder)
    assert operations.starting_weights(config) == folder
    assert "damaged since it was converted; it is made anew" in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


def test_what_a_killed_conversion_left_is_removed(tmp_path):
    leftover = home() / "imported" / ".0123.tmp"
    leftover.mkdir(parents=True)
    (leftover / WEIGHTS_NAME).write_bytes(b"half")
    folder = operations.starting_weights(configured(start=str(write_form("LDM file", tmp_path / "theirs"))))
    assert list((home() / "imported").iterdir()) == [folder]


@pytest.mark.parametrize("form", FORMS)
def test_other_sizes_than_the_settings_are_listed_and_nothing_is_written(tmp_path, form):
    path = write_form(form, tmp_path / "theirs")
    other = ModelConfig(channels=(8, 8), num_res_blocks=2, latent_channels=4, norm_groups=4)
    listed = r"channels \(8, 16\) instead of \(8, 8\), num_res_blocks 1 instead of 2, latent_channels 3 instead of 4$"
    with pytest.raises(UserError, match=listed):
        operations.starting_weights(configured(other, start=str(path)))
    assert not home().exists()
    operations.starting_weights(configured(start=str(path)))
    with pytest.raises(UserError, match=listed) as caught:
        operations.starting_weights(configured(other, start=str(path)))
    assert str(caught.value).startswith(str(path))


def test_names_that_do_not_fit_are_listed_and_nothing_is_written(tmp_path):
    state = dict(with_random_weights(SIZES).state_dict())
    del state["encoder.conv_in.bias"]
    state["decoder.conv_out.bias"] = torch.zeros(4)
    save_file({**state, "stranger": torch.zeros(1)}, tmp_path / "vae.safetensors")
    config = configured(start=str(tmp_path / "vae.safetensors"))
    for ask in (
        lambda: operations.starting_weights(config),
        lambda: operations.import_model(config.training.start, config),
    ):
        with pytest.raises(
            UserError, match=r"1 missing: encoder\.conv_in\.bias; 1 unexpected: stranger; 1 other shapes"
        ):
            ask()
    assert not home().exists()


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("nowhere/vae.ckpt", "training.start 'nowhere/vae.ckpt': no such file or folder; a model of the hub is named"),
        ("ORG/NAME", "hub:ORG/NAME"),
        ("hub:NAME", "training.start 'NAME': no hub id"),
        ("9", "training.start '9': version 9 of 'pikavae': no such version"),
        ("champion", "training.start 'champion': champion of 'pikavae-production': nothing is in production yet"),
        ("run:none@best", "training.start 'run:none@best': run:none: no such run in this home"),
    ],
)
def test_a_start_that_is_not_there_is_said_in_one_line(start, said):
    with pytest.raises(UserError) as caught:
        operations.starting_weights(configured(start=start))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fine_tunes_name_their_weights_and_say_offline_what_to_do():
    for preset in ("finetune", "finetune-full"):
        with pytest.raises(UserError) as caught:
            operations.starting_weights(load_config(preset))
        said = str(caught.value)
        assert said.startswith("training.start 'stabilityai/sd-vae-ft-mse': not in the hub's cache")
        assert said.endswith("or name a folder or file of your own")
        assert "\n" not in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"training.trainable": "decoder"}, "training.trainable decoder: without training.start"),
        ({"loss.perceptual_weight": "0.1"}, "vgg16-397923af.pth is missing; put https://download.pytorch.org/"),
    ],
    ids=str,
)
def test_a_training_that_lacks_something_is_refused_before_it_has_a_run(overrides, said, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = load_config("demo", {**TINY, **overrides})
    prepared = operations.prepare(config)
    with pytest.raises(UserError) as caught:
        operations.train(config, prepared)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in (home() / "runs").iterdir() if path.is_dir()] == []
    assert not (home() / "mlflow.db").exists()


ASK = """
import sys
from pikavae import operations
from pikavae.presets import parse_config
model = {"channels": [8, 8], "num_res_blocks": 1, "norm_groups": 4}
print(operations.starting_weights(parse_config({"model": model, "training": {"start": sys.argv[1]}})))
"""


def test_weights_of_the_hub_are_fetched_and_converted(server, tmp_path):
    for environment in ({"HF_ENDPOINT": server.address}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", ASK, "hub:org/pipeline"],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": ":".join(sys.path),
                "HF_HOME": str(tmp_path / "hub"),
                "PIKAVAE_HOME": os.environ["PIKAVAE_HOME"],
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).parent == home() / "imported"
        assert_same_model(Path(done.stdout.strip()), hub.SIZES, hub.STATE)


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with three models imported, the first of them champion: the path, and what the commands said."""
    path = tmp_path_factory.mktemp("exchange")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path / "home"))
        config = parse_config({"model": {"norm_groups": 4}})
        forms = ("diffusers folder", "LDM file", "tutorial pickle")
        sizes = {"tutorial pickle": OTHER}
        sources = {form: write_form(form, path / form, sizes.get(form, SIZES)) for form in forms}
        made = {form: operations.import_model(str(source), config) for form, source in sources.items()}
        production.promote(connect(home()), home(), model_name="pikavae", version=1, reason="the first")
    return path / "home", sources, made


@pytest.fixture
def imported(monkeypatch, isolated, shared_home):
    monkeypatch.setenv("PIKAVAE_HOME", str(shared_home[0]))
    return shared_home[2]


def test_an_import_has_a_run_that_tells_where_it_came_from(imported, shared_home):
    client = MlflowClient(tracking_uri(home()))
    for number, (form, done) in enumerate(imported.items(), 1):
        run = client.get_run(done.version.run_id)
        assert (done.reused, done.version.version) == (False, number)
        assert (run.info.status, run.info.run_name) == ("FINISHED", shared_home[1][form].name)
        assert run.data.tags["pikavae.imported.source"] == str(shared_home[1][form])
        assert run.data.tags["pikavae.version"] == str(number)
        assert run.data.params["model.channels"] == "[8, 16]"
        assert run.data.params["model.latent_channels"] == str((OTHER if number == 3 else SIZES).latent_channels)
        folder = runs.find_run(home(), done.version.run_id)
        assert run.data.tags["pikavae.snapshot"] == runs.snapshot_digest(folder.snapshot("best"))
        assert READ_AS[form] == run.data.tags["pikavae.imported.form"]
        assert READ_AS[form] in run.data.tags["mlflow.note.content"]
    assert "norm_groups 4 is assumed" in run.data.tags["pikavae.imported.notes"]


@pytest.mark.parametrize("model", ["1", "2", "3", "champion", "run", "run@0", "run@best"])
def test_an_imported_model_is_found_by_every_name(imported, model):
    run_id = imported["LDM file"].version.run_id
    name = model.replace("run", f"run:{run_id}")
    sizes = OTHER if model == "3" else SIZES
    folder = operations.starting_weights(configured(sizes, start=name))
    assert_same_model(folder, sizes)
    assert operations.config_of_model(name).model == sizes
    with pytest.raises(UserError, match=rf"training\.start '{name}': .*other sizes than section model: channels"):
        operations.starting_weights(configured(ModelConfig(), start=name))


@pytest.mark.parametrize("model", ["1", "champion", "run"])
def test_recorded_weights_that_changed_are_not_begun_with(imported, model):
    name = model.replace("run", f"run:{imported['diffusers folder'].version.run_id}")
    folder = operations.starting_weights(configured(start=name))
    whole = (folder / WEIGHTS_NAME).read_bytes()
    damage_weights(folder)
    try:
        with pytest.raises(DamagedFileError, match=f"training.start '{name}': .* holds other bytes than were recorded"):
            operations.starting_weights(configured(start=name))
    finally:
        (folder / WEIGHTS_NAME).write_bytes(whole)


def test_the_same_bytes_are_the_same_version(imported, shared_home, tmp_path, capsys):
    copy = tmp_path / "renamed.bin"
    copy.write_bytes(shared_home[1]["LDM file"].read_bytes())
    folders = sorted((home() / "runs").glob("*/run.json"))
    status = main(["import", str(copy), "--model.norm_groups", "4", "--json"])
    captured = capsys.readouterr()
    first = imported["LDM file"].version
    assert status == 0, captured.err
    assert json.loads(captured.out) == {"model": "pikavae", "version": first.version, "run_id": first.run_id}
    assert "imported before" in captured.err
    assert sorted((home() / "runs").glob("*/run.json")) == folders
    in_another_form = operations.import_model(
        str(write_form("tutorial pickle", tmp_path / "theirs")), parse_config({"model": {"norm_groups": 4}})
    )
    assert (in_another_form.version, in_another_form.reused) == (first, True)


def test_imported_versions_are_listed_and_in_production(imported):
    listed = {version.version: version.aliases for version in operations.list_models(parse_config({}))}
    assert listed == {1: ("champion",), 2: (), 3: ()}


def test_an_import_that_broke_off_goes_on_in_its_run(tmp_path, monkeypatch):
    config = parse_config({"model": {"norm_groups": 4}})
    path = str(write_form("LDM file", tmp_path / "theirs"))

    def breaks(*given, **named):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("pikavae.registry.versions.register", breaks)
        with pytest.raises(OSError, match="full"):
            operations.import_model(path, config)
    (broken,) = runs.run_folders(home())
    assert MlflowClient(tracking_uri(home())).get_run(broken.run_id).info.status == "FAILED"
    done = operations.import_model(path, config)
    assert (done.version.version, done.version.run_id, done.reused) == (1, broken.run_id, False)
    assert MlflowClient(tracking_uri(home())).get_run(broken.run_id).info.status == "FINISHED"


def test_a_snapshot_that_was_exported_comes_back_with_its_settings(imported, tmp_path):
    out = operations.export_model("champion", tmp_path / "out", parse_config({}))
    settings = load_config(out / SETTINGS_NAME, {"data.source": "path/to/pictures"})
    (out / SETTINGS_NAME).write_text(settings.to_yaml())
    config = parse_config({"registry": {"model_name": "others"}})
    done = operations.import_model(str(out), config)
    assert (done.version.name, done.version.version) == ("others", 1)
    assert operations.config_of_model(f"run:{done.version.run_id}").data.source == "path/to/pictures"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "import: name one folder or file"),
        (["3"], "import '3': a model of this project already"),
        (["nowhere.ckpt"], "import 'nowhere.ckpt': no such file or folder"),
        (["hub:NAME"], "import 'NAME': no hub id"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(capsys, words, said):
    assert main(["import", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not home().exists()


@pytest.mark.parametrize("flags", [["--model.norm_groups", "2"], ["--model.latent_channels", "8"]])
def test_an_import_of_other_sizes_than_the_flags_say_is_refused(capsys, tmp_path, flags):
    path = write_form("diffusers folder", tmp_path / "theirs")
    assert main(["import", str(path), *flags]) == 2
    said = capsys.readouterr().err
    assert f"{path}: other sizes than section model: {flags[0].removeprefix('--model.')}" in said
    assert not home().exists()


def test_an_export_is_the_model_bit_for_bit_in_diffusers(tmp_path, capsys):
    """Theirs in, through conversion and export, and theirs out again: weights, pictures and scaling factor."""
    original = in_diffusers(SIZES, scaling_factor=0.5)
    original.save_pretrained(tmp_path / "theirs" / "vae")
    status = main(["export", str(tmp_path / "theirs"), str(tmp_path / "out"), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert json.loads(captured.out) == {"path": str(tmp_path / "out")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == EXPORTED
    exported = DiffusersAutoencoderKL.from_pretrained(tmp_path / "out", local_files_only=True).eval()
    images = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(exported(images).sample, original(images).sample)
        mean = exported.encode(images).latent_dist.mean
        ours = read_snapshot(tmp_path / "out")
        torch.testing.assert_close(ours.encode(images).mean, mean, rtol=1e-4, atol=1e-4)
    assert exported.config.scaling_factor == 0.5
    assert exported.dtype == torch.float32


def test_a_model_of_ours_gives_the_same_pictures_in_diffusers_bit_for_bit(tmp_path):
    """Without attention, whose result the two keep in another order in memory, so that convolutions round otherwise."""
    sizes = SIZES.model_copy(update={"mid_attention": False, "resample_shortcuts": True})
    (tmp_path / "ours").mkdir()
    model = with_random_weights(sizes)
    write_snapshot(tmp_path / "ours", model, image_size=32, settings="")
    out = operations.export_model(str(tmp_path / "ours"), tmp_path / "out", parse_config({}))
    ours = read_snapshot(tmp_path / "ours")
    theirs = DiffusersAutoencoderKL.from_pretrained(out, local_files_only=True).eval()
    images = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        mean = ours.encode(images).mean
        assert torch.equal(theirs.encode(images).latent_dist.mean, mean)
        assert torch.equal(theirs.decode(mean).sample, ours.decode(mean))


def test_an_export_of_a_version_is_its_files(imported, tmp_path):
    for model in ("1", "champion", f"run:{imported['diffusers folder'].version.run_id}@0"):
        out = operations.export_model(model, tmp_path / model.replace(":", " "), parse_config({}))
        assert_same_model(out)
        assert {file.name for file in out.iterdir()} == EXPORTED
        theirs = DiffusersAutoencoderKL.from_pretrained(out, local_files_only=True)
        assert theirs.config.scaling_factor == 0.5


def test_an_export_takes_the_place_of_an_empty_folder_alone(tmp_path, capsys):
    path = write_form("snapshot", tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    assert main(["export", str(path), str(tmp_path / "empty")]) == 0
    before = stamps(tmp_path / "empty")
    (tmp_path / "a file").write_text("")
    for taken in ("empty", "a file"):
        capsys.readouterr()
        assert main(["export", str(path), str(tmp_path / taken)]) == 2
        assert capsys.readouterr().err.endswith("it is there and not empty; name a new folder\n")
    assert stamps(tmp_path / "empty") == before
    assert main(["export", str(path), str(tmp_path / "a file" / "below")]) == 2
    assert "cannot be written (" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["absent", "damaged"])
def test_an_export_of_what_is_not_whole_leaves_nothing(tmp_path, capsys, how):
    path = write_form("snapshot", tmp_path / "ours")
    if how == "absent":
        path = tmp_path / "nowhere"
    else:
        state = load_file(path / WEIGHTS_NAME)
        save_file({name: value for name, value in state.items() if "conv_in" not in name}, path / WEIGHTS_NAME)
    assert main(["export", str(path), str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("words", [[], ["1"], ["1", "out", "more"]])
def test_export_takes_a_model_and_a_folder(capsys, words):
    assert main(["export", *words]) == 2
    assert "export: name a model and a new folder" in capsys.readouterr().err
