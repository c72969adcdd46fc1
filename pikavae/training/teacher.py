"""Give a tiny autoencoder the latents of a trained one to learn, as a diffusion model gets them.

The recipe is that of TAESD's author (github.com/madebyollin/taesd, issues 2 and 16): the encoder learns the teacher's
latents by their squared error, and the decoder the pictures that they were made of.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pikavae.model.inference import prepare_for_use
from pikavae.weights.published import read_snapshot
from pikavae.workspace.run_record import TeacherRecord


class Teacher:
    """Encodes pictures by a trained autoencoder, whose weights do not change.

    Args:
        record: its snapshot, and the factors that scale its latents.
        device: where to compute.
    """

    def __init__(self, record: TeacherRecord, device: torch.device) -> None:
        self._model = prepare_for_use(read_snapshot(Path(record.folder)), device).requires_grad_(False)
        self._factor, self._shift = (number.to(device) for number in factor_and_shift(record))

    @torch.no_grad()
    def latents(self, images: Tensor) -> Tensor:
        """Return `(mode - shift) * factor` of the posteriors of `images`, (B, Z, H/f, W/f) float32.

        Both may differ by channel. With `latent_norm`, they are normalised instead, and not packed.
        """
        mode = self._model.encode(images).mode()
        if self._model.bn is not None:
            return self._model.bn.normalise_unpacked(mode)
        return (mode - self._shift) * self._factor


def factor_and_shift(record: TeacherRecord) -> tuple[Tensor, Tensor]:
    """Return what latents are multiplied by after the shift is subtracted: scalars, or (Z, 1, 1), float32."""
    factor, shift = torch.tensor(record.scaling_factor), torch.tensor(record.shift_factor)
    if record.latents_std is None or record.latents_mean is None:
        return factor, shift
    mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (record.latents_mean, record.latents_std))
    return factor / std, mean + shift


def latent_loss(latents: Tensor, target: Tensor) -> Tensor:
    """Return the squared error of latents against the teacher's, mean over all elements: a float32 scalar."""
    return F.mse_loss(latents.float(), target.float())
