"""Weights of other makers: what diffusers and LDM's tools write is read bit for bit, and damage is told by name."""

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import save_file

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import diffusers_config, write_snapshot
from pikavae.weights.keymaps import export_ldm, their_names
from pikavae.weights.published import read_published
from tests.model.test_autoencoder import with_random_weights
from tests.support.places import SHARED

CONFIG = ModelConfig(channels=(32, 64, 32), num_res_blocks=2, latent_channels=3)
SIZES = {
    "three levels": CONFIG,
    "one level": ModelConfig(channels=(32,), num_res_blocks=1),
    "no attention": ModelConfig(channels=(32, 64), num_res_blocks=3, latent_channels=8, mid_attention=False),
    "four groups": ModelConfig(channels=(8, 16, 24, 24), num_res_blocks=1, norm_groups=4),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
KEYMAP = SHARED / "tutorial_keymap.json"


def in_diffusers(config, **fields):
    """diffusers' own model with random weights."""
    known = {key: value for key, value in diffusers_config(config, 64).items() if not key.startswith("_")}
    model = DiffusersAutoencoderKL(**{**known, **fields})
    model.load_state_dict(with_random_weights(config).state_dict())
    return model.eval()


def state_of(config=CONFIG):
    return dict(with_random_weights(config).state_dict())


def old_attention(state):
    """The names that diffusers gave attention before version 0.15."""
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in words.items():
        state = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): value for name, value in state.items()}
    return state


def assert_same(published, state, config=CONFIG):
    assert published.config == config
    assert list(published.state) == list(AutoencoderKL(config).state_dict())
    for name, value in state.items():
        assert torch.equal(published.state[name], value), name
        assert published.state[name].dtype == torch.float32


WRITTEN = {
    "safetensors": {},
    "parts": {"max_shard_size": "40KB"},
    "variant": {"variant": "fp16"},
    "parts of a variant": {"variant": "fp16", "max_shard_size": "40KB"},
    "bin": {"safe_serialization": False},
    "parts of bin": {"safe_serialization": False, "max_shard_size": "40KB"},
    "variant of bin": {"safe_serialization": False, "variant": "fp16"},
    "parts of a variant of bin": {"safe_serialization": False, "variant": "fp16", "max_shard_size": "40KB"},
}
FOLDERS = [*((CONFIG, options) for options in WRITTEN.values()), *((config, {}) for config in SIZES.values())]


@pytest.mark.parametrize(("config", "options"), FOLDERS, ids=[*WRITTEN, *SIZES])
def test_a_folder_of_diffusers_gives_the_same_bits_and_pictures(tmp_path, config, options):
    other = in_diffusers(config)
    other.save_pretrained(tmp_path, **options)
    published = read_published(tmp_path, expected=config)
    assert (published.form, published.scaling_factor) == ("diffusers folder", pytest.approx(0.18215))
    assert_same(published, other.state_dict(), config)
    model = AutoencoderKL(published.config).eval()
    model.load_state_dict(published.state)
    reloaded = DiffusersAutoencoderKL.from_pretrained(
        tmp_path,
        local_files_only=True,
        variant=options.get("variant"),
        use_safetensors="safe_serialization" not in options,
    )
    side = 2 * config.downsampling_factor
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        posterior, expected = model.encode(images), reloaded.eval().encode(images).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean, rtol=1e-4, atol=1e-4)
        decoded = reloaded.decode(posterior.mean).sample
        torch.testing.assert_close(model.decode(posterior.mean), decoded, rtol=1e-4, atol=1e-4)


def test_the_vae_of_a_pipelines_folder_is_read(tmp_path):
    in_diffusers(CONFIG, scaling_factor=0.5).save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    published = read_published(tmp_path)
    assert published.scaling_factor == 0.5
    assert "read from vae/diffusion_pytorch_model.safetensors" in published.notes


def test_full_precision_is_read_before_half(tmp_path):
    model = in_diffusers(CONFIG)
    model.save_pretrained(tmp_path)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    model.half().save_pretrained(tmp_path, variant="fp16")
    assert_same(read_published(tmp_path), expected)


def test_a_snapshot_is_read_with_its_form(tmp_path):
    model = with_random_weights(CONFIG)
    write_snapshot(tmp_path, model, image_size=32, config="data: {}\n")
    published = read_published(tmp_path)
    assert published.form == "pikavae snapshot"
    assert_same(published, model.state_dict())


def save(state, path, *, wrapped=False):
    state = {name: value.contiguous() for name, value in state.items()}
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth", ".ckpt", ""])
def test_single_files_of_every_naming_are_read_whatever_their_suffix(tmp_path, suffix):
    state = state_of()
    theirs = their_names("tutorial", CONFIG, state)
    files = {
        "diffusers file": state,
        "LDM single file": export_ldm(state),
        "tutorial file": {theirs[name]: value for name, value in state.items()},
    }
    for form, content in files.items():
        published = read_published(save(content, tmp_path / f"weights{suffix}"))
        assert published.form == form
        assert_same(published, state)
        assert "norm_groups 32 is assumed: the file does not state it" in published.notes


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_sizes_are_told_by_the_shapes_in_every_naming(tmp_path, config):
    state = state_of(config)
    for naming in ("diffusers", "LDM", "tutorial"):
        theirs = their_names(naming, config, state)
        path = save({theirs[name]: value for name, value in state.items()}, tmp_path / "weights.pt")
        assert_same(read_published(path, expected=config), state, config)


def test_a_file_of_a_folder_has_the_sizes_of_the_configuration_beside_it(tmp_path):
    config = SIZES["four groups"]
    in_diffusers(config).save_pretrained(tmp_path)
    published = read_published(tmp_path / WEIGHTS)
    assert (published.config, published.form) == (config, "diffusers file")


@pytest.mark.parametrize("convolutions", [False, True])
def test_old_names_of_attention_are_read(tmp_path, convolutions):
    state = state_of()
    old = old_attention(state)
    assert old.keys() != state.keys()
    if convolutions:
        old = {n: v[:, :, None, None] if "attentions" in n and v.ndim == 2 else v for n, v in old.items()}
    assert_same(read_published(save(old, tmp_path / "vae.pt")), state)
    in_diffusers(CONFIG).save_pretrained(tmp_path)
    save(old, tmp_path / WEIGHTS)
    assert_same(read_published(tmp_path), state)
    loaded = DiffusersAutoencoderKL.from_pretrained(tmp_path, local_files_only=True) if not convolutions else None
    assert loaded is None or torch.equal(loaded.state_dict()["quant_conv.bias"], state["quant_conv.bias"])


def test_short_names_of_attention_are_read(tmp_path):
    state = state_of()
    short = {re.sub(r"attentions\.0\.to_([qkv])\.", r"attentions.0.\1.", name): value for name, value in state.items()}
    assert_same(read_published(save(short, tmp_path / "vae.pt")), state)


def test_a_weight_under_both_its_names_is_refused(tmp_path):
    state = state_of()
    state["encoder.mid_block.attentions.0.query.bias"] = state["encoder.mid_block.attentions.0.to_q.bias"].clone()
    with pytest.raises(UserError, match=r"1 unexpected: encoder\.mid_block\.attentions\.0\.query\.bias"):
        read_published(save(state, tmp_path / "vae.pt"))


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_the_ldm_file_is_the_one_that_diffusers_converts(tmp_path, config):
    state = state_of(config)
    exported = export_ldm(state)
    converted = convert_ldm_vae_checkpoint(dict(exported), diffusers_config(config, 64))
    assert converted.keys() == state.keys()
    assert all(torch.equal(converted[name], state[name]) for name in state)
    assert_same(read_published(save(exported, tmp_path / "vae.ckpt"), expected=config), state, config)


def test_the_ldm_names_are_those_of_the_published_file():
    """Written down from the published Stable Diffusion v1 checkpoint, not made by a rule."""
    names = export_ldm(state_of(SIZES["four groups"])).keys()
    assert {
        "encoder.down.0.block.0.conv1.weight",
        "encoder.down.1.block.0.nin_shortcut.bias",
        "encoder.down.2.downsample.conv.weight",
        "encoder.mid.attn_1.proj_out.weight",
        "encoder.mid.block_2.norm2.bias",
        "encoder.norm_out.weight",
        "decoder.up.3.upsample.conv.weight",
        "decoder.up.0.block.0.nin_shortcut.weight",
        "post_quant_conv.weight",
    } <= names
    assert "decoder.up.0.upsample.conv.weight" not in names


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_autoencoder_of_a_whole_stable_diffusion_checkpoint_is_read(tmp_path, wrapped):
    state = state_of()
    checkpoint = {f"first_stage_model.{name}": value for name, value in export_ldm(state).items()}
    checkpoint |= {"model.diffusion_model.out.0.weight": torch.ones(3), "betas": torch.ones(4)}
    checkpoint |= {"model_ema.decay": torch.tensor(0.9), "scale_factor": torch.tensor(0.25)}
    published = read_published(save(checkpoint, tmp_path / "sd.ckpt", wrapped=wrapped))
    assert_same(published, state)
    assert (published.form, published.scaling_factor) == ("LDM single file", 0.25)
    assert "4 names outside first_stage_model.* are ignored" in published.notes


def test_losses_and_averages_of_a_training_are_left_aside_and_noted(tmp_path):
    state = state_of()
    checkpoint = {
        **export_ldm(state),
        "loss.logvar": torch.zeros(()),
        "loss.discriminator.main.0.weight": torch.ones(2),
    }
    checkpoint["model_ema.encoderconv_inweight"] = torch.ones(2)
    published = read_published(save(checkpoint, tmp_path / "kl.ckpt", wrapped=True))
    assert_same(published, state)
    assert "2 names of the training loss (loss.*) ignored" in published.notes
    assert "1 EMA copies (model_ema.*) ignored" in published.notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_other_formats_become_float32_with_a_note(tmp_path, dtype, suffix):
    state = {name: value.to(dtype) for name, value in state_of().items()}
    published = read_published(save(state, tmp_path / f"vae{suffix}"))
    assert_same(published, {name: value.float() for name, value in state.items()})
    assert f"{len(state)} weights converted from {str(dtype)[6:]} to float32" in published.notes


def test_what_was_read_outlives_its_file(tmp_path):
    for suffix in (".safetensors", ".pt"):
        state = state_of()
        path = save(state, tmp_path / f"vae{suffix}")
        published = read_published(path)
        path.write_bytes(bytes(path.stat().st_size))
        assert_same(published, state)


def test_the_key_map_of_the_tutorial_is_the_recorded_one():
    if not KEYMAP.is_file():
        pytest.skip("the recorded key map is not beside this checkout")
    with torch.device("meta"):
        names = AutoencoderKL(ModelConfig()).state_dict()
    theirs = their_names("tutorial", ModelConfig(), names)
    modules = {value.rpartition(".")[0]: name.rpartition(".")[0] for name, value in theirs.items()}
    assert modules == json.loads(KEYMAP.read_text())
