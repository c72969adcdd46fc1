"""Measure the validation pictures during a training, by the report's numbers, and reconstruct some for previews."""

from __future__ import annotations

import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.data.prepared.dataset import PictureSet, to_float
from pikavae.data.prepared.loader import memory_of
from pikavae.data.prepared.shown import shown
from pikavae.evaluation.metrics.similarity import psnr, ssim
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32
from pikavae.model.posterior import PointPosterior
from pikavae.training.processes import ALONE, Processes
from pikavae.training.teacher import Teacher

RESIDENT_SHARE = 0.05
"""The share of a device's memory that the validation pictures may take."""


class Validation:
    """Reconstructs the validation pictures from their posteriors' modes, in exact float32 and the report's batches.

    Where they fit, the pictures stay on the device after the first pass, with 8 bits a channel.

    Args:
        picture_set: the validation side.
        config: the whole configuration.
        device: where the model is.
        processes: they share the batches, so that each picture is counted once.
        teacher: gives latents that a tiny autoencoder is to decode.
    """

    def __init__(
        self,
        picture_set: PictureSet,
        config: Config,
        device: torch.device,
        processes: Processes = ALONE,
        *,
        teacher: Teacher | None = None,
    ) -> None:
        self._teacher = teacher
        self._set, self._device, self._processes = picture_set, device, processes
        self._batches = list(picture_set.batches(config.evaluation.batch_size))
        self._shown = picture_set.first_alike(config.training.preview_images)
        self._keeps = device.type != "cpu" and picture_set.num_bytes <= RESIDENT_SHARE * memory_of(device)
        self._kept: dict[int, Tensor] = {}

    @torch.inference_mode()
    def preview(self, model: AutoencoderKL) -> Tensor:
        """Return the reconstructions of the first pictures as people see them: (N, 3, H, W) float32 on the CPU."""
        with exact_float32():
            images = self._images(self._set.pixels(self._shown).to(self._device))
            return shown(model.decode(model.encode(images).mode()), self._set.channels)

    def look(self, model: AutoencoderKL, *, measure: bool, show: bool) -> tuple[dict[str, float], Tensor | None]:
        """Measure all pictures, or show the first ones, or both in one pass: what is not asked for is empty or None."""
        if measure:
            return self.measure(model, show=show)
        return {}, self.preview(model) if show else None

    @torch.inference_mode()
    def measure(self, model: AutoencoderKL, *, show: bool = False) -> tuple[dict[str, float], Tensor | None]:
        """Measure all pictures, and show the first ones if this process is asked to.

        Returns:
            The means over all pictures, `val/psnr` (dB), `val/ssim` and `val/kl_nats_per_image`, equal in all
            processes; and, if `show`, what `preview` returns, from the same pass. A latent that is a point has no KL.
            With a teacher, `val/psnr_of_teacher_latents` is that of its latents decoded.
        """
        measured: dict[int, dict[str, Tensor]] = {}
        found: dict[int, Tensor] = {}
        wanted = set(self._shown) if show else set[int]()
        with exact_float32():
            for number, indices in enumerate(self._batches):
                if number % self._processes.count != self._processes.rank:
                    continue
                images = self._images(self._pixels(number))
                posterior = model.encode(images)
                reconstructions = model.decode(posterior.mode())
                measured[number] = {
                    "val/psnr": psnr(reconstructions, images),
                    "val/ssim": ssim(reconstructions, images),
                }
                if not isinstance(posterior, PointPosterior):
                    measured[number]["val/kl_nats_per_image"] = posterior.kl()
                if self._teacher is not None:
                    decoded = model.decode(self._teacher.latents(images))
                    measured[number]["val/psnr_of_teacher_latents"] = psnr(decoded, images)
                found |= {index: one for index, one in zip(indices, reconstructions, strict=True) if index in wanted}
        means = self._means(measured)
        if not show:
            return means, None
        if len(found) < len(wanted):  # another process had some of them
            return means, self.preview(model)
        return means, shown(torch.stack([found[index] for index in self._shown]), self._set.channels)

    def _means(self, measured: dict[int, dict[str, Tensor]]) -> dict[str, float]:
        """Return the means over the batches of all processes; the device is waited for only here."""
        ours = {number: {name: one.cpu() for name, one in batch.items()} for number, batch in measured.items()}
        batches = {number: batch for part in self._processes.gather(ours) for number, batch in part.items()}
        ordered = [batches[number] for number in sorted(batches)]
        return {name: torch.cat([batch[name] for batch in ordered]).double().mean().item() for name in ordered[0]}

    def _pixels(self, number: int) -> Tensor:
        """Return a batch on the device, (B, C, H, W) as they are stored."""
        if (kept := self._kept.get(number)) is not None:
            return kept
        pixels = self._set.pixels(self._batches[number]).to(self._device)
        if self._keeps:
            self._kept[number] = pixels
        return pixels

    def _images(self, pixels: Tensor) -> Tensor:
        """Convert pixels to float32 in [-1, 1]: the report's bits, in its layout, which has the channels innermost."""
        return to_float(pixels, torch.empty_like(pixels, dtype=torch.float32))
