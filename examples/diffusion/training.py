"""Train the diffusion model: the same command resumes, and more steps train on.

All random numbers of a step follow from the seed and the step's number. So the state needs no generator, and a training
that was interrupted has the weights of one that was not, with one number of CPU threads.
"""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from examples.diffusion.latents import NO_WORD, LatentSet, Split
from examples.diffusion.model import Drawer, loss_of
from pikavae.config import content_hash
from pikavae.errors import PreemptedError, UserError
from pikavae.workspace.files import write_atomically

STATE_NAME = "state.pt"


@dataclass(frozen=True)
class Settings:
    """Holds what decides a training, besides the latents."""

    batch_size: int = 32
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass
class Training:
    """Holds all that changes: weights, their average, the optimizer, and how many steps were taken."""

    drawer: Drawer
    average: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    step: int = 0

    @classmethod
    def new(cls, data: LatentSet, settings: Settings) -> Training:
        """Return the state before the first step."""
        torch.manual_seed(settings.seed)
        drawer = Drawer(tuple(data.train.latents.shape[1:]), len(data.known) + 1, data.length)
        average = {name: value.clone() for name, value in drawer.state_dict().items()}
        optimizer = torch.optim.AdamW(drawer.parameters(), settings.learning_rate, weight_decay=0.01)
        return cls(drawer, average, optimizer)

    def take_step(self, data: Split, settings: Settings) -> float:
        """Take one step and return its loss. All its random numbers follow from seed and step."""
        generator = torch.Generator().manual_seed(1_000_003 * settings.seed + self.step)
        rows = torch.randint(len(data.latents), (settings.batch_size,), generator=generator)
        latents, words = data.latents[rows], data.words[rows]
        # Without some captions the U-Net also learns to draw anything, which `draw` moves away from.
        words = words.masked_fill(torch.rand(len(rows), 1, generator=generator) < 0.1, NO_WORD)
        # More of the middle of the way, where form and place are decided (Esser et al. 2024, arXiv:2403.03206).
        when = torch.randn(len(rows), generator=generator).sigmoid()
        noise = torch.randn(latents.shape, generator=generator)

        loss = loss_of(self.drawer, latents, words, when, noise).mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.drawer.parameters(), 1.0)
        self.optimizer.param_groups[0]["lr"] = settings.learning_rate * min(1.0, (self.step + 1) / 100)
        self.optimizer.step()

        with torch.no_grad():
            fresh = 1.0 - min(0.998, (1 + self.step) / (10 + self.step))
            for name, value in self.drawer.state_dict().items():
                self.average[name].lerp_(value, fresh)
        self.step += 1
        return loss.item()

    def save(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Write the state, whole or not at all."""
        state = {"identity": dict(identity), "step": self.step, "average": self.average}
        state |= {"drawer": self.drawer.state_dict(), "optimizer": self.optimizer.state_dict()}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(folder / STATE_NAME, buffer.getvalue())

    def load(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Take over the state in `folder`.

        Raises:
            UserError: it is that of other latents or settings.
        """
        state = torch.load(folder / STATE_NAME, weights_only=True)
        for name, value in identity.items():
            if state["identity"].get(name) != value:
                raise UserError(
                    f"--out {folder}: its training had {name} {state['identity'].get(name)}, not {value}; name another"
                )
        self.step, self.average = state["step"], state["average"]
        self.drawer.load_state_dict(state["drawer"])
        self.optimizer.load_state_dict(state["optimizer"])


def train(data: LatentSet, settings: Settings, steps: int, folder: Path, save_every: float = 30.0) -> Drawer:
    """Train up to `steps`, from the state in `folder` if there is one, and return the model with averaged weights.

    Raises:
        PreemptedError: SIGINT or SIGTERM came; the state is saved.
        UserError: the state is that of other latents or settings, or has more steps.
    """
    identity = identity_of(data, settings)
    training = Training.new(data, settings)
    if (folder / STATE_NAME).is_file():
        training.load(folder, identity)
        print(f"resumes after step {training.step}")
    if training.step > steps:
        raise UserError(f"--steps {steps}: {folder} has {training.step} steps already; name as many, or another --out")
    stops: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: stops.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    first, begun = training.step, time.monotonic()
    saved, losses = begun, []
    try:
        while training.step < steps and not stops:
            losses.append(training.take_step(data.train, settings))
            if training.step % 100 == 0:
                speed = (training.step - first) / (time.monotonic() - begun)
                print(
                    f"step {training.step} of {steps}: loss {fmean(losses[-100:]):.3f}, {speed:.1f} steps/s",
                    flush=True,
                )
            if time.monotonic() - saved > save_every:
                training.save(folder, identity)
                saved = time.monotonic()
        training.save(folder, identity)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stops:
        raise PreemptedError(f"stopped after step {training.step}, which is saved; the same command resumes")
    training.drawer.load_state_dict(training.average)
    return training.drawer.eval()


def identity_of(data: LatentSet, settings: Settings) -> dict[str, Any]:
    """Return what makes one training another: the latents' files, and the settings."""
    return {"latents": content_hash(dict(data.record.files))[:16], **asdict(settings)}
