"""Encode and decode pictures of any size in bounded memory, in overlapping tiles that are blended into each other.

Normalised alone, an empty tile would look full of contrast, and colours would differ from tile to tile. So the tiles
are computed twice: once to measure the input of each GroupNorm, and once with each GroupNorm's mean and deviation over
all tiles. Attention sees only its own tile.

If the model pads by the other side (`circular`), the whole is first continued there by the overlap, and cut back, so
that what is made has no seam at the border either.

Letters in shape comments are those of `autoencoder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from .autoencoder import AutoencoderKL
from .norm import GroupNorm
from .padding import Padding
from .posterior import DiagonalGaussian


@dataclass(frozen=True)
class Tiles:
    """Holds the size of tiles and the overlap of neighbours, in pixels along a side of the picture.

    A picture with at most as many pixels as `size` x `size` is one tile, whatever its shape. For a model, both numbers
    are rounded down to multiples of its downsampling factor.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.size:
            raise ValueError(f"tiles of {self.size} px that overlap by {self.overlap} px: at most half, and at least 0")


TILES = Tiles(size=1024, overlap=256)
"""The default tiles of a model without attention; a model with attention has no larger ones."""
MOST_CELLS = 128
"""The most latent cells along a side of a default tile, for a model with attention.

The cost of attention grows with the square of the number of cells."""


def tiles_of(config: ModelConfig) -> Tiles:
    """Return the default tiles of a model, whose overlap is a quarter of their size."""
    size = min(TILES.size, MOST_CELLS * config.downsampling_factor) if config.mid_attention else TILES.size
    return Tiles(size, size // 4)


@dataclass(frozen=True)
class TileRow:
    """Places tiles along one side of a picture or a latent: all of one length, at even distances.

    Attributes:
        starts: the position of each tile; the first is 0, and the last tile ends at the side's end.
        length: the length of every tile.
        ramp: the number of positions next to a neighbour over which a tile's weight rises.
    """

    starts: tuple[int, ...]
    length: int
    ramp: int

    @classmethod
    def cover(cls, total: int, length: int, overlap: int) -> TileRow:
        """Return the fewest tiles of this length that cover `total` with at least `overlap`, at most half a tile."""
        if total <= length:
            return cls((0,), total, 0)
        count = math.ceil((total - overlap) / (length - overlap))
        return cls(tuple(i * (total - length) // (count - 1) for i in range(count)), length, overlap)

    def scale(self, factor: int) -> TileRow:
        """Return the same tiles on a grid that is `factor` times finer."""
        return TileRow(tuple(factor * start for start in self.starts), factor * self.length, factor * self.ramp)

    @property
    def total(self) -> int:
        """Return the length of the whole side."""
        return self.starts[-1] + self.length

    @property
    def slices(self) -> list[slice]:
        """Return each tile's place."""
        return [slice(start, start + self.length) for start in self.starts]

    def weights(self) -> Tensor:
        """Return the weight of each tile at each place: (tiles, total) float64, which sum to 1 over the tiles.

        A tile's weight rises as a squared sine from a border with a neighbour, where the tile sees least of its
        surroundings. At the picture's own border it does not fall.
        """
        windows = torch.zeros(len(self.starts), self.total, dtype=torch.float64)
        for window, part in zip(windows, self.slices, strict=True):
            inside = torch.arange(self.length, dtype=torch.float64) + 0.5  # from the tile's first border to the centre
            window[part] = 1.0
            if part.start > 0:
                window[part] *= self._rise(inside)
            if part.stop < self.total:
                window[part] *= self._rise(self.length - inside)
        return windows / windows.sum(dim=0)

    def overlaps(self) -> Tensor:
        """Return the places where more than one tile has weight: (total,) bool."""
        return (self.weights() > 0).sum(dim=0) > 1

    def _rise(self, distance: Tensor) -> Tensor:
        return (
            (0.5 * math.pi * (distance / self.ramp).clamp(max=1.0)).sin().square() if self.ramp else 1.0 + 0 * distance
        )

    def shares(self) -> list[Tensor]:
        """Return each tile's weight relative to itself and the tiles before it: (length,) float32 each.

        `lerp` from the result of the earlier tiles to this tile, with this weight, gives in the end the weighted mean
        of all. This way rounding cannot make the sum of weights differ from one: values that are equal in all tiles
        remain unchanged bit for bit.
        """
        weights = self.weights()
        sums = weights.cumsum(dim=0)
        return [
            (weight[part] / total[part]).float() for weight, total, part in zip(weights, sums, self.slices, strict=True)
        ]


def tile_grid(height: int, width: int, tiles: Tiles, factor: int) -> tuple[TileRow, TileRow]:
    """Return the rows and columns of tiles, in latent cells, of a picture whose sides are multiples of `factor`."""
    rows, columns = height // factor, width // factor
    if height * width <= tiles.size**2:
        return TileRow.cover(rows, rows, 0), TileRow.cover(columns, columns, 0)
    length, overlap = max(1, tiles.size // factor), tiles.overlap // factor
    return TileRow.cover(rows, length, overlap), TileRow.cover(columns, length, overlap)


def seams(height: int, width: int, tiles: Tiles, factor: int, padding: Padding = "zeros") -> Tensor:
    """Mark the pixels that more than one tile makes: (H, W) bool, for sides that are multiples of `factor`."""
    marks = []
    for side in tile_grid(height, width, tiles, factor):
        around = _continued(side, tiles.overlap // factor, padding)
        before = factor * (around.total - side.total) // 2
        marks.append(around.scale(factor).overlaps()[before : before + factor * side.total])
    rows, columns = marks
    return rows[:, None] | columns


def _continued(side: TileRow, overlap: int, padding: Padding) -> TileRow:
    """Return the tiles of a side; several of a `circular` model, of the side continued by an overlap at both ends."""
    if padding != "circular" or len(side.starts) == 1:
        return side
    return TileRow.cover(side.total + 2 * overlap, side.length, overlap)


def tiled_encode(model: AutoencoderKL, images: Tensor, tiles: Tiles | None = None) -> DiagonalGaussian:
    """Return the posterior of `images` (B, P, H, W) in [-1, 1], encoded tile by tile.

    Its mean and its log-variance are each the weighted mean of the tiles'. So a deviation is the weighted geometric
    mean of theirs, and the posterior remains a normal distribution. One tile gives what `encode` gives.

    The model gets one tile of all pictures at a time, on its own device; pictures and posterior remain on theirs.

    Raises:
        ValueError: as `encode`.
    """
    model.check_images(images)
    factor = model.config.downsampling_factor

    def moments(model: AutoencoderKL, part: Tensor) -> Tensor:
        posterior = model.encode(part)
        return torch.cat([posterior.mean, posterior.logvar], dim=1)  # (B, 2Z, h, w)

    return DiagonalGaussian(*_blend(model, moments, images, tiles, given=factor, made=1).chunk(2, dim=1))


def tiled_decode(model: AutoencoderKL, latents: Tensor, tiles: Tiles | None = None) -> Tensor:
    """Return pictures (B, P, H, W), about [-1, 1] but not clamped, of `latents` (B, Z, H/f, W/f), decoded by tiles.

    One tile gives what `decode` gives. The rest is as in `tiled_encode`.
    """
    factor = model.config.downsampling_factor
    return _blend(model, lambda model, part: model.decode(part), latents, tiles, given=1, made=factor)


def pad(images: Tensor, factor: int) -> Tensor:
    """Pad pictures (B, P, H, W) by repeating their last row and column, to sides that `factor` divides."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")


@torch.inference_mode()
def reconstruct_any_size(model: AutoencoderKL, images: Tensor, tiles: Tiles | None = None) -> Tensor:
    """Reconstruct pictures (B, P, H, W) of any height and width from the posterior's mode: same shape.

    Sides that the downsampling factor does not divide are padded with their last row or column, and cut back. Small
    pictures are computed together, up to the pixels of one tile; larger ones in tiles. Besides the pictures and their
    reconstructions, this needs the memory of one tile, by default of those of `tiles_of`.
    """
    tiles = tiles or tiles_of(model.config)
    height, width = images.shape[2:]
    whole_cells = pad(images, model.config.downsampling_factor)
    count = max(1, tiles.size**2 // (whole_cells.shape[2] * whole_cells.shape[3]))
    wholes = [
        tiled_decode(model, tiled_encode(model, batch, tiles).mode(), tiles)
        for batch in torch.split(whole_cells, count)
    ]
    return torch.cat(wholes)[:, :, :height, :width]


def _blend(
    model: AutoencoderKL,
    compute: Callable[[AutoencoderKL, Tensor], Tensor],
    whole: Tensor,
    tiles: Tiles | None,
    *,
    given: int,
    made: int,
) -> Tensor:
    """Compute `whole` (B, C, h, w) tile by tile, and blend to (B, C', h', w') float32 on the device of `whole`.

    Args:
        model: it is not changed, not even temporarily.
        compute: turns a tile into its result, with a model.
        whole: pictures or latents.
        tiles: their size and overlap; by default those of `tiles_of`.
        given: the side of a latent cell in `whole`, in numbers.
        made: the side of a latent cell in the result, in numbers.
    """
    device = next(model.parameters()).device
    tiles = tiles or tiles_of(model.config)

    def computed(model: AutoencoderKL, part: Tensor) -> Tensor:
        return compute(model, part.to(device)).to(whole.device, torch.float32)

    factor = model.config.downsampling_factor
    height, width = (side // given for side in whole.shape[2:])  # in latent cells
    sides = tile_grid(factor * height, factor * width, tiles, factor)
    if all(len(side.starts) == 1 for side in sides):
        return computed(model, whole)
    rows, columns = (_continued(side, tiles.overlap // factor, model.config.padding) for side in sides)
    beyond = [(after.total - side.total) // 2 for after, side in zip((rows, columns), sides, strict=True)]
    if any(beyond):
        whole = continue_around(whole, *(given * cells for cells in beyond))
    parts = [[whole[:, :, row, column] for column in columns.scale(given).slices] for row in rows.scale(given).slices]
    normed = with_norms_over_all(model, (partial(computed, part=part) for row in parts for part in row))
    strips = (_join((computed(normed, part) for part in row), columns.scale(made), dim=3) for row in parts)
    blended = _join(strips, rows.scale(made), dim=2)
    top, left = (made * cells for cells in beyond)
    return blended[:, :, top : top + made * height, left : left + made * width]


def continue_around(x: Tensor, rows: int, columns: int) -> Tensor:
    """Return `x` (B, C, h, w) with rows and columns of its other side added at each side, at most as many as it has."""
    return F.pad(x, (columns, columns, rows, rows), mode="circular")


def _join(parts: Iterable[Tensor], side: TileRow, dim: int) -> Tensor:
    """Blend parts (B, C, h, w), given in order, along a dimension into a whole of length `side.total`."""
    coming = iter(parts)
    first = next(coming)
    if len(side.starts) == 1:
        return first
    whole = first.new_zeros([side.total if i == dim else size for i, size in enumerate(first.shape)])
    across = [-1 if i == dim else 1 for i in range(first.ndim)]
    for part, place, share in zip(chain([first], coming), side.slices, side.shares(), strict=True):
        whole.narrow(dim, place.start, side.length).lerp_(part, share.to(part.device).view(across))
    return whole


class FixedNorm(nn.Module):
    """Normalises like a GroupNorm, but with a given mean and deviation of its groups.

    Args:
        norm: the GroupNorm whose groups, weights, epsilon and activation it has.
        means: (tiles, B, G), of each group in parts of one size; it normalises by the mean over all parts together.
        variances: (tiles, B, G), of the same groups.
    """

    def __init__(self, norm: GroupNorm, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        mean, variance = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
        each = norm.num_channels // norm.num_groups
        scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(each, dim=1)  # (B, C)
        shift = norm.bias - mean.repeat_interleave(each, dim=1) * scale
        self.scale, self.shift, self.activate = scale[:, :, None, None], shift[:, :, None, None], norm.activate

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (B, C, h, w) of any size."""
        normal = x * self.scale + self.shift
        return F.silu(normal) if self.activate else normal


def with_norms_over_all(model: AutoencoderKL, passes: Iterable[Callable[[AutoencoderKL], object]]) -> AutoencoderKL:
    """Return a model with the same weights whose GroupNorms use mean and deviation over their inputs in all `passes`.

    A model without such norms is returned as it is, without a pass.

    Each pass runs the given model on a part; all parts have one size. The weights are shared with `model`, which
    another thread may use at the same time.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    normed = deepcopy(model, shared)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def measure(name: str, norm: GroupNorm, inputs: tuple[Tensor]) -> None:
        grouped = inputs[0].float().reshape(len(inputs[0]), norm.num_groups, -1)
        seen.setdefault(name, []).append((grouped.mean(dim=2), grouped.var(dim=2, correction=0)))

    norms = {name: module for name, module in normed.named_modules() if isinstance(module, GroupNorm)}
    if not norms:
        return model
    for name, norm in norms.items():
        norm.register_forward_pre_hook(partial(measure, name))
    for one in passes:
        one(normed)
    for name, statistics in seen.items():
        normed.set_submodule(name, FixedNorm(norms[name], *map(torch.stack, zip(*statistics, strict=True))))
    return normed
