"""A model of RGB pictures that begins with RGBA or grey ones."""

import json

import pytest
import torch

from pikavae.config import CHANNELS, ModelConfig
from pikavae.model.picture_channels import can_take_over, take_over
from pikavae.model.sizes import diffusers_config, model_config
from pikavae.model.snapshot import write_snapshot
from pikavae.model.tiny import build_autoencoder
from pikavae.weights.published import read_published, read_snapshot

KL = ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4)
TINY = ModelConfig(kind="tiny", channels=(8, 8), num_res_blocks=1)
MODELS = pytest.mark.parametrize("sizes", [KL, TINY], ids=["kl", "tiny"])


def rgb_model(sizes):
    torch.manual_seed(0)
    return build_autoencoder(sizes).eval()


@MODELS
@torch.inference_mode()
def test_opaque_pictures_are_reconstructed_as_before(sizes):
    model = rgb_model(sizes)
    widened = take_over(model, CHANNELS["rgba"])
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    opaque = torch.cat([images, torch.ones(2, 1, 16, 16)], dim=1)
    made = widened.decode(widened.encode(opaque).mode())
    torch.testing.assert_close(made[:, :3], model.decode(model.encode(images).mode()))
    torch.testing.assert_close(made[:, 3:], torch.ones(2, 1, 16, 16))


@MODELS
@torch.inference_mode()
def test_grey_is_read_as_equal_colours_and_written_as_their_luma(sizes):
    model = rgb_model(sizes)
    narrowed = take_over(model, CHANNELS["grey"])
    grey = torch.rand(2, 1, 16, 16) * 2 - 1
    colours = model.decode(model.encode(grey.expand(-1, 3, -1, -1)).mode())
    luma = (colours * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    torch.testing.assert_close(narrowed.decode(narrowed.encode(grey).mode()), luma, rtol=1e-4, atol=1e-4)


def test_alpha_learns_from_the_first_step():
    model = take_over(rgb_model(KL), CHANNELS["rgba"]).train()
    images = torch.rand(2, 4, 16, 16) * 2 - 1
    (model(images)[0] - images).square().mean().backward()
    first, last = model.ends
    assert first.grad[:, 3].abs().sum() > 0
    assert last.grad[3].abs().sum() > 0


def test_no_other_channels_can_be_taken_over():
    assert not can_take_over(4, CHANNELS["rgba"])
    assert not can_take_over(3, ("a", "b", "c", "d"))
    with pytest.raises(ValueError, match="no others than RGB"):
        take_over(rgb_model(KL), ("nir",))


@MODELS
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_a_snapshot_states_its_channels_and_is_read_by_its_shapes_alone(sizes, channels, tmp_path):
    sizes = sizes.model_copy(update={"image_channels": channels})
    stated = diffusers_config(sizes, 16)
    assert (stated["in_channels"], stated["out_channels"]) == (channels, channels)
    assert model_config(json.loads(json.dumps(stated)), where="config.json").image_channels == channels
    model = rgb_model(sizes)
    write_snapshot(tmp_path, model, image_size=16, config="")
    assert read_snapshot(tmp_path).config.image_channels == channels
    alone = tmp_path / "alone"
    alone.mkdir()
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(alone / "vae.safetensors")
    assert read_published(alone / "vae.safetensors", norm_groups=4).config.image_channels == channels


@torch.inference_mode()
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_diffusers_makes_the_same_pictures(channels, tmp_path):
    import diffusers

    model = rgb_model(KL.model_copy(update={"image_channels": channels}))
    write_snapshot(tmp_path, model, image_size=16, config="")
    theirs = diffusers.AutoencoderKL.from_pretrained(tmp_path).eval()
    images = torch.rand(2, channels, 16, 16) * 2 - 1
    made = theirs.decode(theirs.encode(images).latent_dist.mode()).sample
    torch.testing.assert_close(made, model.decode(model.encode(images).mode()), rtol=1e-4, atol=1e-4)
