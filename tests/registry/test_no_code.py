"""Nothing that somebody puts beside or into a model's files is ever run: not a pickle, not a module."""

import json
import pickle
import pickletools
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from pikavae.errors import DamagedFileError, UserError
from pikavae.presets import parse_config
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.tracker import tags
from pikavae.tracker.mlflow_files import local_folder
from pikavae.workspace.files import sha256_of
from tests.support import commands
from tests.support.configs import tiny
from tests.support.house import NAME

CONFIG = {"registry.model_name": NAME, "model.num_res_blocks": 1}


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """What must not be there in the end; a bomb that goes off makes it."""
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()
    mark.unlink()
    yield mark
    assert not mark.exists()


@pytest.fixture
def files(house, monkeypatch):
    """The files of candidate 1 in MLflow's artifact store, in a home of that model's."""
    monkeypatch.setenv("PIKAVAE_HOME", str(house.home))
    return local_folder(house.client.get_model_version_download_uri(NAME, "1"))


def put_bombs(folder, mark):
    """Pickles under the names that loaders look for, in every folder of a model."""
    for place in (folder, folder / SNAPSHOT_FOLDER):
        for name in ("python_model.pkl", "diffusion_pytorch_model.bin", "pytorch_model.bin", "model.pkl"):
            (place / name).write_bytes(pickle.dumps(Bomb(mark)))
        torch.save(Bomb(mark), place / "weights.pt")


def poison(folder, mark):
    """Make the model's description and sizes name code that leaves the mark."""
    (folder / "code" / "bomb.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    description = yaml.safe_load((folder / "MLmodel").read_text())
    description["flavors"]["python_function"] |= {"loader_module": "bomb", "python_model": "python_model.pkl"}
    (folder / "MLmodel").write_text(yaml.safe_dump(description))
    sizes = json.loads((folder / SNAPSHOT_FOLDER / "config.json").read_text())
    sizes |= {"auto_map": {"AutoModel": "bomb.AutoencoderKL"}, "custom_code": "bomb.py", "_custom_code": "bomb.py"}
    (folder / SNAPSHOT_FOLDER / "config.json").write_text(json.dumps(sizes))
    (folder / SNAPSHOT_FOLDER / "bomb.py").write_text((folder / "code" / "bomb.py").read_text())


def pickles_below(folder):
    def is_pickle(content):
        try:
            return content[:1] == b"\x80" and bool(list(pickletools.genops(content)))
        except ValueError:
            return False

    return [path for path in folder.rglob("*") if path.is_file() and is_pickle(path.read_bytes())]


def use(model, tmp_path):
    """Reconstruct, evaluate, export and import."""
    Image.new("RGB", (9, 12), (200, 30, 40)).save(tmp_path / "a.png")
    assert commands.reconstruct(model, [tmp_path / "a.png"], tmp_path / "out", tiny(**CONFIG))
    assert commands.evaluate_model(model, tiny(**CONFIG)).report.num_images
    out = commands.export_model(model, tmp_path / "exported", tiny(**CONFIG))
    assert {path.suffix for path in out.iterdir()} == {".json", ".safetensors", ".yaml", ".md"}


def test_pickles_beside_a_candidate_are_never_loaded_and_do_not_reach_production(house, files, mark, tmp_path):
    put_bombs(files, mark)
    use("1", tmp_path)
    commands.import_model(str(files / SNAPSHOT_FOLDER), parse_config({"registry": {"model_name": "others"}}))
    house.promote(1)
    assert house.predict().shape == (2, 3, 16, 24)
    assert pickles_below(house.home / "production") == []


def test_a_candidate_whose_description_was_altered_is_not_promoted_and_its_code_not_run(house, files, mark, tmp_path):
    before = house.state()
    put_bombs(files, mark)
    poison(files, mark)
    with pytest.raises(DamagedFileError, match=r"are not those that were registered: MLmodel"):
        house.promote(1)
    assert house.state() == before
    use_of_altered = tiny(**CONFIG)
    Image.new("RGB", (9, 12)).save(tmp_path / "a.png")
    commands.reconstruct("1", [tmp_path / "a.png"], tmp_path / "out", use_of_altered)
    commands.evaluate_model("1", use_of_altered)
    with pytest.raises(DamagedFileError, match="holds other bytes than were recorded"):
        commands.export_model("1", tmp_path / "exported", use_of_altered)
    commands.import_model(str(files / SNAPSHOT_FOLDER), parse_config({"registry": {"model_name": "others"}}))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "vae.pt", "vae.ckpt"])
def test_weights_that_are_a_pickle_of_something_else_are_refused(name, mark, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({"state_dict": Bomb(mark)}, tmp_path / name)
    named = tmp_path if name.startswith("diffusion") else tmp_path / name
    for ask in (
        lambda: commands.import_model(str(named), parse_config({})),
        lambda: commands.export_model(str(named), tmp_path / "out", parse_config({})),
        lambda: commands.register_model(str(named), parse_config({})),
        lambda: commands.reconstruct(str(tmp_path), [], tmp_path / "out", parse_config({})),
    ):
        with pytest.raises(UserError):
            ask()


@pytest.mark.parametrize("name", ["../../../../evil", "/tmp/evil", "a\nb'\"", "x" * 10_000])
def test_a_name_in_an_edited_manifest_leads_nowhere(house, files, name, tmp_path):
    (tmp_path / "evil").write_text("")
    before = house.state()
    made = versions.get_version(house.client, NAME, 1)
    manifest = {**made.manifest, name: sha256_of(tmp_path / "evil")}
    versions.set_tags(house.client, made, {tags.MANIFEST_TAG: json.dumps(manifest)})
    with pytest.raises(DamagedFileError, match="are not those that were registered") as caught:
        house.promote(1)
    assert house.state() == before
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 2_000
