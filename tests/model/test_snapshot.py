"""Snapshot folders: what diffusers reads, and what is refused."""

import json

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from safetensors.torch import load_file, save_file

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import CONFIG_NAME, WEIGHTS_NAME, write_snapshot
from pikavae.weights.published import read_snapshot

CONFIG = ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, resample_shortcuts=True)


@pytest.fixture
def snapshot(tmp_path):
    write_snapshot(tmp_path, AutoencoderKL(CONFIG), image_size=32, config="data: {}\n")
    return tmp_path


def test_reading_gives_back_the_model_with_its_shortcuts_folded(tmp_path):
    model = AutoencoderKL(CONFIG).eval()
    write_snapshot(tmp_path, model, image_size=32, config="")
    images = torch.rand(1, 3, 16, 24) * 2 - 1
    read = read_snapshot(tmp_path)
    assert not read.config.resample_shortcuts
    assert not read.training
    with torch.inference_mode():
        latents = model.encode(images).mode()
        torch.testing.assert_close(read.encode(images).mode(), latents)
        torch.testing.assert_close(read.decode(latents), model.decode(latents))


def test_diffusers_loads_the_folder_and_computes_the_same(snapshot):
    other = DiffusersAutoencoderKL.from_pretrained(snapshot, local_files_only=True)
    images = torch.rand(1, 3, 16, 24) * 2 - 1
    with torch.inference_mode():
        expected = other.encode(images).latent_dist.mode()
        torch.testing.assert_close(read_snapshot(snapshot).encode(images).mode(), expected)
    assert other.config.sample_size == 32


def test_a_folder_that_diffusers_wrote_is_read(tmp_path):
    other = DiffusersAutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=2,
    )
    other.save_pretrained(tmp_path)
    latents = torch.randn(1, 2, 4, 4)
    with torch.inference_mode():
        torch.testing.assert_close(read_snapshot(tmp_path).decode(latents), other.eval().decode(latents).sample)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=CONFIG_NAME):
        read_snapshot(tmp_path)


def test_weights_that_do_not_fit_are_listed_by_name(snapshot):
    weights = load_file(snapshot / WEIGHTS_NAME)
    weights["stranger"] = weights.pop("quant_conv.bias")
    weights["post_quant_conv.bias"] = torch.zeros(7)
    save_file(weights, snapshot / WEIGHTS_NAME)
    with pytest.raises(
        UserError, match=r"1 missing: quant_conv.bias; 1 unexpected: stranger; 1 other shapes: post_quant"
    ):
        read_snapshot(snapshot)


def test_a_truncated_weights_file_is_refused(snapshot):
    content = (snapshot / WEIGHTS_NAME).read_bytes()
    (snapshot / WEIGHTS_NAME).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        read_snapshot(snapshot)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("_class_name", "AsymmetricAutoencoderKL", "_class_name"),
        ("use_quant_conv", False, "use_quant_conv"),
        ("down_block_types", ["DownBlock2D"], "DownBlock2D"),
    ],
)
def test_models_of_another_build_are_refused(snapshot, key, value, complaint):
    config = json.loads((snapshot / CONFIG_NAME).read_text())
    (snapshot / CONFIG_NAME).write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=complaint):
        read_snapshot(snapshot)
