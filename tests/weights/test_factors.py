"""Latents that are scaled by one number for each channel, as diffusers' fields latents_mean and latents_std say."""

import json
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from safetensors.torch import save_file

from pikavae.errors import UserError
from pikavae.operations import tools_note
from pikavae.presets import parse_config
from pikavae.training.teacher import factor_and_shift
from pikavae.weights.keymaps import export_ldm
from pikavae.weights.published import read_published
from pikavae.workspace.run_record import TeacherRecord
from tests.support import commands
from tests.weights.test_families import their_model
from tests.weights.test_flux2 import their_flux2

MEAN, STD = [0.25, -1.5, 0.0, 3.0], [0.5, 1.25, 2.0, 8.0]
FACTORS: dict[str, Any] = {"scaling_factor": 0.5, "latents_mean": MEAN, "latents_std": STD}


def four_channels(**fields):
    return their_model(latent_channels=4, **{"shift_factor": None, **FACTORS, **fields})


def save(folder, **fields):
    """Save such a model, and overwrite fields of its config.json."""
    four_channels().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


def test_they_are_read_kept_and_exported_as_diffusers_has_them(tmp_path, capsys):
    theirs = four_channels()
    theirs.save_pretrained(tmp_path / "theirs")
    assert read_published(tmp_path / "theirs").scaling == FACTORS
    version = commands.import_model(str(tmp_path / "theirs"), parse_config({})).version.version
    out = commands.export_model(str(version), tmp_path / "folder", parse_config({}))
    again = DiffusersAutoencoderKL.from_pretrained(out, local_files_only=True)
    assert {name: again.config[name] for name in FACTORS} == FACTORS
    assert again.config.shift_factor is None
    card = (out / "README.md").read_text()
    assert "scaling factor 0.5, latents mean [0.25, -1.5, 0, 3], latents std [0.5, 1.25, 2, 8]; by channel" in card

    file = commands.export_model(str(version), tmp_path / "vae.safetensors", parse_config({}))
    published = read_published(file)
    assert published.scaling == FACTORS
    assert all(torch.equal(published.state[name], value) for name, value in theirs.state_dict().items())
    assert tools_note(file)
    assert commands.import_model(str(file), parse_config({})).reused
    their_model(latent_channels=4, shift_factor=None, **{**FACTORS, "latents_std": [1.0] * 4}).save_pretrained(
        tmp_path / "other"
    )
    assert not commands.import_model(str(tmp_path / "other"), parse_config({})).reused


def test_a_teachers_latents_are_scaled_as_diffusers_pipelines_scale_them():
    latents, record = torch.randn(2, 4, 3, 3), TeacherRecord(folder="", shift_factor=0.0, **FACTORS)
    factor, shift = factor_and_shift(record)
    mean, std = (torch.tensor(numbers).view(1, 4, 1, 1) for numbers in (MEAN, STD))
    expected = (latents - mean) * 0.5 / std  # StableDiffusionXLImg2ImgPipeline.prepare_latents
    torch.testing.assert_close((latents - shift) * factor, expected)
    one = TeacherRecord(folder="", scaling_factor=0.5, shift_factor=0.25)
    factor, shift = factor_and_shift(one)
    assert torch.equal((latents - shift) * factor, (latents - 0.25) * 0.5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"latents_mean": [0.1] * 3}, "latents_mean is .* expected a list of 4 numbers"),
        ({"latents_std": 0.5}, r"latents_std is 0\.5; expected a list of 4 numbers"),
        ({"latents_mean": [0.0, float("nan"), 0.0, 0.0]}, r"latents_mean\[1\] is nan; expected a finite number"),
        ({"latents_mean": [0.0, 0.0, True, 0.0]}, r"latents_mean\[2\] is True; expected a finite number"),
        ({"latents_std": [1.0, 1.0, 1.0, 0.0]}, r"latents_std\[3\] is 0\.0; expected a number above 0"),
        ({"latents_std": [1.0, -1.0, 1.0, 1.0]}, r"latents_std\[1\] is -1\.0; expected a number above 0"),
        ({"latents_std": [1.0, 1.0, float("inf"), 1.0]}, r"latents_std\[2\] is inf"),
        ({"latents_std": [1.0, 1.0, 1.0, "wide"]}, r"latents_std\[3\] is 'wide'"),
        ({"latents_std": None}, "latents_mean without latents_std.*; state both"),
        ({"latents_mean": None}, "latents_std without latents_mean.*; state both"),
        ({"shift_factor": 0.1}, r"shift_factor is 0\.1 beside latents_mean"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_a_line_that_names_the_field(tmp_path, fields, said):
    with pytest.raises(UserError, match=rf"config\.json: {said}") as caught:
        read_published(save(tmp_path / "vae", **fields))
    assert "\n" not in str(caught.value)


def test_a_shift_of_0_beside_them_is_none(tmp_path):
    assert read_published(save(tmp_path / "vae", shift_factor=0.0)).scaling == {**FACTORS, "shift_factor": 0.0}


def test_metadata_that_is_no_list_is_refused(tmp_path):
    state = {name: value.contiguous() for name, value in export_ldm(four_channels().state_dict()).items()}
    for stated in ("wide", "0.5", "[1, 1]"):
        metadata = {"pikavae.latents_mean": "[0, 0, 0, 0]", "pikavae.latents_std": stated}
        save_file(state, tmp_path / "vae.safetensors", metadata=metadata)
        with pytest.raises(UserError, match=r"latents_std is .*expected a list of 4 numbers"):
            read_published(tmp_path / "vae.safetensors", norm_groups=4)


def test_a_model_that_normalises_its_latents_has_none(tmp_path):
    their_flux2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "latents_mean": [0.1] * 4}))
    with pytest.raises(UserError, match=r"latents_mean is .*only a plain AutoencoderKL has it; remove it"):
        read_published(tmp_path)
