"""Measure the error at borders by `model.padding`: small models of one seed, trained on the same textures.

    python -m benchmarks.borders                       # about a minute of a CPU for each padding
    python -m benchmarks.borders --steps 2000 --side 64

The textures are waves of random lengths and directions that do not end at the border, so that nothing about a border
is special but the padding. The errors are those of a report: mean squared errors on [-1, 1], of the frame that the
outermost latent cells make and of what is inside it, of held-out textures.
"""

from __future__ import annotations

import argparse
import math
import typing

import torch
from torch import Tensor

from pikavae.config import ModelConfig
from pikavae.evaluation.metrics.appearance import border_and_inside_mse
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.padding import Padding

SIZES = ModelConfig(channels=(16, 32, 32), num_res_blocks=1, norm_groups=8, initial_logvar=-6.0)
WAVES = 6


def textures(count: int, side: int, seed: int) -> Tensor:
    """Return pictures (count, 3, side, side) in [-1, 1], each a sum of waves of 5 to 40 pixels."""
    generator = torch.Generator().manual_seed(seed)
    length, angle, phase = torch.rand(3, count, WAVES, 1, 1, generator=generator)
    frequency = 2 * math.pi / (5 + 35 * length)
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float32)] * 2, indexing="ij")
    along = x * (2 * math.pi * angle).cos() + y * (2 * math.pi * angle).sin()
    waves = (frequency * along + 2 * math.pi * phase).sin()  # (count, WAVES, side, side)
    colours = torch.randn(count, 3, WAVES, generator=generator)
    return torch.einsum("ncw,nwyx->ncyx", colours, waves).div(2.0).tanh()


def errors(padding: Padding, steps: int, side: int, batch: int) -> tuple[float, float]:
    """Train a model, and return the errors of held-out textures at the border and inside."""
    torch.manual_seed(0)
    model = AutoencoderKL(SIZES.model_copy(update={"padding": padding}))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    for step in range(steps):
        images = textures(batch, side, step + 1)
        noise = torch.randn(batch, SIZES.latent_channels, side // 4, side // 4)
        reconstruction, posterior = model(images, noise)
        loss = (reconstruction - images).square().mean() + 1e-8 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images = textures(64, side, 0)
    with torch.inference_mode():
        made = model.eval().decode(model.encode(images).mode())
    border, inside = border_and_inside_mse(made, images, SIZES.downsampling_factor).mean(dim=0).tolist()
    return border, inside


def main() -> None:
    """Print a row for each padding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    print(f"{'padding':10} {'border':>9} {'inside':>9} {'border, dB below inside':>24}")
    for padding in typing.get_args(Padding):
        border, inside = errors(padding, given.steps, given.side, given.batch)
        print(f"{padding:10} {border:9.5f} {inside:9.5f} {10 * math.log10(border / inside):24.2f}", flush=True)


if __name__ == "__main__":
    main()
