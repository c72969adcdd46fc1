"""Define the diffusion model: a U-Net of diffusers that learns the way from latents to noise, and walks it back.

A latent has far fewer numbers than its picture, so a diffusion model of latents needs little. This one is a rectified
flow. A latent and noise are the ends of a straight line. At a place on it the U-Net predicts the line's direction,
given the caption. To draw, it starts at noise and walks against the predicted direction in steps. The autoencoder
decodes the latent at which it arrives.

Letters in shape comments: B batch, C channels of what the U-Net sees, s its side, L tokens of a caption.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from examples.diffusion.latents import NO_WORD, Split

WIDTHS = (64, 128)
TEXT_WIDTH = 128
WALK = 25
"""The number of steps from noise to a latent."""


class Drawer(nn.Module):
    """Predicts the direction from a latent to noise: a U-Net that reads the caption by cross-attention.

    The captions' words are learned here from scratch. A model for real pictures would take a trained text encoder.
    """

    def __init__(self, shape: tuple[int, ...], num_words: int, length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(num_words, TEXT_WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(length, TEXT_WIDTH))
        self.reader = nn.TransformerEncoderLayer(
            TEXT_WIDTH, nhead=4, dim_feedforward=2 * TEXT_WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        levels = len(WIDTHS) if shape[-1] % 2 == 0 else 1
        self.unet = UNet2DConditionModel(
            sample_size=shape[-1],
            in_channels=shape[0],
            out_channels=shape[0],
            block_out_channels=WIDTHS[-levels:],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"][-levels:],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"][:levels],
            layers_per_block=1,
            norm_num_groups=16,
            attention_head_dim=32,
            cross_attention_dim=TEXT_WIDTH,
        )

    def forward(self, noisy: Tensor, when: Tensor, words: Tensor) -> Tensor:
        """Return the direction (B, C, s, s) at `noisy`, for `when` (B,) from 0, a latent, to 1, noise; words (B, L)."""
        text = self.reader(self.words(words) + self.places)  # (B, L, TEXT_WIDTH)
        direction: Tensor = self.unet(noisy, 1000.0 * when, text, return_dict=False)[0]
        return direction


def loss_of(drawer: nn.Module, latents: Tensor, words: Tensor, when: Tensor, noise: Tensor) -> Tensor:
    """Return the mean squared error of the direction for each row (B,).

    Source: Liu et al. 2022 (arXiv:2209.03003), rectified flow.
    """
    share = when[:, None, None, None]
    noisy = (1.0 - share) * latents + share * noise
    direction: Tensor = drawer(noisy, when, words)
    return (direction - (noise - latents)).square().flatten(1).mean(dim=1)


@torch.inference_mode()
def draw(drawer: nn.Module, words: Tensor, shape: tuple[int, ...], *, guidance: float, seed: int) -> Tensor:
    """Return drawn latents (N, C, s, s) for words (N, L): walk from noise in equal steps, against the direction.

    The direction is guided: that with the caption, moved on from that without it (Ho and Salimans 2022,
    arXiv:2207.12598). A row depends on the seed, its number and its words alone, up to rounding.
    """
    noise = [
        torch.randn(shape, generator=torch.Generator().manual_seed(1_000_003 * seed + i)) for i in range(len(words))
    ]
    drawn = []
    for start, asked in zip(torch.split(torch.stack(noise), 64), torch.split(words, 64), strict=True):
        x = start
        both = torch.cat([asked, torch.full_like(asked, NO_WORD)])
        for k in range(WALK, 0, -1):
            when = torch.full((len(both),), k / WALK)
            with_caption, without = drawer(torch.cat([x, x]), when, both).chunk(2)
            x = x - (without + guidance * (with_caption - without)) / WALK
        drawn.append(x)
    return torch.cat(drawn)


@torch.inference_mode()
def mean_loss(drawer: nn.Module, split: Split, count: int) -> float:
    """Return the mean loss on the first `count` rows, at even times and with noise of a fixed seed."""
    latents, words = split.latents[:count], split.words[:count]
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    when = (torch.arange(len(latents)) + 0.5) / len(latents)
    parts = zip(*(torch.split(rows, 64) for rows in (latents, words, when, noise)), strict=True)
    return torch.cat([loss_of(drawer, *part) for part in parts]).mean().item()
