"""What convolutions read beyond a border: in pikavae, in diffusers by the card's lines, in files, and in tiles."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from safetensors.torch import save_file

from pikavae.config import Config, ModelConfig
from pikavae.errors import UserError
from pikavae.evaluation.report.model_card import model_card
from pikavae.model import upsampling
from pikavae.model.fold import fold, unfold, with_padding
from pikavae.model.padding import pad_border
from pikavae.model.sizes import CONFIG_NAME, PADDING
from pikavae.model.snapshot import write_snapshot
from pikavae.model.tiling import Tiles, seams, tiled_decode, tiled_encode
from pikavae.operations.stages.keys import train_inputs
from pikavae.production.packages.consumer import pad_as_stated
from pikavae.training.state import starting_weights
from pikavae.weights.keymaps import export_ldm
from pikavae.weights.published import PADDING_KEY, read_published, read_snapshot
from tests.model.test_autoencoder import SMALL, with_random_weights
from tests.model.test_upsampling import results

PADDINGS = ("zeros", "reflect", "replicate", "circular")
OTHERS = PADDINGS[1:]
paddings = pytest.mark.parametrize("padding", OTHERS)


def padded(padding, config=SMALL):
    return with_padding(with_random_weights(config), padding)


def pictures(*size):
    return torch.rand(*size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def written(folder, model):
    folder.mkdir()
    write_snapshot(folder, model, image_size=16, config=Config(model=model.config).to_yaml())
    return folder


@torch.inference_mode()
def outputs(model, images):
    posterior = model.encode(images)
    return posterior.mean, posterior.logvar, model.decode(posterior.mode())


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (1, 3, 2, 2)], ids=str)
def test_a_padded_map_is_torchs(padding, size):
    x = pictures(*size)
    mode = "constant" if padding == "zeros" else padding
    assert torch.equal(pad_border(x, 1, 1, 1, 1, padding), F.pad(x, (1, 1, 1, 1), mode=mode))
    assert torch.equal(pad_border(x, 0, 1, 0, 1, padding), F.pad(x, (0, 1, 0, 1), mode=mode))


def test_one_row_is_repeated_where_nothing_can_be_mirrored():
    x = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    expected = torch.tensor([2.0, 1.0, 2.0, 3.0, 2.0]).expand(1, 1, 3, 5)
    assert torch.equal(pad_border(x, 1, 1, 1, 1, "reflect"), expected)
    assert torch.equal(pad_border(x.mT, 1, 1, 1, 1, "reflect"), expected.mT)
    assert padded("reflect")(pictures(1, 3, 4, 8), torch.zeros(1, 3, 1, 2))[0].isfinite().all()


@paddings
def test_the_cards_ten_lines_make_diffusers_pictures_equal(padding, tmp_path, monkeypatch):
    model = padded(padding)
    folder = written(tmp_path / "model", model)
    card = model_card(None, Config(model=model.config), name="a")
    assert f"**Its convolutions pad by `{padding}`.**" in card
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    loader = code.partition("latents = ")[0]
    assert len(loader.splitlines()) == 10
    images = pictures(2, 3, 16, 24)
    made = {"images": images}
    monkeypatch.chdir(tmp_path)
    with torch.inference_mode():
        exec(code.replace("path/to/this/folder", "model"), made)
    mean, _, expected = outputs(model, images)
    torch.testing.assert_close(made["latents"], mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made["reconstructions"], expected, rtol=1e-4, atol=1e-4)

    plain, told = (DiffusersAutoencoderKL.from_pretrained(folder).eval() for _ in range(2))
    pad_as_stated(told, json.loads((folder / CONFIG_NAME).read_text()))
    with torch.inference_mode():
        assert torch.equal(told.encode(images).latent_dist.mode(), made["latents"])
        assert not torch.allclose(plain.encode(images).latent_dist.mode(), mean, atol=1e-3)


def test_the_card_of_a_model_that_pads_by_zeros_has_no_warning():
    card = model_card(None, Config(), name="a")
    assert "pad" not in card.replace("path/", "")
    assert 'vae = AutoencoderKL.from_pretrained("path/to/this/folder").eval()\nlatents' in card


@pytest.mark.parametrize("folded", [True, False], ids=["one step", "two steps"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(2, 5, 4, 7), (1, 3, 1, 2)], ids=str)
@paddings
def test_upsampling_in_one_step_and_in_two_pads_alike(padding, size, layout, folded, monkeypatch):
    monkeypatch.setattr(upsampling, "FOLDED_ON", frozenset({"cpu"} if folded else ()))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator, dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randn(size[1], size[1], 3, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(size[1], generator=generator, dtype=torch.float64)

    def as_written(x, weight, bias):
        double = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return F.conv2d(F.pad(double, (1, 1, 1, 1), mode=padding), weight, bias) + double

    found = results(lambda *inputs: upsampling.upsample(*inputs, shortcut=True, padding=padding), x, weight, bias)
    for value, reference in zip(found, results(as_written, x, weight, bias), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-12, atol=1e-12)


@paddings
def test_shortcuts_are_folded_in_exactly(padding):
    model, images = padded(padding), pictures(1, 3, 16, 16)
    shortcuts = unfold(model)
    assert fold(shortcuts).config == model.config
    for value, expected in zip(outputs(shortcuts, images), outputs(model, images), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_what_a_circular_model_makes_of_a_shifted_picture_is_shifted():
    """Only then is there no seam: the place of the border decides nothing."""
    model, images = padded("circular"), pictures(1, 3, 32, 24)
    mean, _, made = outputs(model, images)
    shifted_mean, _, shifted = outputs(model, images.roll((8, -4), dims=(2, 3)))
    torch.testing.assert_close(shifted_mean, mean.roll((2, -1), dims=(2, 3)), rtol=0, atol=1e-4)
    torch.testing.assert_close(shifted, made.roll((8, -4), dims=(2, 3)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(64, 64), (16, 128)], ids=str)
def test_tiles_of_a_circular_model_have_no_seam_where_the_picture_ends(size):
    model, images, tiles = padded("circular"), pictures(1, 3, *size), Tiles(32, 16)

    @torch.inference_mode()
    def error(model):
        latents = model.encode(images).mode()
        made, whole = tiled_decode(model, latents, tiles), model.decode(latents)
        found = tiled_encode(model, images, tiles).mean - latents
        border = (made - whole).square()[..., [0, -1]].mean().sqrt() / whole.std()
        return border.item(), (found[..., [0, -1]].square().mean().sqrt() / latents.std()).item(), made.shape

    decoded, encoded, shape = error(model)
    assert shape == images.shape
    model.config = model.config.model_copy(update={"padding": "zeros"})  # tiles alone are told that nothing continues
    decoded_alone, encoded_alone, _ = error(model)
    assert decoded < 0.5 * decoded_alone
    assert encoded < 0.5 * encoded_alone


def test_seams_of_a_circular_model_are_where_its_tiles_meet():
    """Of 24 rows of cells, continued by 2 at both ends, tiles of 8 begin at -2, 3, 8, 13 and 18."""
    cells = {
        padding: {row // 4 for row in seams(96, 16, Tiles(32, 8), 4, padding)[:, 0].nonzero()[:, 0].tolist()}
        for padding in ("zeros", "circular")
    }
    assert cells["circular"] == {3, 4, 5, 8, 9, 10, 13, 14, 15, 18, 19, 20}
    assert cells["zeros"] == {5, 6, 7, 10, 11, 12, 16, 17}
    assert not seams(16, 16, Tiles(32, 8), 4, "circular").any()


@paddings
def test_folders_and_files_state_the_padding(padding, tmp_path):
    model = padded(padding)
    folder = written(tmp_path / "model", model)
    assert json.loads((folder / CONFIG_NAME).read_text())[PADDING] == padding
    assert read_snapshot(folder).config == model.config
    tensors = {name: value.contiguous() for name, value in export_ldm(model.state_dict()).items()}
    file = tmp_path / "a.safetensors"
    save_file(tensors, file, metadata={PADDING_KEY: padding})
    assert read_published(file, norm_groups=4).config == model.config


def test_a_padding_that_is_not_known_is_refused(tmp_path):
    folder = written(tmp_path / "model", padded("reflect"))
    sizes = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps(sizes | {PADDING: "mirror"}))
    expected = "config.json: padding_mode is 'mirror'; expected one of zeros, reflect, replicate, circular"
    with pytest.raises(UserError, match=expected):
        read_snapshot(folder)


def test_zeros_are_stated_nowhere_and_move_no_key(tmp_path):
    folder = written(tmp_path / "model", with_random_weights(SMALL))
    assert PADDING not in json.loads((folder / CONFIG_NAME).read_text())
    assert not {"model.padding", "training.grow_latents"} & train_inputs(Config(), "f").keys()
    other = Config(model=ModelConfig(padding="reflect"))
    assert train_inputs(other, "f")["model.padding"] == "reflect"


def test_a_training_pads_its_starting_weights_as_it_is_configured(tmp_path):
    folder = written(tmp_path / "model", with_random_weights(SMALL))
    sizes = SMALL.model_copy(update={"padding": "replicate", "resample_shortcuts": True})
    model = starting_weights(folder, Config(model=sizes))
    assert (model.config.padding, model.config.resample_shortcuts) == ("replicate", True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    for value, expected in zip(
        outputs(model.eval(), pictures(1, 3, 16, 16)),
        outputs(padded("replicate"), pictures(1, 3, 16, 16)),
        strict=True,
    ):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
