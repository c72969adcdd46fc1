"""GroupNorm with SiLU and its gradients as Triton kernels, for maps with the channels innermost.

A map (B, C, h, w) is read as rows of C channels, one row a position. Three kernels make each direction:

| kernel | reads | writes | of each element of the map |
| --- | --- | --- | --- |
| `_measure_parts` | x | - | mean and squared deviation of every channel over a part of the positions |
| `_join_moments` | the parts | - | mean and reciprocal deviation of every group |
| `_normalise` | x | y | y |
| **forward** | **2** | **1** | |
| `_sum_parts` | x, dy | - | of every channel over a part: the sums of dy * x^ and of dy |
| `_join_sums` | the parts | - | of every picture: these sums for each channel, and weighted for each group |
| `_backpropagate` | x, dy | dx | dx |
| **backward** | **4** | **1** | |

x^ is the normalised x, dy the gradient that reaches the norm, after the activation's own factor, which is computed
again. The parts are 8 bytes for each channel and at least 64 positions: 6 % of a read in bf16, less for large maps.

For comparison, torch's functions under autocast, counted in accesses of 2 bytes, forward: a cast (1 + 2), statistics
(2), the norm (2 + 2), SiLU (2 + 2), a cast (2 + 1): 16, and 4 more to change the layout, where this makes 3.
Adding the residual inside, with the sum written by `_measure_parts` and its gradient added by `_backpropagate`, would
save 1 of 6 accesses forward and 2 of 8 backward. It is left out, because blocks would no longer be additions.

**Sums have one order.** The number of parts follows from the number of positions and channels alone. Each part is
summed by one program, and the parts by another in their order; there are no atomics. So two runs give equal bits, and a
picture gets equal bits whatever batch it is in.

**Variances do not cancel.** Each lane updates mean and squared deviation by Welford's rule, and they are joined by
Chan's (Chan, Golub and LeVeque 1983) relative to the first part's mean. No difference of two large sums is formed.

**Block sizes** were chosen by measurement on an H200, on maps of a training at 256 px with 16 pictures in bf16. Reading
and writing maps of 128, 256 and 512 channels, the kernels reach these TB/s, where a copy reaches 4.3:

| kernel | 128 | 256 | 512 |
| --- | --- | --- | --- |
| `_measure_parts` | 2.1 | 1.6 | 1.4 |
| `_normalise` | 3.8 | 3.7 | 3.7 |
| `_sum_parts` | 2.7 | 2.2 | 1.9 |
| `_backpropagate` | 3.6 | 3.6 | 3.5 |

Import this file only if Triton is installed; `norm` does so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE, BACKWARD_TILE = 4096, 2048
"""The numbers of a map that a program of `_normalise` or `_backpropagate` holds at once."""
MAX_RUN = 128
"""The channels of a row that such a program reads."""
JOIN_TILE = 4096
"""The sums of parts that a program which joins them holds at once."""
MIN_ROWS, MAX_PARTS = 64, 256
"""A part has at least this many positions, unless the map has fewer; and a picture at most this many parts."""
OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}
"""What the compiler is told, so that bits do not depend on the defaults of Triton's version."""


class _Loop(NamedTuple):
    """Sizes of a program that goes through a part.

    Attributes:
        tile: the numbers of a map that it holds at once, beside as many sums.
        run: the channels of a row that it reads.
        warps: that share the tile.
    """

    tile: int
    run: int
    warps: int


NARROW, WIDE = _Loop(2048, 128, 4), _Loop(1024, 256, 8)
"""For maps of fewer than 256 channels, and of more."""


@triton.jit
def _sigmoid(x):
    decayed = tl.exp(-tl.abs(x))  # at most 1, so that nothing overflows
    return tl.where(x >= 0, 1.0, decayed) / (1.0 + decayed)


@triton.jit
def _measure_parts(x, parts, positions, channels, rows, ROWS: tl.constexpr, RUN: tl.constexpr):
    """Write (picture, part, 2, channel): mean and summed squared deviation over the part's positions."""
    picture, part = tl.program_id(2).to(tl.int64), tl.program_id(0)
    channel = tl.program_id(1) * RUN + tl.arange(0, RUN)
    first = part * rows
    last = tl.minimum(first + rows, positions)
    x += picture * positions * channels
    lane = tl.arange(0, ROWS)
    mean = tl.full([ROWS, RUN], 0.0, tl.float32)
    deviation = tl.full([ROWS, RUN], 0.0, tl.float32)
    count = 0.0
    for start in range(first, last, ROWS):
        row = start + lane
        inside = (row < last)[:, None] & (channel < channels)[None, :]
        value = tl.load(x + row[:, None].to(tl.int64) * channels + channel[None, :], mask=inside, other=0.0)
        count += 1.0
        delta = value.to(tl.float32) - mean
        moved = mean + delta * (1.0 / count)
        deviation = tl.where(inside, deviation + delta * (value.to(tl.float32) - moved), deviation)
        mean = tl.where(inside, moved, mean)
    # A lane saw every tile, except the lanes beyond the end of the last one
    seen = tl.where(lane < last - first, (last - first - lane + ROWS - 1) // ROWS, 0).to(tl.float32)[:, None]
    total = (last - first).to(tl.float32)
    shift = tl.sum(tl.where(lane[:, None] == 0, mean, 0.0), axis=0)
    joined = shift + tl.sum(seen * (mean - shift[None, :]), axis=0) / total
    apart = mean - joined[None, :]
    squared = tl.sum(deviation + seen * apart * apart, axis=0)
    parts += (picture * tl.num_programs(0) + part) * 2 * channels
    tl.store(parts + channel, joined, mask=channel < channels)
    tl.store(parts + channels + channel, squared, mask=channel < channels)


@triton.jit
def _join_moments(
    parts,
    means,
    scales,
    positions,
    channels,
    rows,
    count,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Write (picture, group): the mean and the reciprocal deviation of WIDTH channels over all parts."""
    group, groups, picture = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, LANES)
    parts += picture * count * 2 * channels + group * WIDTH
    shift = tl.load(parts)
    moved = tl.full([ROWS, LANES], 0.0, tl.float32)
    for start in range(0, count, ROWS):
        part = start + tl.arange(0, ROWS)
        inside = (part < count)[:, None] & (column < WIDTH)[None, :]
        mean = tl.load(parts + part[:, None] * 2 * channels + column[None, :], mask=inside, other=shift)
        size = tl.minimum(positions - part * rows, rows).to(tl.float32)
        moved += size[:, None] * (mean - shift)
    numbers = 1.0 * positions * WIDTH
    joined = shift + tl.sum(tl.sum(moved, axis=1), axis=0) / numbers
    squared = tl.full([ROWS, LANES], 0.0, tl.float32)
    for start in range(0, count, ROWS):
        part = start + tl.arange(0, ROWS)
        inside = (part < count)[:, None] & (column < WIDTH)[None, :]
        place = parts + part[:, None] * 2 * channels + column[None, :]
        apart = tl.load(place, mask=inside, other=joined) - joined
        size = tl.minimum(positions - part * rows, rows).to(tl.float32)
        squared += tl.load(place + channels, mask=inside, other=0.0) + size[:, None] * apart * apart
    variance = tl.sum(tl.sum(squared, axis=1), axis=0) / numbers
    tl.store(means + picture * groups + group, joined)
    tl.store(scales + picture * groups + group, tl.div_rn(1.0, tl.sqrt_rn(variance + eps)))


@triton.jit
def _normalise(
    x, y, means, scales, weight, bias, positions, channels, groups,
    ACTIVATE: tl.constexpr, ROWS: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Write y."""
    picture = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * RUN + tl.arange(0, RUN)
    known = channel < channels
    group = picture * groups + channel // (channels // groups)
    mean = tl.load(means + group, mask=known, other=0.0)
    factor = tl.load(scales + group, mask=known, other=0.0) * tl.load(weight + channel, mask=known, other=0.0).to(
        tl.float32
    )
    offset = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    inside = (row < positions)[:, None] & known[None, :]
    place = picture * positions * channels + row[:, None].to(tl.int64) * channels + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    out = (value - mean[None, :]) * factor[None, :] + offset[None, :]
    if ACTIVATE:
        out = out * _sigmoid(out)
    tl.store(y + place, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _sum_parts(
    x, gradient, parts, means, scales, weight, bias, positions, channels, groups, rows,
    ACTIVATE: tl.constexpr, ROWS: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Write (picture, part, 2, channel): the sums of dy * x^ and of dy over the part's positions."""
    picture, part = tl.program_id(2).to(tl.int64), tl.program_id(0)
    channel = tl.program_id(1) * RUN + tl.arange(0, RUN)
    known = channel < channels
    group = picture * groups + channel // (channels // groups)
    mean = tl.load(means + group, mask=known, other=0.0)
    scale = tl.load(scales + group, mask=known, other=0.0)
    factor = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    first = part * rows
    last = tl.minimum(first + rows, positions)
    with_x = tl.full([ROWS, RUN], 0.0, tl.float32)
    alone = tl.full([ROWS, RUN], 0.0, tl.float32)
    for start in range(first, last, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = (row < last)[:, None] & known[None, :]
        place = picture * positions * channels + row[:, None].to(tl.int64) * channels + channel[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        given = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
        normal = (value - mean[None, :]) * scale[None, :]
        if ACTIVATE:
            out = normal * factor[None, :] + offset[None, :]
            share = _sigmoid(out)
            given *= share * (1.0 + out * (1.0 - share))
        with_x += given * normal
        alone += given
    parts += (picture * tl.num_programs(0) + part) * 2 * channels
    tl.store(parts + channel, tl.sum(with_x, axis=0), mask=known)
    tl.store(parts + channels + channel, tl.sum(alone, axis=0), mask=known)


@triton.jit
def _join_sums(
    parts, weight, by_channel, by_group, channels, count, WIDTH: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr
):
    """Write (picture, 2, channel), the sums over all parts; and (picture, 2, group), weighted and summed over WIDTH."""
    group, groups, picture = tl.program_id(0), tl.num_programs(0), tl.program_id(1).to(tl.int64)
    column = tl.arange(0, LANES)
    known = column < WIDTH
    parts += picture * count * 2 * channels + group * WIDTH
    with_x = tl.full([ROWS, LANES], 0.0, tl.float32)
    alone = tl.full([ROWS, LANES], 0.0, tl.float32)
    for start in range(0, count, ROWS):
        part = start + tl.arange(0, ROWS)
        inside = (part < count)[:, None] & known[None, :]
        place = parts + part[:, None] * 2 * channels + column[None, :]
        with_x += tl.load(place, mask=inside, other=0.0)
        alone += tl.load(place + channels, mask=inside, other=0.0)
    sum_with_x, sum_alone = tl.sum(with_x, axis=0), tl.sum(alone, axis=0)
    place = by_channel + picture * 2 * channels + group * WIDTH + column
    tl.store(place, sum_with_x, mask=known)
    tl.store(place + channels, sum_alone, mask=known)
    factor = tl.load(weight + group * WIDTH + column, mask=known, other=0.0).to(tl.float32)
    place = by_group + picture * 2 * groups + group
    tl.store(place, tl.sum(sum_with_x * factor, axis=0))
    tl.store(place + groups, tl.sum(sum_alone * factor, axis=0))


@triton.jit
def _backpropagate(
    x, gradient, dx, means, scales, by_group, weight, bias, positions, channels, groups,
    ACTIVATE: tl.constexpr, ROWS: tl.constexpr, RUN: tl.constexpr,
):  # fmt: skip
    """Write dx."""
    picture = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * RUN + tl.arange(0, RUN)
    known = channel < channels
    width = channels // groups
    group = channel // width
    mean = tl.load(means + picture * groups + group, mask=known, other=0.0)
    scale = tl.load(scales + picture * groups + group, mask=known, other=0.0)
    factor = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)
    numbers = 1.0 * positions * width
    with_x = tl.load(by_group + picture * 2 * groups + group, mask=known, other=0.0) / numbers
    alone = tl.load(by_group + picture * 2 * groups + groups + group, mask=known, other=0.0) / numbers
    inside = (row < positions)[:, None] & known[None, :]
    place = picture * positions * channels + row[:, None].to(tl.int64) * channels + channel[None, :]
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    given = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    normal = (value - mean[None, :]) * scale[None, :]
    if ACTIVATE:
        out = normal * factor[None, :] + offset[None, :]
        share = _sigmoid(out)
        given *= share * (1.0 + out * (1.0 - share))
    out = (given * factor[None, :] - alone[None, :] - normal * with_x[None, :]) * scale[None, :]
    tl.store(dx + place, out.to(dx.dtype.element_ty), mask=inside)


class _Grid:
    """Divides a map's positions and channels among programs; it follows from their numbers alone."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.pictures, self.channels = x.shape[:2]
        self.positions = x.shape[2] * x.shape[3]
        self.run = min(MAX_RUN, triton.next_power_of_2(self.channels))
        self.tile_rows, self.backward_rows = TILE // self.run, BACKWARD_TILE // self.run
        loop = WIDE if self.channels >= WIDE.run else NARROW
        self.loop_run = min(loop.run, triton.next_power_of_2(self.channels))
        self.loop_rows = loop.tile // self.loop_run
        self.loop_options = {**OPTIONS, "num_warps": loop.warps}
        rows = max(MIN_ROWS, triton.cdiv(self.positions, MAX_PARTS))
        self.rows = triton.cdiv(rows, self.loop_rows) * self.loop_rows  # positions of a part
        self.parts = triton.cdiv(self.positions, self.rows)
        self.runs = triton.cdiv(self.channels, self.run)
        self.width = self.channels // groups
        self.lanes = triton.next_power_of_2(self.width)
        self.join_rows = min(triton.next_power_of_2(self.parts), max(1, JOIN_TILE // self.lanes))
        self.loops = (self.parts, triton.cdiv(self.channels, self.loop_run), self.pictures)
        self.tiles = (triton.cdiv(self.positions, self.tile_rows), self.runs, self.pictures)
        self.backward_tiles = (triton.cdiv(self.positions, self.backward_rows), self.runs, self.pictures)


def nbytes_of_parts(x: Tensor) -> int:
    """Return the bytes of the sums of parts that the kernels write for a map (B, C, h, w) in either direction."""
    grid = _Grid(x, groups=1)
    return int(grid.pictures * grid.parts * 2 * grid.channels * torch.float32.itemsize)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, activate: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y like `x`, and the groups' means and reciprocal deviations (B, G) float32.

    Args:
        x: (B, C, h, w), dense with the channels innermost; not empty.
        weight: (C,).
        bias: (C,).
        groups: divides C.
        eps: is added to the variance.
        activate: follow the norm with SiLU.
    """
    grid = _Grid(x, groups)
    y = torch.empty_like(x)
    parts = x.new_empty((grid.pictures, grid.parts, 2, grid.channels), dtype=torch.float32)
    means, scales = (x.new_empty((grid.pictures, groups), dtype=torch.float32) for _ in range(2))
    _measure_parts[grid.loops](
        x, parts, grid.positions, grid.channels, grid.rows, ROWS=grid.loop_rows, RUN=grid.loop_run, **grid.loop_options
    )
    _join_moments[groups, grid.pictures](
        parts, means, scales, grid.positions, grid.channels, grid.rows, grid.parts, eps,
        WIDTH=grid.width, ROWS=grid.join_rows, LANES=grid.lanes, **OPTIONS,
    )  # fmt: skip
    _normalise[grid.tiles](
        x, y, means, scales, weight, bias, grid.positions, grid.channels, groups,
        ACTIVATE=activate, ROWS=grid.tile_rows, RUN=grid.run, **OPTIONS,
    )  # fmt: skip
    return y, means, scales


def backward(
    gradient: Tensor,
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    activate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, each like its tensor.

    Args:
        gradient: of y, in memory like `x`.
        x: as given to `forward`, and so are the others.
        means: from `forward`.
        scales: from `forward`.
        weight: (C,).
        bias: (C,).
        groups: divides C.
        activate: SiLU follows the norm.
    """
    grid = _Grid(x, groups)
    dx = torch.empty_like(x)
    parts = x.new_empty((grid.pictures, grid.parts, 2, grid.channels), dtype=torch.float32)
    by_channel = x.new_empty((grid.pictures, 2, grid.channels), dtype=torch.float32)
    by_group = x.new_empty((grid.pictures, 2, groups), dtype=torch.float32)
    _sum_parts[grid.loops](
        x, gradient, parts, means, scales, weight, bias, grid.positions, grid.channels, groups, grid.rows,
        ACTIVATE=activate, ROWS=grid.loop_rows, RUN=grid.loop_run, **grid.loop_options,
    )  # fmt: skip
    _join_sums[groups, grid.pictures](
        parts, weight, by_channel, by_group, grid.channels, grid.parts,
        WIDTH=grid.width, ROWS=grid.join_rows, LANES=grid.lanes, **OPTIONS,
    )  # fmt: skip
    _backpropagate[grid.backward_tiles](
        x, gradient, dx, means, scales, by_group, weight, bias, grid.positions, grid.channels, groups,
        ACTIVATE=activate, ROWS=grid.backward_rows, RUN=grid.run, **OPTIONS,
    )  # fmt: skip
    return dx, by_channel[:, 0].sum(dim=0).to(weight.dtype), by_channel[:, 1].sum(dim=0).to(bias.dtype)
