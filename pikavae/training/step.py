"""One optimizer step: the autoencoder's passes, the discriminator's beside them, and what is told of both."""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from pikavae.config import Config
from pikavae.data.dataset import PictureSet
from pikavae.data.loader import Loader, Order, way_of
from pikavae.errors import NonFiniteLossError, UserError
from pikavae.features.lpips import LPIPS
from pikavae.training.adversarial import adaptive_weight, adversarial_phase, hinge_discriminator, hinge_generator
from pikavae.training.equivariance import Transform, transform_at
from pikavae.training.losses import Term, autoencoder_terms, smallest_side
from pikavae.training.memory import AUTOCAST_DTYPES
from pikavae.training.optimizers import learning_rate_factor, set_learning_rate, update_ema
from pikavae.training.order import BucketOrder, indices_at, noise_at
from pikavae.training.processes import ALONE, Processes
from pikavae.training.state import TrainState


class Stepper:
    """Takes optimizer steps. It holds what does not change in a run; all that does is in the state.

    Args:
        state: from which it goes on.
        config: the whole configuration.
        device: where to compute.
        processes: who shares each batch.
    """

    def __init__(self, state: TrainState, config: Config, device: torch.device, processes: Processes = ALONE) -> None:
        self.state, self.config, self.device, self.processes = state, config, device, processes
        if config.training.compile:
            state.model.compile()
        self.model = processes.wrap(state.model)
        self.discriminator = processes.wrap(state.adversary.network) if state.adversary else None
        self.perceptual = (
            LPIPS(config.loss.perceptual_weights, "loss.perceptual_weights").to(device)
            if config.loss.perceptual_weight
            else None
        )
        # Listed once: that takes longer than to average a small model
        self._weights: list[Tensor] = list(state.model.parameters())
        self._averaged: list[Tensor] = list(state.ema.parameters()) if state.ema else []
        self._last_layer = state.model.decoder.conv_out.weight
        self._smallest_latent = math.ceil(smallest_side(config.loss) / config.model.downsampling_factor)

    def open_loader(self, pictures: PictureSet) -> Loader:
        """The training pictures from where the state stands, to be closed by a `with`.

        Raises:
            UserError: they are too small for a term of the loss, or a batch cannot be shared by the processes.
        """
        smallest, shortest = smallest_side(self.config.loss), min(map(min, pictures.by_shape))
        if shortest < smallest:
            raise UserError(
                f"data.image_size: pictures of {shortest} pixels are too small for section loss, it needs {smallest}; "
                f"make them larger, or set the weight of MS-SSIM, LPIPS or the discriminator to 0"
            )
        count, seed = self.config.training.batch_size, self.config.training.seed
        if self.config.data.crop == "buckets":
            order: Order = BucketOrder(pictures.by_shape, count, seed)
        else:
            order = partial(indices_at, count=count, num_images=len(pictures), seed=seed)
        way = way_of(pictures, self.config.training.resident, self.device)
        share = self.processes.share_of(count)
        return Loader(pictures, order, self.state.images_seen, self.config, self.device, way, share)

    def step(self, loader: Loader, progress: float) -> dict[str, float]:
        """One step over `accumulation` batches, whose gradients are averaged.

        Args:
            loader: from `open_loader`.
            progress: the share of the run that is done, in [0, 1].

        Returns:
            The raw terms, the learning rate and the gradient's norm as `train/...`, the weighted terms as
            `weighted/...`; of all processes together, but `train/data_wait_fraction`, this one's share of the step's
            time that went into waiting for pictures, in [0, 1].

        Raises:
            NonFiniteLossError: a loss or gradient was NaN or infinite; the step was not taken.
        """
        began, waited = time.perf_counter(), loader.seconds_waited
        state, optimizer = self.state, self.config.optimizer
        set_learning_rate(state.optimizer, learning_rate_factor(optimizer, state.step, progress))
        sums = Sums(self.device)
        for number in range(self.config.training.accumulation):
            self._batch(loader, progress, sums, last=number == self.config.training.accumulation - 1)
        means = sums.means(self.processes)
        learning_rate = state.optimizer.param_groups[0]["lr"]
        state.scaler.unscale_(state.optimizer)
        norm = nn.utils.clip_grad_norm_(self._weights, optimizer.max_grad_norm or math.inf).item()
        self._refuse_non_finite(means, norm, learning_rate)
        self._move()
        waiting = (loader.seconds_waited - waited) / (time.perf_counter() - began)
        rates = {"train/learning_rate": learning_rate, "train/gradient_norm": norm}
        return {**means, **rates, "train/data_wait_fraction": waiting}

    def _batch(self, loader: Loader, progress: float, sums: Sums, *, last: bool) -> None:
        """Forward and backward of both networks over one batch."""
        config = self.config
        learns, seen = adversarial_phase(config.loss, progress)
        images, noise, transform = self._next_batch(loader)
        with self.processes.averaging(self.model, last=last):
            with autocast(config, self.device):
                reconstructions, posterior = self.model(images, noise, transform and transform.of_latent)
            if transform is not None:
                images = transform.of_picture(images, config.model.downsampling_factor)
            terms = autoencoder_terms(config.loss, images, reconstructions, posterior, progress, self.perceptual)
            if seen:
                terms["adversarial"] = self._adversarial_term(terms, reconstructions)
            loss = sum(term.weighted for term in terms.values())
            assert isinstance(loss, Tensor)
            self._backward(loss)
        sums.add(loss, terms, equivariant=transform is not None)
        if learns and self.discriminator is not None:
            with self.processes.averaging(self.discriminator, last=last):
                with autocast(config, self.device):
                    logits = self.discriminator(torch.cat([images, reconstructions.detach().to(images.dtype)]))
                real, fake = logits.float().chunk(2)
                hinge = hinge_discriminator(real, fake)
                self._backward(hinge)
            sums.add_raw({"discriminator": hinge, "logits_real": real.mean(), "logits_fake": fake.mean()})

    def _adversarial_term(self, terms: dict[str, Term], reconstructions: Tensor) -> Term:
        """The discriminator's judgement of the reconstructions, which moves the autoencoder alone."""
        assert self.state.adversary is not None
        network = self.state.adversary.network.requires_grad_(False)
        with autocast(self.config, self.device):
            logits = network(reconstructions)
        network.requires_grad_(True)
        raw, pictures = hinge_generator(logits), [name for name in terms if name != "kl_nats_per_image"]
        factor = adaptive_weight(
            torch.stack([terms[name].weighted for name in pictures]).sum(),
            raw,
            self._last_layer,
            bound=self.config.loss.adversarial_max_weight,
            scale=self.state.scaler.get_scale(),
            reduce=self.processes.mean,
        )
        return Term(raw, self.config.loss.adversarial_weight * factor)

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self.state.scaler.scale(loss / self.config.training.accumulation))

    def _next_batch(self, loader: Loader) -> tuple[Tensor, Tensor, Transform | None]:
        """The next batch, or its share here: (B, 3, H, W) float32 in [-1, 1], noise (B, Z, H/f, W/f), transform."""
        state, config = self.state, self.config
        assert loader.position == state.images_seen, "the loader was opened for another place in the stream"
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
        return images, noise.to(images.device), transform

    def _refuse_non_finite(self, means: dict[str, float], norm: float, learning_rate: float) -> None:
        state = self.state
        overflow = state.scaler.is_enabled() and not math.isfinite(norm)  # the scaler skips this step
        if all(math.isfinite(value) for value in means.values()) and (math.isfinite(norm) or overflow):
            return
        listed = ", ".join(
            f"{name.removeprefix('train/')} {value:.6g}" for name, value in means.items() if name.startswith("train/")
        )
        raise NonFiniteLossError(
            f"step {state.step + 1}: {listed}, gradient norm {norm:.6g}, learning rate {learning_rate:.3g}: not "
            f"finite, so the step was not taken; lower optimizer.learning_rate, set optimizer.max_grad_norm or raise "
            f"optimizer.warmup_steps (checkpoints up to step {max(state.scores, default=0)} are whole)"
        )

    def _move(self) -> None:
        """Move the weights, and their average after them."""
        state, decay = self.state, self.config.training.ema_decay
        state.scaler.step(state.optimizer)
        state.optimizer.zero_grad(set_to_none=True)
        if state.adversary is not None and any(
            weight.grad is not None for weight in state.adversary.network.parameters()
        ):
            state.scaler.step(state.adversary.optimizer)
            state.adversary.optimizer.zero_grad(set_to_none=True)
        state.scaler.update()
        state.step += 1
        if decay is not None:
            update_ema(self._averaged, self._weights, decay, state.step)


@dataclass
class Sums:
    """Losses of the batches of a step, summed on the device."""

    device: torch.device
    values: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, loss: Tensor, terms: dict[str, Term], *, equivariant: bool) -> None:
        """Add a batch's total and terms; those of a transformed batch under names of their own."""
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
        self.values[name] = self.values.get(name, torch.zeros((), device=self.device)) + value.detach()
        self.counts[name] = self.counts.get(name, 0) + 1

    def means(self, processes: Processes) -> dict[str, float]:
        """The mean of each name over its batches and over the processes."""
        vector = torch.stack([value / self.counts[name] for name, value in self.values.items()])
        return dict(zip(self.values, processes.mean(vector).tolist(), strict=True))


def autocast(config: Config, device: torch.device) -> AbstractContextManager[object]:
    """The forward pass's precision; losses are computed outside of it."""
    dtype = AUTOCAST_DTYPES.get(config.training.precision)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
