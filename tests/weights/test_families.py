"""The families after SDXL: no quant_conv, 16 latent channels, a shift of the latents; against diffusers itself."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from safetensors.torch import load_file, save_file

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.weights.keymaps import export_ldm
from pikavae.weights.published import NO_SCALING_OF_16, read_published, read_snapshot

SCALING = {"SD3": {"scaling_factor": 1.5305, "shift_factor": 0.0609}, "FLUX.1": {"scaling_factor": 0.3611}}
SCALING["FLUX.1"]["shift_factor"] = 0.1159
SIZES = ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, latent_channels=16, quant_conv=False)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def their_model(family="FLUX.1", latent_channels=16, **fields):
    """A small model of a family as diffusers makes it, with random weights."""
    torch.manual_seed(0)
    model = DiffusersAutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=latent_channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **{**SCALING[family], **fields},
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / (parameter[0].numel() if parameter.ndim > 1 else 4) ** 0.5)
    return model.eval()


def assert_same_pictures(model, other):
    images = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        posterior, expected = model.encode(images), other.encode(images).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean)
        torch.testing.assert_close(posterior.logvar, expected.logvar)
        latents = posterior.mean.double()
        torch.testing.assert_close(model.double().decode(latents), other.double().decode(latents).sample)


@pytest.mark.parametrize("family", SCALING)
def test_a_folder_of_a_later_family_gives_the_same_pictures_and_keeps_its_scaling(tmp_path, family):
    theirs = their_model(family)
    theirs.save_pretrained(tmp_path)
    published = read_published(tmp_path, expected=SIZES)
    assert (published.config, published.form, published.scaling) == (SIZES, "diffusers folder", SCALING[family])
    assert published.state.keys() == theirs.state_dict().keys() == AutoencoderKL(SIZES).state_dict().keys()
    assert_same_pictures(read_snapshot(tmp_path), theirs)


@pytest.mark.parametrize("latent_channels", [1, 16, 32, 64])
@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_single_file_of_a_later_family_has_the_sizes_of_its_tensors(tmp_path, latent_channels, prefix):
    state = their_model(latent_channels=latent_channels).state_dict()
    named = {f"{prefix}{name}": value.contiguous() for name, value in export_ldm(state).items()}
    others = {"model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": torch.ones(2, 2)} if prefix else {}
    save_file({**named, **others}, tmp_path / "ae.safetensors")
    published = read_published(tmp_path / "ae.safetensors", norm_groups=4)
    assert published.config == SIZES.model_copy(update={"latent_channels": latent_channels})
    assert (published.form, published.scaling) == ("LDM single file", {})
    assert all(torch.equal(published.state[name], value) for name, value in state.items())
    assert (NO_SCALING_OF_16 in published.notes) is (latent_channels == 16)
    assert any(note.startswith("no scaling_factor is stated") for note in published.notes)


def test_a_configuration_beside_a_single_file_says_its_family(tmp_path):
    theirs = their_model("SD3")
    theirs.save_pretrained(tmp_path / "vae")
    save_file(
        {name: value.contiguous() for name, value in export_ldm(theirs.state_dict()).items()},
        tmp_path / "ae.safetensors",
    )
    shutil.copyfile(tmp_path / "vae" / "config.json", tmp_path / "config.json")
    published = read_published(tmp_path / "ae.safetensors")
    assert (published.config, published.scaling) == (SIZES, SCALING["SD3"])
    assert "sizes are those of config.json beside it" in published.notes
    (tmp_path / "config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    assert read_published(tmp_path / "ae.safetensors", norm_groups=4).scaling == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"use_quant_conv": True},
            "use_quant_conv is True and use_post_quant_conv is False; pikavae reads models with",
        ),
        ({"use_post_quant_conv": True}, "use_quant_conv is False and use_post_quant_conv is True; pikavae reads"),
        ({"use_post_quant_conv": 0}, "use_quant_conv is False and use_post_quant_conv is 0"),
        ({"use_quant_conv": None}, "use_quant_conv is None; expected true or false"),
        ({"shift_factor": float("nan")}, "shift_factor is nan; expected a finite number"),
        ({"shift_factor": float("-inf")}, "shift_factor is -inf; expected a finite number"),
        ({"shift_factor": True}, "shift_factor is True; expected a finite number"),
        ({"shift_factor": 10**400}, "expected a finite number"),
        ({"scaling_factor": float("inf")}, "scaling_factor is inf; expected a number above 0"),
        ({"latents_mean": [0.1] * 16}, "latents_mean without latents_std"),
        ({"latent_channels": 4}, r"4 latent channels without quant_conv: 3 other shapes: encoder\.conv_out\.weight"),
        ({"use_quant_conv": True, "use_post_quant_conv": True}, r"4 missing: quant_conv\.weight"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_configuration_that_does_not_fit_is_refused_in_one_line(tmp_path, fields, said):
    their_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(UserError, match=said) as caught:
        read_published(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_file_with_one_of_the_two_convolutions_is_refused(tmp_path):
    state = export_ldm(their_model().state_dict())
    state |= {"quant_conv.weight": torch.ones(32, 32, 1, 1), "quant_conv.bias": torch.ones(32)}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "ae.safetensors")
    with pytest.raises(UserError, match=r"2 missing: post_quant_conv\.weight, post_quant_conv\.bias$"):
        read_published(tmp_path / "ae.safetensors", norm_groups=4)


def test_a_shift_in_a_file_is_read(tmp_path):
    state = {name: value.contiguous() for name, value in export_ldm(their_model().state_dict()).items()}
    for stated, expected in (("0.25", {"shift_factor": 0.25}), ("-1", {"shift_factor": -1.0})):
        save_file(state, tmp_path / "ae.safetensors", metadata={"pikavae.shift_factor": stated})
        assert read_published(tmp_path / "ae.safetensors", norm_groups=4).scaling == expected
    save_file(state, tmp_path / "ae.safetensors", metadata={"pikavae.shift_factor": "nan"})
    with pytest.raises(UserError, match="shift_factor is nan; expected a finite number"):
        read_published(tmp_path / "ae.safetensors", norm_groups=4)


def test_weights_of_the_real_sizes_have_the_shapes_of_diffusers():
    with torch.device("meta"):
        ours = AutoencoderKL(ModelConfig(latent_channels=16, quant_conv=False))
        theirs = DiffusersAutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


def test_weights_read_twice_are_those_of_the_file(tmp_path):
    theirs = their_model()
    theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / WEIGHTS)
    assert all(torch.equal(value, stored[name]) for name, value in read_published(tmp_path).state.items())
