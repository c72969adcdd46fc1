"""Take one optimizer step: the passes of autoencoder and discriminator, and the metrics of both."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial, reduce

import torch
from torch import Tensor, nn

from pikavae.config import Config
from pikavae.data.prepared.dataset import PictureSet
from pikavae.data.prepared.loader import Loader, Order, choose_way
from pikavae.errors import UserError
from pikavae.features.lpips import LPIPS
from pikavae.training.adversarial import (
    adaptive_weight,
    adversarial_phase,
    hinge_discriminator,
    hinge_generator,
    overflow_if,
)
from pikavae.training.compiling import Compiler
from pikavae.training.equivariance import Transform, transform_at
from pikavae.training.finite import StepValues, Watch
from pikavae.training.losses import Term, autoencoder_terms, smallest_side
from pikavae.training.memory import AUTOCAST_DTYPES, choose_activations
from pikavae.training.optimizers import learning_rate_factor, set_learning_rate, take_step, update_ema
from pikavae.training.order import BucketOrder, indices_at, noise_at
from pikavae.training.processes import ALONE, Processes
from pikavae.training.state import TrainState
from pikavae.training.teacher import Teacher, latent_loss

OF_LATENTS = {"kl_nats_per_image", "latent"}
"""Terms of the loss whose gradient does not pass the decoder's last layer."""


class Stepper:
    """Takes optimizer steps. It holds what does not change in a run; the state holds all that does.

    Args:
        state: the state to continue from.
        config: the whole configuration.
        device: where to compute.
        processes: the processes that share each batch.
        teacher: gives the latents that a tiny autoencoder learns.
        deferred: let the device refuse steps that are not finite, and read values only in `read`; by default on CUDA,
            where reading would wait for the device. Otherwise each step reads its own.
    """

    def __init__(
        self,
        state: TrainState,
        config: Config,
        device: torch.device,
        processes: Processes = ALONE,
        *,
        teacher: Teacher | None = None,
        deferred: bool | None = None,
    ) -> None:
        self.state, self.config, self.device, self.processes = state, config, device, processes
        self.compiler = Compiler(state.model, config, device, announces=processes.is_main)
        self._watch = Watch(state, device, deferred=device.type == "cuda" if deferred is None else deferred)
        self._teacher = teacher
        self.model = processes.wrap(state.model)
        self.discriminator = processes.wrap(state.adversary.network) if state.adversary else None
        self.perceptual = (
            LPIPS(config.loss.perceptual_weights, "loss.perceptual_weights").to(device)
            if config.loss.perceptual_weight
            else None
        )
        # Listed once, because listing takes longer than averaging a small model
        self._weights: list[Tensor] = list(state.model.parameters())
        self._averaged: list[Tensor] = list(state.ema.parameters()) if state.ema else []
        self._norms = [model.bn for model in (state.model, state.ema) if model is not None and model.bn is not None]
        self._norms = self._norms if config.training.trainable == "all" else []  # else the latents remain as they are
        self._last_layer = state.model.ends[1]
        self._smallest_latent = math.ceil(smallest_side(config.loss) / config.model.downsampling_factor)
        self._waited, self._took, self._wait_fraction = 0.0, 0.0, 0.0
        self._one = torch.ones((), device=device)

    def open_loader(self, picture_set: PictureSet) -> Loader:
        """Open the training pictures at the state's position; close the loader with a `with` block.

        Raises:
            UserError: the pictures are too small for a term of the loss, or the processes cannot share a batch.
        """
        smallest, shortest = smallest_side(self.config.loss), min(map(min, picture_set.by_shape))
        if shortest < smallest:
            raise UserError(
                f"data.image_size: pictures of {shortest} pixels are too small for section loss, it needs {smallest}; "
                f"make them larger, or set the weight of MS-SSIM, LPIPS or the discriminator to 0"
            )
        count, seed = self.config.training.batch_size, self.config.training.seed
        if self.config.data.crop == "buckets":
            order: Order = BucketOrder(picture_set.by_shape, count, seed)
        else:
            order = partial(indices_at, count=count, num_images=len(picture_set), seed=seed)
        way = choose_way(picture_set, self.config.training.resident, self.device)
        pictures = picture_set.num_bytes if way == "resident" else 0
        self.state.model.choose_activations(
            choose_activations(self.config, self.device, pictures=pictures, announces=self.processes.is_main)
        )
        share = self.processes.share_of(count)
        return Loader(picture_set, order, self.state.images_seen, self.config, self.device, way, share)

    def step(self, loader: Loader, progress: float) -> None:
        """Take one step over `accumulation` batches, whose gradients are averaged.

        A step whose loss or gradient is not finite changes neither weights nor state. If steps are deferred, neither do
        the following ones, until `read` reports it; this happens here after `finite.MOST_UNREAD` steps at the latest.

        Args:
            loader: from `open_loader`.
            progress: how far rates and phases are, in [0, 1]: the share of the run that is done, or of its schedule.

        Raises:
            NonFiniteLossError: a loss or gradient was NaN or infinite; the state is as before that step.
        """
        began, waited = time.perf_counter(), loader.seconds_waited
        state, optimizer, before = self.state, self.config.optimizer, self.state.images_seen
        set_learning_rate(state.optimizer, learning_rate_factor(optimizer, state.step, progress))
        sums = Sums()
        for number in range(self.config.training.accumulation):
            self._batch(loader, progress, sums, last=number == self.config.training.accumulation - 1)
        means, moments = sums.means(self.processes), sums.moments(self.processes)
        norms = self._clip()
        rate = state.optimizer.param_groups[0]["lr"]
        refused, skipped = self._watch.add(StepValues(state.step + 1, before, rate, tuple(sums.values), means, norms))
        self._move(refused, skipped)
        if moments is not None:
            for norm in self._norms:
                norm.move(moments, refused)
        self._waited += loader.seconds_waited - waited
        self._took += time.perf_counter() - began
        if self._watch.is_full:
            self.read()

    def read(self) -> dict[str, float]:
        """Return the values of the last step; wait for the device if they are on it.

        Returns:
            The raw terms, the learning rate and the gradient's norm as `train/...`, and the weighted terms as
            `weighted/...`, all over all processes; and `train/data_wait_fraction`, the share in [0, 1] of the time of
            the steps since the last call that this process waited for pictures.

        Raises:
            NonFiniteLossError: a loss or gradient was NaN or infinite; the state is as before that step.
        """
        began = time.perf_counter()
        values = self._watch.read()
        if self._took:
            self._took += time.perf_counter() - began
            self._wait_fraction, self._waited, self._took = self._waited / self._took, 0.0, 0.0
        return {**values, "train/data_wait_fraction": self._wait_fraction}

    def last_loss(self, *, read: bool = False) -> float | None:
        """Return the loss of the last step whose values were read, after a `read` if asked; None before the first."""
        return (self.read() if read else self._watch.values).get("train/loss")

    def _batch(self, loader: Loader, progress: float, sums: Sums, *, last: bool) -> None:
        """Run the forward and backward passes of both networks over one batch."""
        config = self.config
        learns, seen = adversarial_phase(config.loss, progress)
        images, noise, transform = self._next_batch(loader)
        with self.processes.averaging(self.model, last=last):
            with autocast(config, self.device):
                taught = () if self._teacher is None else (self._teacher.latents(images),)
                reconstructions, posterior = self.model(images, noise, transform and transform.of_latent, *taught)
            if transform is not None:
                images = transform.of_picture(images, config.model.downsampling_factor)
            terms = autoencoder_terms(
                config.loss,
                images,
                reconstructions,
                posterior,
                progress,
                self.perceptual,
                config.data.channel_names,
            )
            if taught:
                terms["latent"] = Term(latent_loss(posterior.mean, taught[0]), config.loss.latent_weight)
            overflow = None
            if seen:
                terms["adversarial"], overflow = self._adversarial_term(terms, reconstructions)
            loss = sum(term.weighted for term in terms.values())
            assert isinstance(loss, Tensor)
            self._backward(loss if overflow is None else loss + overflow)
        sums.add(loss, terms, equivariant=transform is not None)
        if self._norms:
            sums.of_latents.append(self._norms[0].moments(posterior.mean))
        if learns and self.discriminator is not None:
            with self.processes.averaging(self.discriminator, last=last):
                with autocast(config, self.device):
                    logits = self.discriminator(torch.cat([images, reconstructions.detach().to(images.dtype)]))
                real, fake = logits.float().chunk(2)
                hinge = hinge_discriminator(real, fake)
                self._backward(hinge)
            sums.add_raw({"discriminator": hinge, "logits_real": real.mean(), "logits_fake": fake.mean()})

    def _adversarial_term(self, terms: dict[str, Term], reconstructions: Tensor) -> tuple[Term, Tensor | None]:
        """Return the discriminator's judgement of the reconstructions; its gradient moves only the autoencoder.

        If the adaptive weight cannot be measured, the term has weight 0. With a loss scale there is a second summand
        for the loss: zero, with a gradient that overflows if the scale was too large to measure that weight.
        """
        assert self.state.adversary is not None
        network = self.state.adversary.network.requires_grad_(False)
        with autocast(self.config, self.device):
            logits = network(reconstructions)
        network.requires_grad_(True)
        raw, of_pictures = hinge_generator(logits), [name for name in terms if name not in OF_LATENTS]
        scaled = self.state.scaler.is_enabled()
        factor = adaptive_weight(
            torch.stack([terms[name].weighted for name in of_pictures]).sum(),
            raw,
            self._last_layer,
            bound=self.config.loss.adversarial_max_weight,
            scale=self.state.scaler.scale(self._one) if scaled else 1.0,
            reduce=self.processes.mean,
        )
        overflow = overflow_if(factor.isnan(), self._last_layer) if scaled else None
        return Term(raw, self.config.loss.adversarial_weight * factor.nan_to_num(0.0)), overflow

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self.state.scaler.scale(loss / self.config.training.accumulation))

    def _next_batch(self, loader: Loader) -> tuple[Tensor, Tensor, Transform | None]:
        """Return this process's share of the next batch: (B, C, H, W) in [-1, 1], noise (B, Z, H/f, W/f), transform."""
        state, config = self.state, self.config
        assert loader.position == state.images_seen, "the loader was opened at another position of the stream"
        images, factor, share = next(loader), config.model.downsampling_factor, loader.share
        latent = (images.shape[2] // factor, images.shape[3] // factor)
        noise = noise_at(
            state.images_seen + share.start,
            len(images),
            shape=(config.model.latent_channels, *latent),
            seed=config.training.seed,
        )
        transform = transform_at(
            state.images_seen,
            latent,
            share=config.loss.equivariance,
            seed=config.training.seed,
            smallest=self._smallest_latent,
        )
        state.images_seen += config.training.batch_size
        if images.is_cuda:
            noise = noise.pin_memory()  # the copy then does not wait for the device
        return images, noise.to(images.device, non_blocking=True), transform

    def _clip(self) -> Tensor:
        """Divide by the gradient scaler's factor, then scale the autoencoder's gradients down to the configured norm.

        Returns:
            (1,) or (2,), the norm of the autoencoder's gradient before, and that of the discriminator's if it learned.
        """
        state, largest = self.state, self.config.optimizer.max_grad_norm
        state.scaler.unscale_(state.optimizer)
        norms = [nn.utils.get_total_norm(gradients_of(self._weights))]
        if largest is not None:
            nn.utils.clip_grads_with_norm_(self._weights, largest, norms[0])
        if state.adversary is not None and (gradients := gradients_of(state.adversary.network.parameters())):
            state.scaler.unscale_(state.adversary.optimizer)
            norms.append(nn.utils.get_total_norm(gradients))
        return torch.stack(norms)

    def _move(self, refused: Tensor | None, skipped: list[Tensor | None]) -> None:
        """Update the weights, then their average; the device does not if a flag, a float32 scalar, is 1.

        Args:
            refused: the flag of this step and all that follow; None if it was taken.
            skipped: also the flag of an overflow, which the gradient scaler expects; None if there was none. One for
                the autoencoder, and one for the discriminator if it learned.
        """
        state, decay = self.state, self.config.training.ema_decay
        optimizers = [state.optimizer, *([state.adversary.optimizer] if state.adversary else [])]
        for optimizer, flag in zip(optimizers, skipped, strict=False):
            take_step(optimizer, flag)
        state.scaler.update()
        state.step += 1
        if decay is not None:
            update_ema(self._averaged, self._weights, decay, state.step, refused)


class Sums:
    """Collects the losses of a step's batches on the device."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.of_latents: list[Tensor] = []
        """What `LatentNorm.moments` returned for each batch."""

    def add(self, loss: Tensor, terms: dict[str, Term], *, equivariant: bool) -> None:
        """Add a batch's total and terms; the terms of a transformed batch get their own names."""
        suffix = "_equivariant" if equivariant else ""
        self._add("train/loss", loss)
        for name, term in terms.items():
            self._add(f"train/{name}{suffix}", term.raw)
            self._add(f"weighted/{name}{suffix}", term.weighted)

    def add_raw(self, values: dict[str, Tensor]) -> None:
        """Add values that have no weight."""
        for name, value in values.items():
            self._add(f"train/{name}", value)

    def _add(self, name: str, value: Tensor) -> None:
        self.values.setdefault(name, []).append(value.detach())

    def means(self, processes: Processes) -> Tensor:
        """Return the mean of each name over its batches and over the processes: one vector, in the names' order."""
        means = [reduce(torch.add, values) / len(values) for values in self.values.values()]
        return processes.mean(torch.stack(means))

    def moments(self, processes: Processes) -> Tensor | None:
        """Return the mean of the latents' moments over batches and processes, (2, 4Z); None if there are none."""
        return processes.mean(torch.stack(self.of_latents).mean(dim=0)) if self.of_latents else None


def gradients_of(weights: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients of the weights that have one."""
    return [weight.grad for weight in weights if weight.grad is not None]


def autocast(config: Config, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for the forward pass's precision; losses are computed outside of it."""
    dtype = AUTOCAST_DTYPES.get(config.training.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
