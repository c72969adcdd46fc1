"""Damaged and foreign weights: each is refused, and what is wrong is told by name."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.weights.keymaps import export_ldm, their_names
from pikavae.weights.published import read_published
from pikavae.weights.weight_files import MAX_JSON_DEPTH
from tests.weights.test_published import (
    CONFIG,
    SIZES,
    WEIGHTS,
    assert_same,
    in_diffusers,
    save,
    state_of,
)


def broken(state, how):
    name = "decoder.up_blocks.1.resnets.0.conv1.weight"
    if how == "dropped":
        del state[name]
    elif how == "added":
        state["decoder.stranger"] = torch.zeros(2)
    elif how == "transposed":
        state[name] = state[name].transpose(0, 1)[:, :5].contiguous()
    elif how == "not a number":
        state[name][0, 0, 0, 0] = torch.nan
    elif how == "infinite":
        state[name][0, 0, 0, 0] = -torch.inf
    elif how == "quantised":
        state[name] = state[name].to(torch.int8)
    return state


BREAKS = {
    "dropped": r"nothing loaded.*1 missing: .*conv1\.weight$",
    "added": r"nothing loaded.*1 unexpected: .*stranger$",
    "transposed": r"nothing loaded.*1 other shapes: .*conv1\.weight is \(.*\) instead of \(",
    "not a number": r"conv1\.weight holds NaN or infinite numbers; nothing loaded",
    "infinite": r"conv1\.weight holds NaN or infinite numbers; nothing loaded",
    "quantised": r"conv1\.weight is not a dense floating-point tensor \(torch\.int8",
}


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("form", ["folder", "file", "LDM"])
def test_one_weight_that_does_not_fit_is_told_by_name(tmp_path, how, form):
    state = broken(state_of(), how)
    if form == "folder":
        in_diffusers(CONFIG).save_pretrained(tmp_path)
        path = save(state, tmp_path / WEIGHTS).parent
    else:
        path = save(export_ldm(state) if form == "LDM" else state, tmp_path / "vae.safetensors")
    match = BREAKS[how].replace("conv1", "block.0.conv1" if form == "LDM" else "resnets.0.conv1")
    with pytest.raises(UserError, match=match) as caught:
        read_published(path)
    assert "\n" not in str(caught.value)


def test_whichever_weight_is_dropped_is_the_one_that_is_missed(tmp_path):
    config = ModelConfig(channels=(32, 32), num_res_blocks=2, latent_channels=4)
    state = state_of(config)
    for naming in ("diffusers", "LDM", "tutorial"):
        theirs = their_names(naming, config, state)
        for name in list(state)[::2]:
            some = {theirs[other]: value for other, value in state.items() if other != name}
            with pytest.raises(UserError, match=rf"1 missing: {re.escape(theirs[name])}$"):
                read_published(save(some, tmp_path / "vae.safetensors"))


def test_whichever_shape_is_odd_is_the_one_that_is_told(tmp_path):
    state = state_of()
    for name, value in list(state.items())[::3]:
        odd = {**state, name: value[:-1].clone()}
        with pytest.raises(UserError, match=rf"1 other shapes: {re.escape(name)} is"):
            read_published(save(odd, tmp_path / "vae.safetensors"))


def test_sizes_that_are_not_expected_are_told_by_field(tmp_path):
    path = save(state_of(), tmp_path / "vae.pt")
    other = ModelConfig(channels=(32, 64, 64), num_res_blocks=2, latent_channels=4)
    with pytest.raises(
        UserError,
        match=r"channels \(32, 64, 32\) instead of \(32, 64, 64\), latent_channels 3 instead of 4; set --model",
    ):
        read_published(path, expected=other)


def test_widths_that_the_assumed_groups_do_not_divide_are_told_with_the_remedy(tmp_path):
    path = save(state_of(SIZES["four groups"]), tmp_path / "vae.pt")
    with pytest.raises(UserError, match=r"norm_groups 32 does not divide the 8.*put a config\.json beside it"):
        read_published(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_quant_conv", False),
        ("use_post_quant_conv", False),
        ("act_fn", "relu"),
        ("in_channels", 4),
        ("_class_name", "AsymmetricAutoencoderKL"),
        ("latents_mean", [0.1, 0.2]),
        ("use_quant_conv", "no"),
        ("shift_factor", "far"),
        ("shift_factor", float("inf")),
        ("scaling_factor", float("nan")),
        ("down_block_types", ["DownEncoderBlock2D", "AttnDownEncoderBlock2D", "DownEncoderBlock2D"]),
        ("up_block_types", ["UpDecoderBlock2D"]),
        ("block_out_channels", 32),
        ("layers_per_block", 0),
        ("latent_channels", "many"),
        ("norm_num_groups", 5),
        ("scaling_factor", "large"),
    ],
)
def test_configurations_that_this_model_cannot_be_are_told_by_field(tmp_path, field, value):
    in_diffusers(CONFIG).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, field: value}))
    with pytest.raises(UserError, match=r"config\.json.*") as caught:
        read_published(tmp_path)
    told = {"layers_per_block": "greater than", "latent_channels": "whole number", "norm_num_groups": "norm_groups 5"}
    assert told.get(field, field) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1])
def test_a_configuration_that_is_nested_too_deeply_is_refused(tmp_path, depth):
    in_diffusers(CONFIG).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    nested = []
    for _ in range(depth - 2):  # the object and this list are two levels
        nested = [nested]
    (tmp_path / "config.json").write_text(json.dumps({**config, "novelty": nested}))
    if depth == MAX_JSON_DEPTH:
        assert "unknown fields: novelty" in read_published(tmp_path).notes
    else:
        with pytest.raises(UserError, match=r"config\.json: nested more than 16 levels deep; download it again"):
            read_published(tmp_path)


def test_fields_that_are_not_known_are_noted(tmp_path):
    in_diffusers(CONFIG).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "force_upcast": False, "novelty": 1}))
    assert "unknown fields: novelty" in read_published(tmp_path).notes


STAND_INS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n": "Git LFS pointer.*git lfs pull",
    b"\n<!DOCTYPE html><html>Sign in</html>": "a web page instead of the file",
    b"": "an empty file",
    b"abc": "damaged safetensors|neither a safetensors file",
    b"PK\x03\x04 and then nothing": "cut short|damaged",
    b"\x80\x02nonsense": "no weights that can be read",
    bytes(200): "damaged safetensors|neither a safetensors file",
}


@pytest.mark.parametrize("content", STAND_INS)
@pytest.mark.parametrize("name", ["vae.safetensors", "vae.ckpt", WEIGHTS])
def test_files_that_are_no_weights_are_told_for_what_they_are(tmp_path, content, name):
    if name == WEIGHTS:
        in_diffusers(CONFIG).save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=STAND_INS[content]) as caught:
        read_published(tmp_path if name == WEIGHTS else tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_files_that_are_cut_short_are_refused(tmp_path, suffix, share):
    path = save(state_of(), tmp_path / f"vae{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"damaged|cut short|no weights that can be read"):
        read_published(path)


def test_the_older_format_of_torch_is_read(tmp_path):
    state = state_of()
    torch.save(state, tmp_path / "vae.pt", _use_new_zipfile_serialization=False)
    assert_same(read_published(tmp_path / "vae.pt"), state)


def test_parts_that_are_missing_or_lie_elsewhere_are_refused(tmp_path):
    in_diffusers(CONFIG).save_pretrained(tmp_path / "vae", max_shard_size="40KB")
    index = tmp_path / "vae" / f"{WEIGHTS}.index.json"
    original = json.loads(index.read_text())
    part = original["weight_map"]["quant_conv.bias"]
    for content, match in [
        ({"weight_map": {**original["weight_map"], "quant_conv.bias": f"../vae/{part}"}}, "is not in the folder"),
        ({"weight_map": {**original["weight_map"], "phantom": part}}, "1 names are in no part: phantom"),
        ({}, "names no parts"),
    ]:
        index.write_text(json.dumps(content))
        with pytest.raises(UserError, match=match):
            read_published(tmp_path / "vae")
    index.write_text(json.dumps(original))
    (tmp_path / "vae" / part).unlink()
    with pytest.raises(UserError, match="is not in the folder; download it too"):
        read_published(tmp_path / "vae")


def test_places_without_weights_are_told(tmp_path):
    with pytest.raises(UserError, match="not found"):
        read_published(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"neither config\.json nor vae/config\.json"):
        read_published(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="no weights beside"):
        read_published(tmp_path)
    shutil.copy(save({"unet.weight": torch.ones(2)}, tmp_path / "unet.safetensors"), tmp_path / WEIGHTS)
    with pytest.raises(UserError, match=r"unet\.safetensors: not an autoencoder of a known kind.*found unet\.weight"):
        read_published(tmp_path / "unet.safetensors")
    with pytest.raises(UserError, match=r"no autoencoder|not JSON"):
        read_published(tmp_path)


def test_weights_of_a_checkpoint_are_not_taken_for_published_ones(tmp_path):
    """They may hold shortcuts that are not folded yet, under the same names."""
    for name in ("state.json", "optimizer.pt"):
        (tmp_path / name).write_bytes(b"{}")
    save(state_of(), tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(UserError, match="name the run's snapshot instead"):
            read_published(path)


def test_a_tensor_that_pretends_to_be_large_is_refused(tmp_path):
    state = state_of()
    name = "decoder.conv_out.weight"
    for zipped, match in [(True, "beyond its storage"), (False, "beyond its storage")]:
        content = {**state, name: torch.zeros(1).expand(state[name].shape)}
        torch.save(content, tmp_path / "vae.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=match):
            read_published(tmp_path / "vae.pt")


def test_reading_changes_no_file(tmp_path):
    in_diffusers(CONFIG).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    read_published(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert load_file(tmp_path / WEIGHTS).keys() == state_of().keys()
