"""The tiny autoencoder is diffusers' bit for bit, is written as diffusers does, and refuses what it does not have."""

import json

import pytest
import torch
from diffusers import AutoencoderTiny
from pydantic import ValidationError

from pikavae.config import ModelConfig
from pikavae.model.snapshot import CONFIG_NAME, write_snapshot
from pikavae.model.tiling import Tiles, reconstruct_any_size
from pikavae.model.tiny import TinyAutoencoder, build_autoencoder
from pikavae.presets import load_config
from pikavae.weights.published import read_published, read_snapshot

SIZES = {
    "TAESD's": ModelConfig.model_validate({"like": "taesd"}),
    "small": ModelConfig(kind="tiny", channels=(8, 8, 8), num_res_blocks=2, latent_channels=3),
    "one level": ModelConfig(kind="tiny", channels=(8,), num_res_blocks=1, latent_channels=2),
}


def in_diffusers(config):
    blocks = (1, *[config.num_res_blocks] * (len(config.channels) - 1))
    return AutoencoderTiny(
        encoder_block_out_channels=config.channels,
        decoder_block_out_channels=config.channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
        latent_channels=config.latent_channels,
    ).eval()


@pytest.mark.parametrize("name", SIZES)
def test_it_computes_what_diffusers_computes_and_writes_what_diffusers_reads(name, tmp_path):
    config = SIZES[name]
    torch.manual_seed(0)
    theirs = in_diffusers(config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = read_snapshot(tmp_path / "theirs")
    assert ours.config == config
    images = 2 * torch.rand(2, 3, 32, 48) - 1
    with torch.inference_mode():
        latents = theirs.encode(images).latents
        pictures = theirs.decode(3 * latents).sample
        assert torch.equal(ours.encode(images).mode(), latents)
        assert torch.equal(ours.decode(3 * latents), pictures)
        assert torch.equal(ours(images)[0], ours.decode(latents))
    (tmp_path / "ours").mkdir()
    write_snapshot(
        tmp_path / "ours", ours, image_size=32, config="", scaling=read_published(tmp_path / "theirs").scaling
    )
    again = AutoencoderTiny.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert again.config.scaling_factor == 1.0
    assert again.config.shift_factor == 0.0
    with torch.inference_mode():
        assert torch.equal(again.decode(3 * latents).sample, pictures)
    known, written = (json.loads((tmp_path / folder / CONFIG_NAME).read_text()) for folder in ("theirs", "ours"))
    assert {name: value for name, value in known.items() if written.get(name) != value}.keys() <= {
        "_diffusers_version",
        "block_out_channels",  # diffusers writes it, and warns when it reads it
    }
    if name == "TAESD's":
        counts = [sum(weight.numel() for weight in part.parameters()) for part in (ours.encoder, ours.decoder)]
        assert counts == [1_222_532, 1_222_531]  # as its author's table says


def test_layers_that_are_computed_again_have_the_same_gradients():
    torch.manual_seed(0)
    model = TinyAutoencoder(SIZES["small"])
    images, gradients = 2 * torch.rand(2, 3, 16, 16) - 1, []
    for way in ("keep", "checkpoint"):
        model.zero_grad()
        model.choose_activations(way)
        model(images)[0].square().sum().backward()
        gradients.append([weight.grad.clone() for weight in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_tiles_make_the_picture_of_the_whole_far_from_their_borders():
    torch.manual_seed(0)
    model = TinyAutoencoder(SIZES["small"]).eval()
    images = 2 * torch.rand(1, 3, 96, 130) - 1
    tiled, whole = (reconstruct_any_size(model, images, tiles) for tiles in (Tiles(96, 48), Tiles(512, 128)))
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"channels": (8, 16)}, "a tiny autoencoder (model.kind) has one width throughout, such as 64 64"),
        ({"padding": "reflect"}, "model.padding reflect: a tiny autoencoder has none; leave it out (zeros)"),
        ({"latent_norm": True}, "model.latent_norm True: a tiny autoencoder has none"),
        ({"resample_shortcuts": True}, "model.resample_shortcuts True: a tiny autoencoder has none"),
        ({"initial_logvar": -6.0}, "model.initial_logvar -6.0: a tiny autoencoder has none"),
    ],
    ids=str,
)
def test_what_a_tiny_model_does_not_have_is_refused(fields, said):
    with pytest.raises(ValidationError) as caught:
        ModelConfig(**{"kind": "tiny", "channels": (8, 8), **fields})
    assert said in str(caught.value)


def test_sizes_that_a_form_or_a_preset_fills_in_do_not_matter():
    filled = load_config("tutorial", {"model.like": "taesd"})
    assert filled.model == SIZES["TAESD's"]
    assert isinstance(build_autoencoder(filled.model), TinyAutoencoder)
    fields = ModelConfig().model_dump() | {"kind": "tiny", "channels": (64,) * 4, "num_res_blocks": 3}
    assert ModelConfig.model_validate(fields) == SIZES["TAESD's"]
