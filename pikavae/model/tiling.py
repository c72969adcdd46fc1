"""Pictures of any size in bounded memory: encoded and decoded in overlapping tiles, which are blended into each other.

A tile by itself would be normalised by what it shows, an empty one as if it were full of contrast, and colours would
differ from tile to tile. So the tiles are computed twice: once to measure what each GroupNorm gets, and once with the
mean and deviation over all tiles in it. Attention stays each tile's own.

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

from .autoencoder import AutoencoderKL, DiagonalGaussian


@dataclass(frozen=True)
class Tiles:
    """How large tiles are, and how much of each its neighbour covers as well: pixels along a side of the picture.

    A picture of at most `size` x `size` pixels is one tile, whatever its shape. For a model, both numbers are rounded
    down to multiples of its downsampling factor.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.size:
            raise ValueError(f"tiles of {self.size} px that overlap by {self.overlap} px: at most half, and at least 0")


TILES = Tiles(size=1024, overlap=256)
"""Those that are used where nothing else is asked for."""


@dataclass(frozen=True)
class Side:
    """The tiles along one side of a picture or a latent: all of one length, at even distances.

    Attributes:
        starts: where each begins; the first at 0, the last so that it ends where the side does.
        length: of every tile.
        ramp: over how many numbers next to a neighbour a tile's weight rises.
    """

    starts: tuple[int, ...]
    length: int
    ramp: int

    @classmethod
    def cover(cls, total: int, length: int, overlap: int) -> Side:
        """As few tiles of this length as cover `total` and overlap by at least `overlap`, which is at most half."""
        if total <= length:
            return cls((0,), total, 0)
        count = math.ceil((total - overlap) / (length - overlap))
        return cls(tuple(i * (total - length) // (count - 1) for i in range(count)), length, overlap)

    def scaled(self, factor: int) -> Side:
        """The same on a grid that is `factor` times finer."""
        return Side(tuple(factor * start for start in self.starts), factor * self.length, factor * self.ramp)

    @property
    def total(self) -> int:
        """The length of the whole side."""
        return self.starts[-1] + self.length

    @property
    def slices(self) -> list[slice]:
        """Each tile's place."""
        return [slice(start, start + self.length) for start in self.starts]

    def weights(self) -> Tensor:
        """How much each tile counts at each place: (tiles, total) float64, which sum to 1 over the tiles.

        A tile's weight rises from the border that it has with a neighbour, where it knows least of what surrounds it,
        as a squared sine; at the picture's own border it does not.
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

    def shared(self) -> Tensor:
        """Where more than one tile counts: (total,) bool."""
        return (self.weights() > 0).sum(dim=0) > 1

    def _rise(self, distance: Tensor) -> Tensor:
        return (
            (0.5 * math.pi * (distance / self.ramp).clamp(max=1.0)).sin().square() if self.ramp else 1.0 + 0 * distance
        )

    def shares(self) -> list[Tensor]:
        """Of each tile at its places, the weight among itself and the tiles before it: (length,) float32 each.

        `lerp` from what the tiles before it have made to the tile, with this as its weight, ends with the weighted mean
        of all. So weights sum to one but for no rounding: what all tiles agree on comes out bit for bit.
        """
        weights = self.weights()
        sums = weights.cumsum(dim=0)
        return [
            (weight[part] / total[part]).float() for weight, total, part in zip(weights, sums, self.slices, strict=True)
        ]


def covering(height: int, width: int, tiles: Tiles, factor: int) -> tuple[Side, Side]:
    """The rows and the columns of tiles, in latent cells, of a picture whose sides are multiples of `factor`."""
    rows, columns = height // factor, width // factor
    if height * width <= tiles.size**2:
        return Side.cover(rows, rows, 0), Side.cover(columns, columns, 0)
    length, overlap = max(1, tiles.size // factor), tiles.overlap // factor
    return Side.cover(rows, length, overlap), Side.cover(columns, length, overlap)


def seams(height: int, width: int, tiles: Tiles, factor: int) -> Tensor:
    """Which pixels of a picture, whose sides are multiples of `factor`, more than one tile makes: (H, W) bool."""
    rows, columns = (side.scaled(factor).shared() for side in covering(height, width, tiles, factor))
    return rows[:, None] | columns


def tiled_encode(model: AutoencoderKL, images: Tensor, tiles: Tiles = TILES) -> DiagonalGaussian:
    """The posterior of `images` (B, 3, H, W) in [-1, 1] that are encoded tile by tile.

    Its mean and its log-variance are each the weighted mean of the tiles'; so a deviation is the weighted geometric
    mean of theirs, and it stays a normal distribution. One tile gives what `encode` gives.

    The model sees a tile of all pictures at a time, on its own device; the pictures and the posterior stay on theirs.

    Raises:
        ValueError: as `encode`.
    """
    model.check_images(images)
    factor = model.config.downsampling_factor
    sides = covering(images.shape[2], images.shape[3], tiles, factor)

    def moments(model: AutoencoderKL, part: Tensor) -> Tensor:
        posterior = model.encode(part)
        return torch.cat([posterior.mean, posterior.logvar], dim=1)  # (B, 2Z, h, w)

    return DiagonalGaussian(*_blended(model, moments, images, sides, given=factor, made=1).chunk(2, dim=1))


def tiled_decode(model: AutoencoderKL, latents: Tensor, tiles: Tiles = TILES) -> Tensor:
    """Pictures (B, 3, H, W), about [-1, 1] but not clamped, of `latents` (B, Z, H/f, W/f) that are decoded by tiles.

    One tile gives what `decode` gives. The rest is as in `tiled_encode`.
    """
    factor = model.config.downsampling_factor
    sides = covering(factor * latents.shape[2], factor * latents.shape[3], tiles, factor)
    return _blended(model, lambda model, part: model.decode(part), latents, sides, given=1, made=factor)


def padded(images: Tensor, factor: int) -> Tensor:
    """Pictures (B, 3, H, W) with their last row and column repeated, to sides that `factor` divides."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % factor, 0, -height % factor), mode="replicate")


@torch.inference_mode()
def reconstruct_any_size(model: AutoencoderKL, images: Tensor, tiles: Tiles = TILES) -> Tensor:
    """Reconstructions, from the posterior's mode, of pictures (B, 3, H, W) of any height and width: same shape.

    Sides that the downsampling factor does not divide are padded with their last row or column, and cut back. As many
    pictures as have the pixels of a tile go through at once, and larger ones in tiles: beside them and their
    reconstructions, memory is that of a tile.
    """
    height, width = images.shape[2:]
    whole_cells = padded(images, model.config.downsampling_factor)
    count = max(1, tiles.size**2 // (whole_cells.shape[2] * whole_cells.shape[3]))
    wholes = [
        tiled_decode(model, tiled_encode(model, batch, tiles).mode(), tiles)
        for batch in torch.split(whole_cells, count)
    ]
    return torch.cat(wholes)[:, :, :height, :width]


def _blended(
    model: AutoencoderKL,
    compute: Callable[[AutoencoderKL, Tensor], Tensor],
    whole: Tensor,
    sides: tuple[Side, Side],
    *,
    given: int,
    made: int,
) -> Tensor:
    """What a model makes of `whole` (B, C, h, w), tile by tile: (B, C', h', w') float32, on the device of `whole`.

    Args:
        model: it is not changed, not even for the time.
        compute: from a model and a tile to what is made of it.
        whole: pictures or latents.
        sides: the rows and the columns of tiles, in latent cells.
        given: how many numbers of `whole` are beside each other in a cell.
        made: the same for the result.
    """
    device = next(model.parameters()).device

    def computed(model: AutoencoderKL, part: Tensor) -> Tensor:
        return compute(model, part.to(device)).to(whole.device, torch.float32)

    rows, columns = sides
    if len(rows.starts) == len(columns.starts) == 1:
        return computed(model, whole)
    parts = [[whole[:, :, row, column] for column in columns.scaled(given).slices] for row in rows.scaled(given).slices]
    normed = with_norms_over_all(model, (partial(computed, part=part) for row in parts for part in row))
    strips = (_joined((computed(normed, part) for part in row), columns.scaled(made), dim=3) for row in parts)
    return _joined(strips, rows.scaled(made), dim=2)


def _joined(parts: Iterable[Tensor], side: Side, dim: int) -> Tensor:
    """Parts (B, C, h, w), one after another, blended along a dimension into one of `side.total`."""
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
    """A GroupNorm with a given mean and deviation of its groups.

    Args:
        norm: whose groups, weights and epsilon it has.
        means: (tiles, B, G), of each group in parts of one size, over which it normalises as over one.
        variances: (tiles, B, G), of the same.
    """

    def __init__(self, norm: nn.GroupNorm, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        mean, variance = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, correction=0)
        each = norm.num_channels // norm.num_groups
        scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(each, dim=1)  # (B, C)
        shift = norm.bias - mean.repeat_interleave(each, dim=1) * scale
        self.scale, self.shift = scale[:, :, None, None], shift[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """`x` (B, C, h, w) of any size, normalised."""
        return x * self.scale + self.shift


def with_norms_over_all(model: AutoencoderKL, passes: Iterable[Callable[[AutoencoderKL], object]]) -> AutoencoderKL:
    """A model of the same weights in which a GroupNorm has the mean and deviation over all that `passes` bring to it.

    Each pass uses the model that it is given, on a part of one size. The weights are shared with `model`, which
    another thread may use meanwhile.
    """
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    normed = deepcopy(model, shared)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def measure(name: str, norm: nn.GroupNorm, inputs: tuple[Tensor]) -> None:
        grouped = inputs[0].float().reshape(len(inputs[0]), norm.num_groups, -1)
        seen.setdefault(name, []).append((grouped.mean(dim=2), grouped.var(dim=2, correction=0)))

    norms = {name: module for name, module in normed.named_modules() if isinstance(module, nn.GroupNorm)}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(partial(measure, name))
    for one in passes:
        one(normed)
    for name, statistics in seen.items():
        normed.set_submodule(name, FixedNorm(norms[name], *map(torch.stack, zip(*statistics, strict=True))))
    return normed
