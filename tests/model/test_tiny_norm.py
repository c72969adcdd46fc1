"""FLUX.2's tiny autoencoder, taef2: norms in the blocks beside the latent, which diffusers does not have."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from pydantic import ValidationError
from safetensors.torch import save_file

from pikavae.config import Config, ModelConfig
from pikavae.errors import UserError
from pikavae.evaluation.report.model_card import model_card
from pikavae.model.latent_norm import LatentNorm
from pikavae.model.snapshot import CONFIG_NAME, write_snapshot
from pikavae.model.tiny import build_autoencoder
from pikavae.production.packages.consumer import add_norms
from pikavae.weights.published import read_published
from pikavae.weights.tiny_files import in_halves

SIZES = {
    "taef2's": ModelConfig.model_validate({"like": "taef2"}),
    "small": ModelConfig(kind="tiny", channels=(8, 8, 8), num_res_blocks=2, latent_channels=5, mid_block_norm=True),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def small():
    torch.manual_seed(0)
    model = build_autoencoder(SIZES["small"]).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape) / (value[0].numel() if value.ndim > 1 else 4) ** 0.5)
            if name.endswith("pool.1.weight"):
                value.add_(1.0)
    return model


def written(folder, model):
    folder.mkdir()
    write_snapshot(folder, model, image_size=16, config="", scaling=None)
    return folder


def by_hand(weights, x, strides):
    """Compute a half by its author's names, given the layers of each number in order."""
    for number in sorted({int(name.split(".")[0]) for name in weights}):
        layer = {name.split(".", 1)[1]: value for name, value in weights.items() if name.startswith(f"{number}.")}
        if "weight" in layer:
            if (before := strides.get(number)) == "double":
                x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = F.conv2d(x, layer["weight"], layer.get("bias"), padding=1, stride=2 if before == "halve" else 1)
            x = F.relu(x) if before == "relu" else x
            continue
        if "pool.0.weight" in layer:
            inner = F.conv2d(x, layer["pool.0.weight"])
            inner = F.group_norm(inner, 4, layer["pool.1.weight"], layer["pool.1.bias"], eps=1e-5)
            x = x + F.conv2d(F.relu(inner), layer["pool.3.weight"])
        y = x
        for part in (0, 2, 4):
            y = F.conv2d(y, layer[f"conv.{part}.weight"], layer[f"conv.{part}.bias"], padding=1)
            y = y if part == 4 else F.relu(y)
        x = F.relu(x + y)
    return x


def test_it_computes_what_its_author_writes():
    model, images = small(), 2 * torch.rand(2, 3, 16, 24) - 1
    halves = in_halves(model.state_dict())
    normed = {name.split(".")[0] for name in halves["encoder"] if ".pool." in name}
    assert normed == {"6", "7"}  # the last level: conv and block, then conv and two blocks at each of two levels
    assert {name.split(".")[0] for name in halves["decoder"] if ".pool." in name} == {"3", "4"}
    with torch.inference_mode():
        latents = by_hand(halves["encoder"], (images + 1) / 2, {2: "halve", 5: "halve"})
        torch.testing.assert_close(model.encode(images).mode(), latents)
        decoder = {1: "relu", 6: "double", 10: "double"}
        pictures = by_hand(halves["decoder"], torch.tanh(latents / 3) * 3, decoder)
        torch.testing.assert_close(model.decode(latents), 2 * pictures - 1)


def test_its_sizes_are_the_authors():
    with torch.device("meta"):
        model = build_autoencoder(SIZES["taef2's"])
    counts = [sum(weight.numel() for weight in part.parameters()) for part in (model.encoder, model.decoder)]
    norms = 3 * (2 * 64 * 256 + 2 * 256)
    assert counts == [1_222_532 + norms + 28 * (9 * 64 + 1), 1_222_531 + norms + 28 * 9 * 64]
    layers = dict(model.encoder.named_modules())
    assert [f"layers.{number}.pool" in layers for number in (9, 11, 13)] == [False, True, True]


@pytest.mark.parametrize("form", ["two files", "one file", "folder"])
def test_it_is_read_whole_in_every_form(form, tmp_path):
    model = small()
    if form == "folder":
        path = written(tmp_path / "model", model)
    elif form == "one file":
        path = tmp_path / "tiny.safetensors"
        save_file(model.state_dict(), path)
    else:
        for half, weights in in_halves(model.state_dict()).items():
            torch.save(weights, tmp_path / f"taef2_{half}.pth")
        path = tmp_path / "taef2_decoder.pth"
    found = read_published(path)
    assert found.config == SIZES["small"]
    assert found.state.keys() == model.state_dict().keys()
    assert all(torch.equal(found.state[name], value) for name, value in model.state_dict().items())


def test_a_norm_that_is_missing_is_told_and_nothing_is_loaded(tmp_path):
    state = small().state_dict()
    save_file(
        {name: value for name, value in state.items() if "decoder.layers.2.pool" not in name},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(
        UserError, match=r"nothing loaded.* with norms beside the latent: 4 missing: decoder\.layers\.2\.p"
    ):
        read_published(tmp_path / "a.safetensors")
    folder = written(tmp_path / "model", small())
    sizes = json.loads((folder / CONFIG_NAME).read_text())
    for value, said in (
        ("yes", "mid_block_norm is 'yes'; expected true or false"),
        (False, "nothing loaded, .* unexp"),
    ):
        (folder / CONFIG_NAME).write_text(json.dumps(sizes | {"mid_block_norm": value}))
        with pytest.raises(UserError, match=said):
            read_published(folder)


@pytest.mark.parametrize("fields", [{}, {"kind": "tiny", "channels": (8,)}], ids=["kl", "one level"])
def test_a_model_without_such_blocks_cannot_have_it(fields):
    with pytest.raises(ValidationError, match=r"model\.mid_block_norm true: only a tiny autoencoder"):
        ModelConfig(mid_block_norm=True, **fields)


def test_the_cards_lines_make_diffusers_pictures_equal(tmp_path, monkeypatch):
    model = small()
    folder = written(tmp_path / "model", model)
    card = model_card(None, Config(model=model.config), name="a")
    assert "**Its blocks beside the latent have a norm,**" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    images = 2 * torch.rand(2, 3, 16, 24) - 1
    made = {"images": images}
    monkeypatch.chdir(tmp_path)
    plain, told = (AutoencoderTiny.from_pretrained(folder).eval() for _ in range(2))
    add_norms(told, folder / WEIGHTS)
    with torch.inference_mode():
        exec(code.replace("path/to/this/folder", "model"), made)
        expected = model.encode(images).mode()
        torch.testing.assert_close(made["latents"], expected)
        torch.testing.assert_close(made["reconstructions"], model.decode(expected))
        assert torch.equal(told.encode(images).latents, made["latents"])
        assert torch.equal(told.decode(made["latents"]).sample, made["reconstructions"])
        assert not torch.allclose(plain.encode(images).latents, expected, atol=1e-2)
    without = model.config.model_copy(update={"mid_block_norm": False})
    assert "have a norm" not in model_card(None, Config(model=without), name="a")


@pytest.mark.parametrize("size", [(4, 6), (5, 3), (1, 1)])
def test_latents_to_learn_are_the_normalised_ones_unpacked(size):
    norm = LatentNorm(2)
    norm.running_mean.copy_(torch.randn(8))
    norm.running_var.copy_(torch.rand(8) + 0.1)
    latents = torch.randn(3, 2, 6, 8)
    packed, _ = norm.normalise(latents, torch.zeros_like(latents))
    expected = F.pixel_shuffle(packed, 2)[..., : size[0], : size[1]]
    torch.testing.assert_close(norm.normalise_unpacked(latents[..., : size[0], : size[1]]), expected)
