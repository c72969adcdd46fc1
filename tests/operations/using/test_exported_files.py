"""Later families and files for other tools go out as they came in."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from diffusers import AutoencoderKLFlux2
from safetensors.torch import load_file

from flows.cli import main
from pikavae.config import ModelConfig
from pikavae.operations.using import exported_files
from pikavae.presets import parse_config
from pikavae.weights.published import Published, read_published, read_snapshot
from tests.model.test_autoencoder import with_random_weights
from tests.support import commands
from tests.support.published_forms import (
    SIZES,
    write_form,
)
from tests.weights.test_families import SCALING, assert_same_pictures, their_model
from tests.weights.test_flux2 import OF_FLUX2, SMALL_DECODER, their_flux2


@pytest.mark.parametrize("form", ["snapshot", "diffusers folder", "LDM file"])
def test_a_file_for_other_tools_is_read_back_bit_for_bit(tmp_path, capsys, form):
    path, out = write_form(form, tmp_path / "theirs"), tmp_path / "out" / "vae.safetensors"
    assert main(["export", str(path), str(out), "--model.norm_groups", "4"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == str(out)
    assert "ComfyUI and A1111 load files of Stable Diffusion 1's sizes alone, and these are others" in said
    assert ("this model's factor is 0.5" in said) == (form == "diffusers folder")
    names = load_file(out).keys()
    assert {"encoder.down.0.block.0.conv1.weight", "decoder.mid.attn_1.q.weight", "quant_conv.bias"} <= names
    assert load_file(out)["decoder.mid.attn_1.q.weight"].ndim == 4
    again = read_published(out)
    expected = with_random_weights(SIZES).state_dict()
    assert all(torch.equal(again.state[name], value) for name, value in expected.items())
    assert (again.config, again.form) == (SIZES, "LDM single file")
    assert again.scaling_factor == (0.5 if form == "diffusers folder" else None)
    before = out.read_bytes()
    assert main(["export", str(path), str(out)]) == 2
    assert "it is there; name a new file" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_file_is_exported_as_safetensors_alone(tmp_path, capsys):
    path = write_form("snapshot", tmp_path / "ours")
    assert main(["export", str(path), str(tmp_path / "vae.ckpt")]) == 2
    assert "a file is written as .safetensors alone; name vae.safetensors" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["ours"]


@pytest.mark.parametrize("family", SCALING)
def test_a_later_family_goes_out_as_it_came_in(tmp_path, capsys, family):
    theirs = their_model(family)
    theirs.save_pretrained(tmp_path / "theirs")
    version = commands.import_model(str(tmp_path / "theirs"), parse_config({})).version.version
    out = commands.export_model(str(version), tmp_path / "folder", parse_config({}))
    again = DiffusersAutoencoderKL.from_pretrained(out, local_files_only=True).eval()
    assert {name: again.config[name] for name in SCALING[family]} == SCALING[family]
    assert (again.config.use_quant_conv, again.config.use_post_quant_conv) == (False, False)
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(again(images).sample, theirs(images).sample)
    scaling, shift = SCALING[family].values()
    assert f"came with, scaling factor {scaling}, shift factor {shift}" in (out / "README.md").read_text()

    file = commands.export_model(str(version), tmp_path / "ae.safetensors", parse_config({}))
    assert not [name for name in load_file(file) if "quant_conv" in name]
    published = read_published(file)
    assert (published.form, published.scaling) == ("LDM single file", SCALING[family])
    assert all(torch.equal(published.state[name], value) for name, value in theirs.state_dict().items())
    assert_same_pictures(read_snapshot(out), theirs)

    other = {"SD3": "FLUX.1", "FLUX.1": "SD3"}[family]
    assert commands.import_model(str(file), parse_config({})).reused  # another form of the same
    their_model(other).save_pretrained(tmp_path / "other")
    assert not commands.import_model(str(tmp_path / "other"), parse_config({})).reused  # its scaling differs


def test_flux2_goes_out_as_it_came_in(tmp_path):
    theirs = their_flux2(SMALL_DECODER)
    theirs.save_pretrained(tmp_path / "theirs")
    version = commands.import_model(str(tmp_path / "theirs"), parse_config({})).version.version
    out = commands.export_model(str(version), tmp_path / "folder", parse_config({}))
    again = AutoencoderKLFlux2.from_pretrained(out, local_files_only=True).eval()
    assert again.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    images = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        assert torch.equal(again(images).sample, theirs(images).sample)
    assert "scaling_factor" not in again.config
    card = (out / "README.md").read_text()
    assert "import AutoencoderKLFlux2\n" in card
    assert "packed and normalised, in place of a scaling" in card
    assert "channels 8, 16 (in the decoder 4, 12)" in card

    file = commands.export_model(str(version), tmp_path / "ae.safetensors", parse_config({}))
    assert load_file(file).keys() >= OF_FLUX2
    assert all(torch.equal(read_published(file).state[name], value) for name, value in theirs.state_dict().items())
    assert "FLUX.2's ae.safetensors" in exported_files.tools_note(file)
    assert commands.import_model(str(file), parse_config({})).reused  # another form of the same


@pytest.mark.parametrize(
    ("scaling", "said"), [((0.3611, 0.1159), "scaling_factor 0.3611, shift_factor 0.1159"), ((), "")]
)
def test_a_file_of_sixteen_channels_is_not_said_to_be_scaled_as_stable_diffusion_1(monkeypatch, scaling, said):
    config = ModelConfig(latent_channels=16, quant_conv=False)
    factors = dict(zip(("scaling_factor", "shift_factor"), scaling, strict=False))
    stated = {"scaling_factor": None, "notes": (), **factors}
    published = Published(config=config, state={}, form="LDM single file", **stated)
    monkeypatch.setattr(exported_files, "read_published", lambda path: published)
    note = exported_files.tools_note(Path("ae.safetensors"))
    assert "SD3's and FLUX.1's autoencoders" in note
    assert "0.18215" not in note
    assert (f"this model's are {said}" in note) is bool(scaling)
