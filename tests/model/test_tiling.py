import math
import random

import pytest
import torch
import torch.nn.functional as F

from pikavae.config import ModelConfig
from pikavae.model import tiling
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.norm import GroupNorm
from pikavae.model.posterior import DiagonalGaussian
from pikavae.model.tiling import (
    TILES,
    FixedNorm,
    TileRow,
    Tiles,
    reconstruct_any_size,
    tile_grid,
    tiled_decode,
    tiled_encode,
    tiles_of,
    with_norms_over_all,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(count, side, generator):
    """Soft colours with hard edges on a light ground, of which parts show nothing: (count, 3, side, side)."""
    colours = F.interpolate(2 * torch.rand(count, 3, 5, 5, generator=generator) - 1, size=(side, side), mode="bicubic")
    shape = F.interpolate(torch.rand(count, 1, 4, 4, generator=generator), size=(side, side), mode="bicubic")
    return torch.where(shape > 0.55, colours, 0.9).clamp(-1, 1)


@pytest.fixture(scope="module")
def real(one_thread):
    """A small model that has learnt a little."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    settings = {"zero_init_residuals": True, "resample_shortcuts": True, "initial_logvar": -6.0}
    model = AutoencoderKL(ModelConfig(channels=(8, 8, 8), num_res_blocks=1, norm_groups=4, **settings))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        images = drawn(4, 32, generator)
        optimizer.zero_grad()
        F.mse_loss(model(images)[0], images).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def picture():
    return drawn(1, 96, torch.Generator().manual_seed(5))[:, :, :, :80]


class Seen:
    """Outlives the model's copies."""

    largest = 0

    def __deepcopy__(self, memo):
        return self


class Local(AutoencoderKL):
    """Every latent cell and its pixels depend on themselves alone, so that tiles cannot differ from the whole."""

    def __init__(self, levels=3):
        super().__init__(ModelConfig(channels=(4,) * levels, num_res_blocks=1, norm_groups=4))
        self.seen = Seen()

    def encode(self, images):
        self.check_images(images)
        self.seen.largest = max(self.seen.largest, images[:, 0].numel())
        mean = F.avg_pool2d(images, self.config.downsampling_factor)
        return DiagonalGaussian(mean, mean - 2)

    def decode(self, latents):
        images = F.interpolate(latents, scale_factor=float(self.config.downsampling_factor), mode="nearest")
        self.seen.largest = max(self.seen.largest, images[:, 0].numel())
        return images


class Numbered(AutoencoderKL):
    """Tells each tile's number in place of its content, in the order in which a pass has them."""

    def __init__(self, tiles):
        super().__init__(ModelConfig(channels=(4, 4), num_res_blocks=1, norm_groups=4))
        self.tiles, self.count = tiles, 0

    def next(self):
        self.count += 1
        return (self.count - 1) % self.tiles

    def encode(self, images):
        number = self.next()
        moments = torch.full((len(images), 4, images.shape[2] // 2, images.shape[3] // 2), float(number))
        return DiagonalGaussian(moments, 50 * moments - 30)

    def decode(self, latents):
        return torch.full((len(latents), 3, 2 * latents.shape[2], 2 * latents.shape[3]), float(self.next()))


def error(one, other):
    return (one - other).square().mean().sqrt().item()


@torch.inference_mode()
def untiled(model, images):
    return model.decode(model.encode(images).mode())


def test_weights_sum_to_one_and_tiles_overlap_as_asked_on_sides_of_any_length():
    draw = random.Random(0)
    for _ in range(200):
        length = draw.randint(1, 40)
        total, overlap = draw.randint(1, 300), draw.randint(0, length // 2)
        side = TileRow.cover(total, length, overlap)
        weights = side.weights()
        assert weights.shape == (len(side.starts), total)
        assert side.total == total
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(dim=0), torch.ones(total, dtype=torch.float64), rtol=0, atol=1e-14)
        assert len(side.starts) == 1 or all(part.stop - part.start == length for part in side.slices)
        for tile, after in zip(side.slices, side.slices[1:], strict=False):
            assert tile.stop - after.start >= overlap
        for weight, part in zip(weights, side.slices, strict=True):
            assert weight.count_nonzero() == weight[part].count_nonzero() > 0


def test_a_tile_counts_by_a_squared_sine_of_the_distance_from_its_border():
    side = TileRow.cover(14, 8, 2)  # two tiles, the second from 6 on
    rise = torch.tensor([math.sin(math.pi / 8) ** 2, math.sin(3 * math.pi / 8) ** 2], dtype=torch.float64)
    second = torch.cat([torch.zeros(6, dtype=torch.float64), rise, torch.ones(6, dtype=torch.float64)])
    torch.testing.assert_close(side.weights(), torch.stack([1 - second, second]))
    assert side.overlaps().tolist() == [False] * 6 + [True] * 2 + [False] * 6


def test_blended_tiles_are_the_weighted_mean():
    tiles, size = Tiles(16, 8), (30, 52)
    model, sides = Numbered(3 * 6), tile_grid(*size, tiles, 2)
    assert [len(side.starts) for side in sides] == [3, 6]
    numbers = torch.arange(18, dtype=torch.float64).view(3, 6)

    def expected(scale):
        weights = [side.scale(scale).weights() for side in sides]
        return torch.einsum("ab,ay,bx->yx", numbers, *weights).float()

    posterior = tiled_encode(model, torch.zeros(2, 3, *size), tiles)
    model.count = 0
    images = tiled_decode(model, torch.zeros(2, 4, 15, 26), tiles)
    for got, scale in ((posterior.mean, 1), (images, 2)):
        torch.testing.assert_close(got, expected(scale).expand_as(got), rtol=1e-6, atol=1e-5)
    assert posterior.logvar.min() >= -30
    torch.testing.assert_close(posterior.logvar, 50 * posterior.mean - 30, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("levels", "size"), [(1, (37, 33)), (2, (70, 38)), (3, (64, 100)), (4, (33, 121)), (3, (9, 300))]
)
def test_a_model_that_looks_at_one_cell_gives_exactly_the_untiled_picture(levels, size, layout):
    model = Local(levels)
    images = (2 * torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0)) - 1).to(memory_format=layout)
    factor = model.config.downsampling_factor
    padded = F.pad(images, (0, -size[1] % factor, 0, -size[0] % factor), mode="replicate")
    expected = untiled(model, padded)[:, :, : size[0], : size[1]]
    for tiles in (Tiles(16, 0), Tiles(24, 5), Tiles(32, 16)):
        assert len(tile_grid(padded.shape[2], padded.shape[3], tiles, factor)[1].starts) > 1
        assert torch.equal(reconstruct_any_size(model, images, tiles), expected)
    whole, tiled = model.encode(padded), tiled_encode(model, padded, Tiles(24, 8))
    assert torch.equal(tiled.logvar, whole.logvar)


def test_what_fits_into_a_tile_is_bit_for_bit_the_untiled(real, picture):
    images = torch.cat([picture, picture.flip(3)])
    for shown, tiles in ((images, Tiles(96, 24)), (images[:, :, :20], Tiles(40, 20))):
        with torch.inference_mode():
            whole, tiled = real.encode(shown), tiled_encode(real, shown, tiles)
            assert torch.equal(tiled.mean, whole.mean)
            assert torch.equal(tiled.logvar, whole.logvar)
            assert torch.equal(tiled_decode(real, whole.mean, tiles), real.decode(whole.mean))


def test_more_overlap_brings_tiles_nearer_to_the_untiled(real, picture):
    expected = untiled(real, picture)
    errors = [error(reconstruct_any_size(real, picture, Tiles(32, overlap)), expected) for overlap in (0, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.75 * errors[0]


def test_norms_over_all_tiles_bring_them_nearer_to_the_untiled(real, picture, monkeypatch):
    expected, tiles = untiled(real, picture), Tiles(32, 8)
    of_all = error(reconstruct_any_size(real, picture, tiles), expected)
    monkeypatch.setattr(tiling, "with_norms_over_all", lambda model, _: model)  # each tile by itself
    assert of_all < 0.75 * error(reconstruct_any_size(real, picture, tiles), expected)


def test_a_norm_over_parts_is_the_norm_of_them_together():
    generator = torch.Generator().manual_seed(0)
    norm = GroupNorm(2, 4, 1e-5)
    torch.nn.init.normal_(norm.weight, generator=generator)
    torch.nn.init.normal_(norm.bias, generator=generator)
    parts = [10 * number + torch.randn(2, 4, 6, 5, generator=generator) for number in range(3)]
    grouped = torch.stack(parts).unflatten(2, (2, 2)).flatten(3)  # (3, B, G, C/G * h * w)
    fixed = FixedNorm(norm, grouped.mean(dim=3), grouped.var(dim=3, correction=0))
    whole = norm(torch.cat(parts, dim=3))
    torch.testing.assert_close(torch.cat([fixed(part) for part in parts], dim=3), whole, rtol=1e-5, atol=1e-5)


def test_equal_tiles_have_the_norms_of_one(real):
    """Four times the same picture, in tiles without overlap: each tile's statistics are those of all."""
    part = 2 * torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    tiled = reconstruct_any_size(real, part.repeat(1, 1, 2, 2), Tiles(32, 0))
    torch.testing.assert_close(tiled, untiled(real, part).repeat(1, 1, 2, 2), rtol=1e-4, atol=1e-5)


def test_pictures_of_a_batch_do_not_touch_each_other(real, picture):
    images, tiles = torch.cat([picture, -picture, picture.flip(2)]), Tiles(32, 8)
    with torch.inference_mode():
        posterior = tiled_encode(real, images, tiles)
        together = tiled_decode(real, posterior.mode(), tiles)
    for number in range(3):
        alone = reconstruct_any_size(real, images[number : number + 1], tiles)
        torch.testing.assert_close(together[number : number + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_model_is_not_touched_and_its_weights_are_not_copied(real, picture):
    modules, before = list(real.named_modules()), untiled(real, picture)
    normed = with_norms_over_all(real, [lambda model: model.encode(picture)])
    assert list(real.named_modules()) == modules
    assert not any(module._forward_pre_hooks for module in real.modules())
    assert torch.equal(untiled(real, picture), before)
    own = {name: weight.data_ptr() for name, weight in real.state_dict().items()}
    kept = {name: weight.data_ptr() for name, weight in normed.state_dict().items()}
    assert kept.items() < own.items()
    assert {name.rpartition(".")[0] for name in own.keys() - kept.keys()} == {
        name for name, module in real.encoder.named_modules(prefix="encoder") if isinstance(module, torch.nn.GroupNorm)
    }


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (ModelConfig(), 1024),
        (ModelConfig(channels=(32,) * 3), 512),
        (ModelConfig(channels=(32,)), 128),
        (ModelConfig(channels=(32,) * 3, mid_attention=False), 1024),
        (ModelConfig(channels=(32,) * 6), 1024),
        (ModelConfig.model_validate({"like": "taesd"}), 1024),
    ],
)
def test_a_default_tile_shows_attention_no_more_cells_than_the_published_models_do(config, size):
    assert tiles_of(config) == Tiles(size, size // 4)


def test_by_default_a_picture_is_made_in_the_models_own_tiles():
    model, images = Local(2), torch.zeros(1, 3, 260, 256)
    made = reconstruct_any_size(model, images)
    assert made.shape == images.shape
    assert model.seen.largest == 256 * 256
    model.seen.largest = 0
    tiled_decode(model, tiled_encode(model, images).mode())
    assert model.seen.largest == 256 * 256


def test_twelve_megapixels_never_show_the_model_more_than_a_tile():
    model = Local(4)
    images = torch.linspace(-1, 1, 4096).expand(1, 3, 3070, 4096)
    torch.testing.assert_close(
        reconstruct_any_size(model, images)[0, 0, 0], F.avg_pool1d(images[0, 0, :1], 8).repeat_interleave(8)
    )
    assert model.seen.largest == TILES.size**2
    model.seen.largest = 0
    reconstruct_any_size(model, torch.zeros(9, 3, 30, 30), Tiles(64, 16))
    assert model.seen.largest == 4 * 32 * 32


def test_sides_that_the_factor_does_not_divide_are_refused_like_by_encode(real):
    with pytest.raises(ValueError, match=r"\(1, 3, 33, 64\).*multiples of 4"):
        tiled_encode(real, torch.zeros(1, 3, 33, 64), Tiles(16, 4))


def test_tiles_that_overlap_by_more_than_half_are_refused():
    with pytest.raises(ValueError, match="at most half"):
        Tiles(16, 9)
