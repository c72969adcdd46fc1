"""Published weights get a run and a version, and go out again as diffusers reads them."""

import json

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from mlflow import MlflowClient
from safetensors.torch import load_file, save_file

from flows.cli import main
from pikavae.config import ModelConfig
from pikavae.errors import DamagedFileError, UserError
from pikavae.model.snapshot import RUN_CONFIG_NAME, WEIGHTS_NAME, write_snapshot
from pikavae.presets import load_config, parse_config
from pikavae.production.changes import promote
from pikavae.tracker.client import Workspace
from pikavae.weights.published import read_snapshot
from pikavae.workspace import runs
from pikavae.workspace.home import home
from tests.model.test_autoencoder import with_random_weights
from tests.support import commands
from tests.support.house import files_alone
from tests.support.published_forms import (
    EXPORTED,
    OTHER,
    READ_AS,
    SIZES,
    assert_same_model,
    configured,
    damage_weights,
    stamps,
    write_form,
)
from tests.weights.test_published import in_diffusers

DEEPER = SIZES.model_copy(update={"num_res_blocks": 2})


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with three models imported, the first of them champion: the path, and what the commands said."""
    path = tmp_path_factory.mktemp("exchange")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("PIKAVAE_HOME", str(path / "home"))
        config = parse_config({"model": {"norm_groups": 4}})
        forms = ("diffusers folder", "LDM file", "tutorial pickle")
        sizes = {"LDM file": DEEPER, "tutorial pickle": OTHER}
        sources = {form: write_form(form, path / form, sizes.get(form, SIZES)) for form in forms}
        made = {form: commands.import_model(str(source), config) for form, source in sources.items()}
        patch.setattr(promote, "smoke_test", files_alone)
        promote.promote(commands.workspace(), model_name="pikavae", version=1, reason="the first")
    return path / "home", sources, made


@pytest.fixture
def imported(monkeypatch, isolated, shared_home):
    monkeypatch.setenv("PIKAVAE_HOME", str(shared_home[0]))
    return shared_home[2]


def test_an_import_has_a_run_that_tells_where_it_came_from(imported, shared_home):
    client = MlflowClient(Workspace(home()).tracking_uri)
    for number, (form, done) in enumerate(imported.items(), 1):
        run = client.get_run(done.version.run_id)
        assert (done.reused, done.version.version) == (False, number)
        assert (run.info.status, run.info.run_name) == ("FINISHED", shared_home[1][form].name)
        assert run.data.tags["pikavae.imported.source"] == str(shared_home[1][form])
        assert run.data.tags["pikavae.version"] == str(number)
        assert run.data.params["model.channels"] == "[8, 16]"
        assert run.data.params["model.latent_channels"] == str((OTHER if number == 3 else SIZES).latent_channels)
        folder = runs.run_folder(home(), done.version.run_id)
        assert run.data.tags["pikavae.snapshot"] == runs.snapshot_digest(folder.snapshot("best"))
        assert READ_AS[form] == run.data.tags["pikavae.imported.form"]
        assert READ_AS[form] in run.data.tags["mlflow.note.content"]
    assert "norm_groups 4 is assumed" in run.data.tags["pikavae.imported.notes"]


@pytest.mark.parametrize("model", ["1", "2", "3", "champion", "run", "run@0", "run@best"])
def test_an_imported_model_is_found_by_every_name(imported, model):
    run_id = imported["LDM file"].version.run_id
    name = model.replace("run", f"run:{run_id}")
    sizes = {"1": SIZES, "champion": SIZES, "3": OTHER}.get(model, DEEPER)
    folder = commands.starting_weights(configured(sizes, start=name))
    assert_same_model(folder, sizes)
    assert commands.config_of_model(name).model == sizes
    with pytest.raises(UserError, match=rf"training\.start '{name}': .*other sizes than section model: channels"):
        commands.starting_weights(configured(ModelConfig(), start=name))


@pytest.mark.parametrize("model", ["1", "champion", "run"])
def test_recorded_weights_that_changed_are_not_begun_with(imported, model):
    name = model.replace("run", f"run:{imported['diffusers folder'].version.run_id}")
    folder = commands.starting_weights(configured(start=name))
    whole = (folder / WEIGHTS_NAME).read_bytes()
    damage_weights(folder)
    try:
        with pytest.raises(DamagedFileError, match=f"training.start '{name}': .* holds other bytes than were recorded"):
            commands.starting_weights(configured(start=name))
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
    in_another_form = commands.import_model(
        str(write_form("tutorial pickle", tmp_path / "theirs", DEEPER)), parse_config({"model": {"norm_groups": 4}})
    )
    assert (in_another_form.version, in_another_form.reused) == (first, True)


def test_imported_versions_are_listed_and_in_production(imported):
    listed = {version.version: version.aliases for version in commands.list_models(parse_config({}))}
    assert listed == {1: ("champion",), 2: (), 3: ()}


def test_an_import_that_broke_off_goes_on_in_its_run(tmp_path, monkeypatch):
    config = parse_config({"model": {"norm_groups": 4}})
    path = str(write_form("LDM file", tmp_path / "theirs"))

    def breaks(*given, **named):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("pikavae.registry.versions.register", breaks)
        with pytest.raises(OSError, match="full"):
            commands.import_model(path, config)
    (broken,) = runs.run_folders(home())
    assert MlflowClient(Workspace(home()).tracking_uri).get_run(broken.run_id).info.status == "FAILED"
    done = commands.import_model(path, config)
    assert (done.version.version, done.version.run_id, done.reused) == (1, broken.run_id, False)
    assert MlflowClient(Workspace(home()).tracking_uri).get_run(broken.run_id).info.status == "FINISHED"


def test_a_snapshot_that_was_exported_comes_back_with_its_settings(imported, tmp_path):
    out = commands.export_model("champion", tmp_path / "out", parse_config({}))
    settings = load_config(out / RUN_CONFIG_NAME, {"data.source": "path/to/pictures"})
    (out / RUN_CONFIG_NAME).write_text(settings.to_yaml())
    config = parse_config({"registry": {"model_name": "others"}})
    done = commands.import_model(str(out), config)
    assert (done.version.name, done.version.version) == ("others", 1)
    assert commands.config_of_model(f"run:{done.version.run_id}").data.source == "path/to/pictures"


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
    write_snapshot(tmp_path / "ours", model, image_size=32, config="")
    out = commands.export_model(str(tmp_path / "ours"), tmp_path / "out", parse_config({}))
    ours = read_snapshot(tmp_path / "ours")
    theirs = DiffusersAutoencoderKL.from_pretrained(out, local_files_only=True).eval()
    images = torch.rand(2, 3, 24, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        mean = ours.encode(images).mean
        assert torch.equal(theirs.encode(images).latent_dist.mean, mean)
        assert torch.equal(theirs.decode(mean).sample, ours.decode(mean))


def test_an_export_of_a_version_is_its_files(imported, tmp_path):
    for model in ("1", "champion", f"run:{imported['diffusers folder'].version.run_id}@0"):
        out = commands.export_model(model, tmp_path / model.replace(":", " "), parse_config({}))
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
    assert capsys.readouterr().err.startswith(
        f"pikavae: export: {tmp_path / 'a file'}: a file is where a folder should be"
    )


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


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "export: name a model and a new folder or file"),
        (["1"], "export: name a model and a new folder or file"),
        (["1", "out", "more"], "'more': export takes one model and one new folder or file"),
    ],
)
def test_export_takes_a_model_and_a_folder(capsys, words, complaint):
    assert main(["export", *words]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("name", ["e.png", "e.PNG", "e.zip", "e.onnx", "deeper/e.json"])
def test_an_export_to_a_file_of_another_kind_makes_no_folder_of_its_name(tmp_path, capsys, name):
    path = write_form("snapshot", tmp_path / "ours")
    assert main(["export", str(path), str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error == f"pikavae: export '{tmp_path / name}': expected a new folder, or a file that ends in .safetensors\n"
    assert [file.name for file in tmp_path.iterdir()] == ["ours"]


def test_an_export_to_a_folder_with_a_dot_in_its_name_is_one(tmp_path):
    path = write_form("snapshot", tmp_path / "ours")
    assert main(["export", str(path), str(tmp_path / "vae-v1.5")]) == 0
    assert (tmp_path / "vae-v1.5" / WEIGHTS_NAME).is_file()


def test_the_same_weights_are_one_version_in_whatever_form_they_come(imported, shared_home, tmp_path):
    """The folder tells a scaling, a size and its groups; the files tell none of them, in another order and format."""
    state = dict(with_random_weights(SIZES).state_dict())
    config = parse_config({"model": {"norm_groups": 4}, "registry": {"model_name": "forms"}})
    first = commands.import_model(str(shared_home[1]["diffusers folder"]), config)
    turned = dict(reversed(state.items()))
    save_file({f"vae.{name}": value for name, value in turned.items()}, tmp_path / "one.safetensors")
    torch.save({"model": turned}, tmp_path / "two.ckpt", _use_new_zipfile_serialization=False)
    in_diffusers(SIZES, scaling_factor=0.5).save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    for form in ("one.safetensors", "two.ckpt", "parts"):
        again = commands.import_model(str(tmp_path / form), config)
        assert (again.reused, again.version.version) == (True, first.version.version), form
    in_diffusers(SIZES, scaling_factor=0.7).save_pretrained(tmp_path / "scaled otherwise")
    other = commands.import_model(str(tmp_path / "scaled otherwise"), config)
    groups = commands.import_model(
        str(tmp_path / "one.safetensors"),
        parse_config({"model": {"norm_groups": 2}, "registry": {"model_name": "forms"}}),
    )
    assert [one.reused for one in (other, groups)] == [False, False]


def test_what_was_exported_as_a_file_is_the_version_that_it_was(imported, tmp_path):
    out = commands.export_model("champion", tmp_path / "vae.safetensors", parse_config({}))
    again = commands.import_model(str(out), parse_config({}))
    assert (again.reused, again.version.version) == (True, 1)
