"""Our model and diffusers' with the same weights, pictures and optimizer, and ways of them measured in turn."""

from __future__ import annotations

import copy
import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import diffusers_config
from pikavae.training.compiling import compile_blocks
from pikavae.weights.published import read_snapshot

DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
KL_WEIGHT = 1e-8
MIN_ROUNDS = 3

Row = dict[str, object]


@dataclass
class Setting:
    """Holds what all measurements share.

    Attributes:
        device: where everything runs.
        model: the sizes of both models.
        seconds: how long a group of ways is measured.
        backend: of torch.compile.
        batches: how many pictures of each size a training step takes.
        sizes: those of which training steps are compared.
        decoded: the size of decoded pictures.
        snapshot: the weights of both models; random ones without it.
        prepared: the pictures of the whole run; drawn ones without it.
        deadline: the time of `perf_counter` after which no measurement begins.
    """

    device: torch.device
    model: ModelConfig
    seconds: float
    backend: str
    batches: dict[int, int]
    sizes: tuple[int, ...]
    decoded: int
    snapshot: Path | None = None
    prepared: Path | None = None
    deadline: float = float("inf")
    notes: list[str] = field(default_factory=list)

    def weights(self, layout: torch.memory_format) -> AutoencoderKL:
        """Return the model on the device: the snapshot's weights, or random ones that are the same each time."""
        torch.manual_seed(0)
        model = read_snapshot(self.snapshot) if self.snapshot else AutoencoderKL(self.model)
        return model.requires_grad_(True).to(self.device).to(memory_format=layout).train()

    def batch(self, count: int, size: int, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """Return smooth synthetic pictures (count, 3, size, size) in [-1, 1], and noise for their latents."""
        generator = torch.Generator().manual_seed(0)
        factor, channels = self.model.downsampling_factor, self.model.latent_channels
        coarse = torch.rand(count, 3, size // 8, size // 8, generator=generator) * 2 - 1
        images = F.interpolate(coarse, scale_factor=8.0, mode="bilinear")
        noise = torch.randn(count, channels, size // factor, size // factor, generator=generator)
        return images.to(self.device, memory_format=layout), noise.to(self.device)

    def autocast(self, precision: str) -> torch.autocast:
        """Return the context of a forward pass."""
        return torch.autocast(self.device.type, dtype=DTYPES[precision], enabled=DTYPES[precision] is not None)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def has_time(self, what: str) -> bool:
        """Return True if another measurement may begin; otherwise note what is left out."""
        if time.perf_counter() < self.deadline:
            return True
        self.notes.append(f"{what}: left out, the time is over")
        return False


class Ours(nn.Module):
    """Turns pictures and noise into reconstruction, mean and log-variance by pikavae's model."""

    name = "ours"
    layout = torch.channels_last

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.model = setting.weights(self.layout)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the whole model."""
        reconstructions, posterior = self.model(images, noise)
        return reconstructions, posterior.mean, posterior.logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures."""
        return self.model.decode(latents)

    def compiled(self, backend: str) -> Callable[..., Any]:
        """Compile what trains, and return it."""
        network = copy.deepcopy(self)
        compile_blocks(network.model, varies=False, backend=backend)
        return network


class Theirs(nn.Module):
    """Does the same by diffusers' AutoencoderKL, whose weights are ours: the names are the same."""

    name = "diffusers"
    layout = torch.contiguous_format

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        from diffusers import AutoencoderKL as DiffusersAutoencoderKL

        sizes = diffusers_config(setting.model, max(setting.batches))
        self.model = DiffusersAutoencoderKL(**{key: value for key, value in sizes.items() if not key.startswith("_")})
        self.model.load_state_dict(setting.weights(self.layout).state_dict())
        self.model.to(setting.device).to(memory_format=self.layout).train()

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the whole model."""
        posterior = self.model.encode(images).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        return self.model.decode(mean + torch.exp(0.5 * logvar) * noise).sample, mean, logvar

    def decode(self, latents: Tensor) -> Tensor:
        """Return pictures."""
        images: Tensor = self.model.decode(latents).sample
        return images

    def compiled(self, backend: str) -> Callable[..., Any]:
        """Compile what trains, and return it."""
        compiled: Callable[..., Any] = torch.compile(self, backend=backend, dynamic=False)
        return compiled


Network = Ours | Theirs


def has_diffusers() -> bool:
    """Return True if diffusers can be imported."""
    return importlib.util.find_spec("diffusers") is not None


def networks(setting: Setting) -> list[Network]:
    """Return ours, and diffusers' if it can be imported."""
    if not has_diffusers():
        if not any("diffusers" in note for note in setting.notes):
            setting.notes.append("diffusers is not installed: its columns are left out")
        return [Ours(setting)]
    return [Ours(setting), Theirs(setting)]


def stepper(
    setting: Setting, network: nn.Module, batch: tuple[Tensor, Tensor], precision: str, forward: Callable[..., Any]
) -> Callable[[], None]:
    """Return a training step of `network` by `forward`, its own or a compiled one: squared error, KL, fused AdamW."""
    module = forward if isinstance(forward, nn.Module) else network
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    images, noise = batch

    def step() -> None:
        with setting.autocast(precision):
            reconstructions, mean, logvar = forward(images, noise)
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3)).mean()
        (F.mse_loss(reconstructions.float(), images) + KL_WEIGHT * kl).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def in_turn(setting: Setting, ways: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each way; they take turns, after two unmeasured rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in [*ways.values(), *ways.values()]:
        way()
    end = time.perf_counter() + setting.seconds
    while time.perf_counter() < end or min(map(len, times.values())) < MIN_ROUNDS:
        for name, way in ways.items():
            setting.synchronize()
            began = time.perf_counter()
            way()
            setting.synchronize()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def first_call(setting: Setting, way: Callable[[], object]) -> float:
    """Return the seconds of a way's first call, which compiles it."""
    began = time.perf_counter()
    way()
    setting.synchronize()
    return time.perf_counter() - began


def free(setting: Setting) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
