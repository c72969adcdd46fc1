"""FLUX.2's autoencoder: a batch norm of packed latents and a decoder of its own widths; against diffusers itself."""

import json

import pytest
import torch
from diffusers import AutoencoderKLFlux2
from safetensors.torch import load_file, save_file

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.weights.keymaps import export_ldm
from pikavae.weights.published import read_published, read_snapshot

SIZES = ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4, latent_channels=6, latent_norm=True)
SMALL_DECODER = SIZES.model_copy(update={"decoder_channels": (4, 12)})
BOTH = {"one width": SIZES, "decoder of its own": SMALL_DECODER}
COUNT = "bn.num_batches_tracked"
OF_FLUX2 = {"decoder.post_quant_conv.weight", "encoder.quant_conv.bias", "encoder.mid.attn_1.q.weight", COUNT}


def their_flux2(sizes=SIZES, **fields):
    """A small model of FLUX.2's family as diffusers makes it, with random weights and statistics."""
    torch.manual_seed(0)
    levels = len(sizes.channels)
    model = AutoencoderKLFlux2(
        block_out_channels=sizes.channels,
        decoder_block_out_channels=sizes.decoder_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=sizes.num_res_blocks,
        norm_num_groups=sizes.norm_groups,
        latent_channels=sizes.latent_channels,
        **fields,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) / (parameter[0].numel() if parameter.ndim > 1 else 4) ** 0.5)
        model.bn.running_mean.copy_(torch.randn(4 * sizes.latent_channels))
        model.bn.running_var.copy_(torch.rand(4 * sizes.latent_channels) + 0.1)
        model.bn.num_batches_tracked.fill_(1234)
    return model.eval()


def file_of(model, path, **changes):
    """A single file under the names of FLUX.2's own repository."""
    named = {name: value.contiguous() for name, value in {**export_ldm(model.state_dict()), **changes}.items()}
    save_file({name: value for name, value in named.items() if value.numel()}, path)
    return path


def pictures(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


def patches_of(latents):
    """Cells of 2x2 as channels, by the formula of the `rearrange` in FLUX.2's repository: `c (i pi) (j pj)`."""
    count, channels, height, width = latents.shape
    cells = latents.reshape(count, channels, height // 2, 2, width // 2, 2)
    return cells.permute(0, 1, 3, 5, 2, 4).reshape(count, 4 * channels, height // 2, width // 2)


@pytest.mark.parametrize("sizes", BOTH.values(), ids=BOTH)
def test_a_folder_of_diffusers_gives_the_same_bits_and_pictures(tmp_path, sizes):
    theirs = their_flux2(sizes)
    theirs.save_pretrained(tmp_path)
    published = read_published(tmp_path, expected=sizes)
    assert (published.config, published.form, published.scaling) == (sizes, "diffusers folder", {})
    assert published.notes == ("read from diffusion_pytorch_model.safetensors",)
    assert published.state.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(published.state[name], value), name
    assert published.state[COUNT].dtype == torch.int64
    model, images = read_snapshot(tmp_path), pictures(2, 3, 16, 24)
    with torch.inference_mode():
        posterior, expected = model.encode(images), theirs.encode(images).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean)
        torch.testing.assert_close(posterior.logvar, expected.logvar)
        latents = posterior.mean.double()
        torch.testing.assert_close(model.double().decode(latents), theirs.double().decode(latents).sample)


def test_a_diffusion_model_gets_what_the_pipeline_of_diffusers_gives_it(tmp_path):
    theirs = their_flux2()
    theirs.save_pretrained(tmp_path)
    model, images = read_snapshot(tmp_path), pictures(2, 3, 16, 24)
    with torch.inference_mode():
        posterior = model.encode(images)
        given = model.normalise(posterior)
        mean = theirs.bn.running_mean.view(1, -1, 1, 1)
        std = torch.sqrt(theirs.bn.running_var.view(1, -1, 1, 1) + theirs.config.batch_norm_eps)
        assert torch.equal(given.mean, (patches_of(posterior.mean) - mean) / std)
        torch.testing.assert_close(given.mean, theirs.bn(patches_of(posterior.mean)))
        torch.testing.assert_close(model.restore(given.mean), posterior.mean)
        noise = torch.randn(posterior.mean.shape)
        sample = (patches_of(posterior.sample(noise=noise)) - mean) / std
        torch.testing.assert_close(given.sample(noise=patches_of(noise)), sample)


@pytest.mark.parametrize("prefix", ["", "vae."])
@pytest.mark.parametrize("sizes", BOTH.values(), ids=BOTH)
def test_a_file_under_the_names_of_its_repository_has_the_sizes_of_its_tensors(tmp_path, sizes, prefix):
    theirs = their_flux2(sizes)
    named = load_file(file_of(theirs, tmp_path / "plain.safetensors"))
    assert named.keys() >= OF_FLUX2
    save_file({f"{prefix}{name}": value for name, value in named.items()}, tmp_path / "ae.safetensors")
    published = read_published(tmp_path / "ae.safetensors", norm_groups=4)
    assert (published.config, published.form, published.scaling) == (sizes, "LDM single file", {})
    assert published.notes == ("norm_groups 4 is assumed: the file does not state it",)
    assert all(torch.equal(published.state[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("sizes", BOTH.values(), ids=BOTH)
def test_a_snapshot_is_a_folder_of_diffusers(tmp_path, sizes):
    torch.manual_seed(1)
    model = AutoencoderKL(sizes.model_copy(update={"resample_shortcuts": True})).eval()
    write_snapshot(tmp_path, model, image_size=32, config="")
    theirs = AutoencoderKLFlux2.from_pretrained(tmp_path, local_files_only=True).eval()
    images = pictures(1, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(theirs.encode(images).latent_dist.mean, model.encode(images).mean)
    assert theirs.state_dict().keys() == read_snapshot(tmp_path).state_dict().keys()
    assert "scaling_factor" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tools_may_have_converted_the_counter_or_left_it_out(tmp_path, dtype):
    theirs = their_flux2()
    path = file_of(theirs, tmp_path / "a.safetensors", **{COUNT: torch.tensor(256).to(dtype)})
    assert torch.equal(read_published(path, norm_groups=4).state[COUNT], torch.tensor(256))
    published = read_published(file_of(theirs, tmp_path / "b.safetensors", **{COUNT: torch.empty(0)}), norm_groups=4)
    assert torch.equal(published.state[COUNT], torch.tensor(0))
    assert published.notes[-1] == "bn.num_batches_tracked is missing, 0 is assumed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bn.running_mean": torch.empty(0)}, r"FLUX\.2: 1 missing: bn\.running_mean$"),
        ({"bn.running_mean": torch.zeros(6)}, r"bn\.running_mean is \(6,\) instead of \(24,\)$"),
        ({"bn.running_var": torch.full((24,), -1.0)}, r"bn\.running_var holds negative numbers"),
        ({"bn.running_var": torch.full((24,), torch.nan)}, r"bn\.running_var holds NaN or infinite numbers"),
        ({COUNT: torch.tensor(-1)}, "is not a whole number from 0 on"),
        ({COUNT: torch.tensor(0.5)}, "is not a whole number from 0 on"),
        ({"bn.weight": torch.ones(24)}, r"1 unexpected: bn\.weight$"),
        ({"encoder.quant_conv.weight": torch.empty(0)}, r"1 missing: quant_conv\.weight$"),
    ],
)
def test_statistics_that_are_damaged_are_refused_in_one_line(tmp_path, changes, said):
    path = file_of(their_flux2(), tmp_path / "ae.safetensors", **changes)
    with pytest.raises(UserError, match=said) as caught:
        read_published(path, norm_groups=4)
    assert "\n" not in str(caught.value)


def test_statistics_and_configuration_that_disagree_are_refused(tmp_path):
    their_flux2().save_pretrained(tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "diffusion_pytorch_model.safetensors"
    sizes, state = json.loads(config.read_text()), load_file(weights)
    config.write_text(json.dumps({**sizes, "_class_name": "AutoencoderKL"}))
    with pytest.raises(UserError, match=r"statistics of FLUX\.2's latents .* would be AutoencoderKLFlux2$"):
        read_published(tmp_path)
    config.write_text(json.dumps(sizes))
    save_file({name: value for name, value in state.items() if not name.startswith("bn.")}, weights)
    with pytest.raises(UserError, match=r"has no statistics of latents .* keeps with its weights; nothing loaded"):
        read_published(tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"batch_norm_eps": 1e-5}, r"batch_norm_eps is 1e-05; pikavae reads models with 0\.0001 only"),
        ({"patch_size": [1, 1]}, r"patch_size is \[1, 1\]; pikavae reads models with \[2, 2\] only"),
        ({"latent_channels": 8}, "8 latent channels with the batch norm of FLUX.2: 9 other shapes"),
        ({"decoder_block_out_channels": [8]}, r"decoder_channels \(8,\): expected one for each of model\.channels"),
        ({"decoder_block_out_channels": [6, 16]}, r"norm_groups 4 does not divide the 6 of model\.decoder_channels"),
        ({"decoder_block_out_channels": [12, 16]}, r"nothing loaded, it does not fit .* other shapes: decoder"),
        ({"decoder_block_out_channels": "8"}, "decoder_block_out_channels is '8'; expected a list of whole numbers"),
        ({"use_post_quant_conv": False}, "with both convolutions or with neither"),
        ({"_class_name": "AutoencoderTiny"}, "act_fn is 'silu'; pikavae reads models with 'relu' only"),
        (
            {"_class_name": "AutoencoderDC"},
            "_class_name is 'AutoencoderDC'; expected AutoencoderKL, .* or Auto[A-Za-z2]+$",
        ),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_refused_in_one_line(tmp_path, fields, said):
    their_flux2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(UserError, match=said) as caught:
        read_published(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_configuration_may_leave_out_what_diffusers_assumes(tmp_path):
    sizes = ModelConfig.model_validate({"like": "flux2", "channels": (8, 8, 16, 16), "norm_groups": 8})
    their_flux2(sizes).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"_class_name": "AutoencoderKLFlux2", "block_out_channels": [8, 8, 16, 16], "norm_num_groups": 8})
    )
    assert read_published(tmp_path).config == sizes


@pytest.mark.slow
def test_the_real_sizes_give_the_pictures_of_diffusers_by_folder_and_by_file(tmp_path):
    """With FLUX.2's channels and the widths of its small decoder, random weights; about 70 million of them."""
    sizes = ModelConfig.model_validate({"like": "flux2", "decoder_channels": (96, 192, 384, 384)})
    theirs = their_flux2(sizes)
    theirs.save_pretrained(tmp_path / "vae")
    model, images = read_snapshot(tmp_path / "vae"), pictures(1, 3, 32, 48)
    published = read_published(file_of(theirs, tmp_path / "ae.safetensors"))
    assert published.config == model.config == sizes
    assert all(torch.equal(published.state[name], value) for name, value in model.state_dict().items())
    with torch.inference_mode():
        posterior, expected = model.encode(images), theirs.encode(images).latent_dist
        torch.testing.assert_close(posterior.mean, expected.mean, rtol=1e-4, atol=1e-4)
        decoded = theirs.decode(posterior.mean).sample
        torch.testing.assert_close(model.decode(posterior.mean), decoded, rtol=1e-4, atol=1e-4)
        assert model.normalise(posterior).mean.shape == (1, 128, 2, 3)
