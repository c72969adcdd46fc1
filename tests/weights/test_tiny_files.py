"""A tiny autoencoder is read from its author's two files, from one file, and whole or not at all."""

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save_file

from pikavae.config import ModelConfig
from pikavae.errors import OtherSizesError, UserError
from pikavae.weights.published import published_files, read_published
from pikavae.weights.tiny_files import in_halves

SIZES = ModelConfig(kind="tiny", channels=(8, 8, 8), num_res_blocks=2, latent_channels=3)


@pytest.fixture
def state():
    torch.manual_seed(0)
    widths = {f"{half}_block_out_channels": SIZES.channels for half in ("encoder", "decoder")}
    blocks = {"num_encoder_blocks": (1, 2, 2), "num_decoder_blocks": (2, 2, 1)}
    return AutoencoderTiny(**widths, **blocks, latent_channels=3).state_dict()


def in_author_s_names(state):
    """Number the layers as the author's two `nn.Sequential` do, where the decoder begins with a clamp."""
    return {
        "encoder": {name.removeprefix("encoder.layers."): value for name, value in state.items() if "encoder" in name},
        "decoder": {
            ".".join([str(int(number) + 1), *leaf]): value
            for name, value in state.items()
            if "decoder" in name
            for number, *leaf in [name.removeprefix("decoder.layers.").split(".")]
        },
    }


def assert_read(path, state, form):
    found = read_published(path)
    assert (found.config, found.form) == (SIZES, form)
    assert found.scaling == {"scaling_factor": 1.0, "shift_factor": 0.0}
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], value) for name, value in state.items())
    return found


def test_two_files_are_read_by_the_name_of_either(state, tmp_path):
    halves = in_author_s_names(state)
    assert {half: set(names) for half, names in in_halves(state).items()} == {
        half: set(names) for half, names in halves.items()
    }
    for half, weights in halves.items():
        save_file(weights, tmp_path / f"taesd_{half}.safetensors")
        torch.save(weights, tmp_path / f"taesdxl_{half}.pth")
    for half in halves:
        for name in (f"taesd_{half}.safetensors", f"taesdxl_{half}.pth"):
            assert_read(tmp_path / name, state, "two files of TAESD")
    files = {tuple(published_files(tmp_path / f"taesd_{half}.safetensors")) for half in halves}
    assert files == {tuple(tmp_path / f"taesd_{half}.safetensors" for half in ("encoder", "decoder"))}


def test_one_file_of_both_halves_is_read(state, tmp_path):
    save_file(state, tmp_path / "tiny.safetensors")
    assert_read(tmp_path / "tiny.safetensors", state, "tiny file")
    both = {
        f"taesd_{half}.{name}": value for half, part in in_author_s_names(state).items() for name, value in part.items()
    }
    torch.save({**both, "vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}, tmp_path / "combined.pth")
    assert_read(tmp_path / "combined.pth", state, "tiny file")


def test_a_half_without_the_other_is_refused(state, tmp_path):
    halves = in_author_s_names(state)
    save_file(halves["decoder"], tmp_path / "taesd_decoder.safetensors")
    save_file(halves["decoder"], tmp_path / "preview.safetensors")
    said = {
        "taesd_decoder": r"the decoder of a tiny autoencoder alone; .* beside it, as taesd_encoder\.safetensors$",
        "preview": r"as taesd_encoder\.safetensors, and name this one taesd_decoder\.safetensors$",
    }
    for name, words in said.items():
        with pytest.raises(UserError, match=words):
            read_published(tmp_path / f"{name}.safetensors")
    save_file(halves["decoder"], tmp_path / "taesd_encoder.safetensors")
    with pytest.raises(UserError, match=r"taesd_encoder\.safetensors: not the encoder of the tiny autoencoder whose"):
        read_published(tmp_path / "taesd_decoder.safetensors")


@pytest.mark.parametrize("change", ["missing", "stranger", "shape", "not finite", "few"])
def test_nothing_is_loaded_in_part(state, tmp_path, change):
    name = "decoder.layers.2.conv.2.weight"
    changed = {
        "missing": {key: value for key, value in state.items() if key != name},
        "stranger": {**state, "decoder.layers.99.weight": torch.zeros(1)},
        "shape": {**state, name: torch.zeros(8, 9, 3, 3)},
        "not finite": {**state, name: state[name] * torch.nan},
        "few": {"encoder.layers.0.weight": state["encoder.layers.0.weight"]},
    }[change]
    save_file(changed, tmp_path / "tiny.safetensors")
    said = {"few": "too few weights of a tiny encoder", "not finite": "holds NaN"}.get(
        change, "nothing loaded, it does not"
    )
    with pytest.raises(UserError, match=said) as caught:
        read_published(tmp_path / "tiny.safetensors")
    assert "\n" not in str(caught.value)


def test_one_kind_where_the_other_is_asked_for_is_told_with_the_flags(state, tmp_path):
    save_file(state, tmp_path / "tiny.safetensors")
    with pytest.raises(
        OtherSizesError,
        match=r"tiny\.safetensors: a tiny autoencoder \(AutoencoderTiny\), and model\.kind kl asks for an "
        r"AutoencoderKL: name such a model, or take this one; set --model\.kind tiny --model\.channels 8 8 8 "
        r"--model\.latent-channels 3$",
    ):
        read_published(tmp_path / "tiny.safetensors", expected=ModelConfig())
    AutoencoderKL(block_out_channels=(32,)).save_pretrained(tmp_path / "kl")
    with pytest.raises(
        OtherSizesError, match=r"an AutoencoderKL, and model\.kind tiny asks for a tiny .*--model\.kind kl "
    ):
        read_published(tmp_path / "kl", expected=SIZES)


def test_a_text_encoder_beside_it_is_no_tiny_autoencoder(state, tmp_path):
    others = {
        "cond.text_model.encoder.layers.0.self_attn.k_proj.weight": torch.zeros(4, 4),
        "cond.text_model.encoder.layers.0.layer_norm1.weight": torch.zeros(4),
    }
    save_file({**others, **{f"vae.{name}": value for name, value in state.items()}}, tmp_path / "all.safetensors")
    found = assert_read(tmp_path / "all.safetensors", state, "tiny file")
    assert found.notes == ("2 names outside vae.* are ignored",)
