"""Scale and turn latents; the decoder must then give the picture scaled and turned in the same way.

Source: EQ-VAE, Kouzelis et al. 2025 (arXiv:2502.09509): scales from 1/4 to 1, quarter turns, on a share of the batches.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_SCALE = 4  # a quarter of the side


@dataclass(frozen=True)
class Transform:
    """Resizes a latent to `height` x `width`, bilinear and antialiased, then makes quarter turns counter-clockwise."""

    height: int
    width: int
    quarter_turns: int

    def of_latent(self, z: Tensor) -> Tensor:
        """Transform (B, Z, h, w) to (B, Z, height, width); one or three turns exchange the last two."""
        return self._apply(z, self.height, self.width)

    def of_picture(self, x: Tensor, factor: int) -> Tensor:
        """Transform (B, 3, H, W) to (B, 3, factor * height, factor * width), turned alike; `factor` is the model's."""
        return self._apply(x, factor * self.height, factor * self.width)

    def _apply(self, x: Tensor, height: int, width: int) -> Tensor:
        resized = F.interpolate(x, (height, width), mode="bilinear", align_corners=False, antialias=True)
        return torch.rot90(resized, self.quarter_turns, dims=(2, 3))


def transform_at(
    position: int, latent_shape: tuple[int, int], *, share: float, seed: int, smallest: int = 1
) -> Transform | None:
    """Return the transform of the batch that begins at `position`, or None: a function of seed and position alone.

    The shorter side becomes a whole number from a quarter of itself to itself, each equally likely. The longer side
    gets the nearest whole number to the same scale, within the same bounds. Quarter turns are 0 to 3.

    Args:
        position: pictures seen since the start of the run.
        latent_shape: height and width of the latents.
        share: the probability of a transform.
        seed: the seed of the run.
        smallest: the least side of the transformed latent, for losses that need pictures of some size.
    """
    shorter, longer = sorted(latent_shape)
    assert 1 <= smallest <= shorter, "the losses need pictures larger than these"
    digest = hashlib.sha256(f"equivariance|{seed}|{position}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    if torch.rand((), generator=generator, dtype=torch.float64).item() >= share:
        return None
    least = max(smallest, -(-shorter // LEAST_SCALE))
    new_shorter = int(torch.randint(least, shorter + 1, (), generator=generator))
    new_longer = max(round(longer * new_shorter / shorter), -(-longer // LEAST_SCALE))
    quarter_turns = int(torch.randint(4, (), generator=generator))
    height, width = (new_shorter, new_longer) if latent_shape[0] == shorter else (new_longer, new_shorter)
    return Transform(height, width, quarter_turns)
