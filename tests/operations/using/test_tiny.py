"""A tiny autoencoder is measured, used, imported and exported like any other model, and is nobody's larger one."""

import json
import sys

import mlflow
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.production.packages.consumer import compare_with_diffusers, use
from pikavae.weights.published import read_published
from tests.operations.using.test_beside import tiny_autoencoder
from tests.support import commands
from tests.support.commands import run_cli
from tests.support.configs import tiny_on_cpu as tiny

PLAIN = Config()


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "tiny")


@pytest.fixture
def reference(folder):
    return tiny_autoencoder(folder)


def test_it_reconstructs_what_diffusers_does(folder, reference, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    Image.effect_noise((24, 16), 80).convert("RGB").save(tmp_path / "picture.png")
    (made,) = commands.reconstruct(folder, [tmp_path / "picture.png"], tmp_path / "out", tiny())
    images = torch.from_numpy(np.array(Image.open(tmp_path / "picture.png"))).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        pictures = reference.decode(reference.encode(images).latents).sample
    expected = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.array(Image.open(made)), expected)


def test_a_version_of_it_is_used_without_pikavae_and_exported_in_both_forms(folder, reference, tmp_path, capsys):
    version = commands.import_model(folder, PLAIN).version
    assert version.tags["pikavae.imported.form"] == "diffusers folder"
    found = commands.find_model(str(version.version), tiny())
    loaded = mlflow.pyfunc.load_model(str(found.parents[1]))
    assert compare_with_diffusers(found, use(loaded)) < 1e-5

    status, out, err = run_cli(capsys, "export", str(version.version), str(tmp_path / "exported"))
    assert status == 0, err
    assert out.splitlines()[-1] == f"diffusers: AutoencoderTiny.from_pretrained({str(tmp_path / 'exported')!r})"
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "vae = AutoencoderTiny.from_pretrained" in card
    assert "latents = vae.encode(images).latents  #" in card
    assert "there is no scaling and no shift" in card
    again = AutoencoderTiny.from_pretrained(tmp_path / "exported", local_files_only=True)
    assert (again.config.scaling_factor, again.config.shift_factor) == (1.0, 0.0)
    state = reference.state_dict()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in state.items())

    status, out, err = run_cli(capsys, "export", str(version.version), str(tmp_path / "taesd_decoder.safetensors"))
    assert status == 0, err
    assert "with taesd_encoder.safetensors; ComfyUI: put both into its folder models/vae_approx" in out
    read = read_published(tmp_path / "taesd_encoder.safetensors").state
    assert all(torch.equal(read[name], value) for name, value in state.items())
    assert commands.import_model(str(tmp_path / "taesd_decoder.safetensors"), PLAIN).version.version == version.version


@pytest.mark.parametrize(
    ("there", "name", "said"),
    [
        ((), "preview.safetensors", "is written as two files, .* name preview_decoder.safetensors, or a new folder"),
        (
            ("a_encoder.safetensors",),
            "a_decoder.safetensors",
            "the file of its other half, a_encoder.safetensors, is t",
        ),
    ],
)
def test_an_export_that_cannot_be_written_writes_nothing(folder, reference, tmp_path, there, name, said):
    for one in there:
        (tmp_path / one).write_bytes(b"mine")
    before = {path.name for path in tmp_path.glob("*.*")}
    with pytest.raises(UserError, match=said):
        commands.export_model(folder, tmp_path / name, PLAIN)
    assert {path.name for path in tmp_path.glob("*.*")} == before == set(there)


def test_its_latents_are_written_as_they_are(folder, reference, tmp_path):
    commands.encode(folder, tiny(), tmp_path / "latents", logvar=False)
    record = json.loads((tmp_path / "latents" / "latents.json").read_text())
    assert (record["published_scaling_factor"], record["published_shift_factor"]) == (1.0, 0.0)


def test_what_needs_the_larger_model_says_so_in_one_line(folder, reference, tmp_path):
    with pytest.raises(UserError) as caught:
        commands.starting_weights(tiny(**{"training.start": folder}))
    assert "model.kind kl asks for an AutoencoderKL: name such a model, or take this one; set --model" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    from pikavae import operations

    model = commands.resolve(folder, tiny())
    with pytest.raises(UserError, match="a tiny autoencoder has no norms that would keep its pictures the same"):
        operations.half_safe(commands.workspace(), model, [tmp_path / "picture.png"], tmp_path / "safe", tiny())
    assert not (tmp_path / "safe").exists()
