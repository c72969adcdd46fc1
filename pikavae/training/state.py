"""All that changes while training, in one object, and the checkpoints that hold it.

A checkpoint is a folder, whole or absent:

    model.safetensors, ema.safetensors   weights, with the training shortcuts as they are
    discriminator.safetensors            weights of the discriminator, where one is trained
    optimizer.pt                         both optimizers and the gradient scaler (tensors and plain values only)
    pikavae.yaml                         the configuration of the run
    state.json                           step, pictures seen, seconds, scores, and the SHA-256 of each file above
"""

from __future__ import annotations

import copy
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Adam, Optimizer

from pikavae.config import Config, ModelConfig, content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.files import folder_atomically, sha256_of
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.fold import unfold
from pikavae.model.snapshot import SETTINGS_NAME, read_snapshot
from pikavae.training.adversarial import PatchDiscriminator, new_discriminator
from pikavae.training.optimizers import build_optimizer
from pikavae.training.processes import ALONE, Processes

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"


@dataclass
class Adversary:
    """The discriminator and what moves it.

    Attributes:
        network: float32 master weights.
        optimizer: Adam with latent-diffusion's decay rates, 0.5 and 0.9.
    """

    network: PatchDiscriminator
    optimizer: Optimizer

    @classmethod
    def fresh(cls, config: Config, device: torch.device) -> Adversary:
        """The discriminator before its first step, from the seed."""
        network = new_discriminator(config.training.seed).to(device)
        return cls(network, Adam(network.parameters(), lr=config.loss.discriminator_learning_rate, betas=(0.5, 0.9)))


@dataclass
class TrainState:
    """Everything mutable in a run.

    There is no generator in it: the order of the pictures, flips, crops, noise and transformations follow from
    `images_seen` and the seed, and learning rates, warm-ups and phases from `step` and `seconds`.

    Attributes:
        model: float32 master weights.
        ema: their moving average, or None when it is off.
        optimizer: with its state.
        scaler: gradient scaler, enabled for fp16 alone.
        adversary: the discriminator and its optimizer, or None when there is no adversarial loss.
        step: optimizer steps taken.
        images_seen: pictures taken from the stream.
        seconds: training time so far, over all attempts.
        scores: the primary validation metric of every checkpoint, by step.
        processes: how many trained together.
    """

    model: AutoencoderKL
    ema: AutoencoderKL | None
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    adversary: Adversary | None = None
    step: int = 0
    images_seen: int = 0
    seconds: float = 0.0
    scores: dict[int, float] = field(default_factory=dict)
    processes: int = 1

    @classmethod
    def fresh(cls, config: Config, device: torch.device, start: Path | None = None) -> TrainState:
        """The state before the first step.

        Args:
            config: the whole configuration.
            device: where to keep it.
            start: a snapshot folder with the first weights; without it they are initialised from the seed, without
                touching the global generator.

        Raises:
            UserError: the snapshot cannot be read, or is of other sizes than `config.model`.
        """
        if start is not None:
            model = starting_weights(start, config.model)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.training.seed)
                model = AutoencoderKL(config.model)
        if config.training.trainable == "decoder":
            model.requires_grad_(False)
            model.decoder.requires_grad_(True)
            model.post_quant_conv.requires_grad_(True)
        layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
        model = model.to(device=device).to(memory_format=layout)
        model.gradient_checkpointing = config.training.gradient_checkpointing
        ema = copy.deepcopy(model).requires_grad_(False) if config.training.ema_decay else None
        scaler = torch.amp.GradScaler(device.type, enabled=config.training.precision == "fp16")
        adversary = Adversary.fresh(config, device) if config.loss.adversarial_weight else None
        return cls(model, ema, build_optimizer(model, config.optimizer), scaler, adversary)

    @property
    def averaged(self) -> AutoencoderKL:
        """The weights to use: the moving average when it is on, else the current ones."""
        return self.model if self.ema is None else self.ema

    def save(self, folder: Path, settings: str) -> None:
        """Write the checkpoint `folder`, whole or not at all, with the configuration as YAML beside the state."""
        with folder_atomically(folder) as temporary:
            save_file(_on_cpu(self.model.state_dict()), temporary / "model.safetensors")
            if self.ema is not None:
                save_file(_on_cpu(self.ema.state_dict()), temporary / "ema.safetensors")
            moments = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
            if self.adversary is not None:
                save_file(_on_cpu(self.adversary.network.state_dict()), temporary / "discriminator.safetensors")
                moments["discriminator"] = self.adversary.optimizer.state_dict()
            torch.save(moments, temporary / "optimizer.pt")
            (temporary / SETTINGS_NAME).write_text(settings, encoding="utf-8")
            values: dict[str, Any] = {
                "step": self.step,
                "images_seen": self.images_seen,
                "seconds": self.seconds,
                "scores": {str(step): score for step, score in self.scores.items()},
                "processes": self.processes,
                "sha256": {file.name: sha256_of(file) for file in sorted(temporary.iterdir())},
            }
            values["digest"] = content_hash(values)
            (temporary / STATE_NAME).write_text(json.dumps(values, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        """Take over the checkpoint `folder`, after checking the hash of every file.

        Raises:
            DamagedFileError: a file is missing or altered; nothing was taken over.
        """
        values = read_state(folder)
        for name, expected in values["sha256"].items():
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                raise DamagedFileError(f"{folder / name}: missing or altered since it was written")
        device = next(self.model.parameters()).device
        moments = torch.load(folder / "optimizer.pt", map_location=device, weights_only=True)
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        if self.ema is not None:
            self.ema.load_state_dict(load_file(folder / "ema.safetensors"))
        self.optimizer.load_state_dict(moments["optimizer"])
        self.scaler.load_state_dict(moments["scaler"])
        if self.adversary is not None:
            self.adversary.network.load_state_dict(load_file(folder / "discriminator.safetensors"))
            self.adversary.optimizer.load_state_dict(moments["discriminator"])
        self.step, self.images_seen, self.seconds = values["step"], values["images_seen"], values["seconds"]
        self.scores = {int(step): score for step, score in values["scores"].items()}
        self.processes = values["processes"]


def starting_weights(snapshot: Path, sizes: ModelConfig) -> AutoencoderKL:
    """A snapshot's weights in a model to train, with the shortcuts that the configuration trains with.

    Raises:
        UserError: the snapshot cannot be read, or is of other sizes; the message names them.
    """
    model = read_snapshot(snapshot)
    fields = ("channels", "num_res_blocks", "latent_channels", "norm_groups", "mid_attention")
    differing = [
        f"{name} {getattr(model.config, name)} instead of {getattr(sizes, name)}"
        for name in fields
        if getattr(model.config, name) != getattr(sizes, name)
    ]
    if differing:
        raise UserError(f"starting weights {snapshot}: other sizes than section model: {', '.join(differing)}")
    model = unfold(model) if sizes.resample_shortcuts else model
    return model.train().requires_grad_(True)


def read_state(folder: Path) -> dict[str, Any]:
    """The readable part of a checkpoint.

    Raises:
        DamagedFileError: it is missing, cut short, or not ours.
    """
    try:
        values: dict[str, Any] = json.loads((folder / STATE_NAME).read_text())
        digest = values.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFileError(f"{folder / STATE_NAME}: {error!r}") from None
    if content_hash(values) != digest:
        raise DamagedFileError(f"{folder / STATE_NAME}: altered since it was written")
    return values


def step_name(step: int) -> str:
    """The name of what belongs to a step, in an order that sorts: `step-00000400`."""
    return f"step-{step:08d}"


def restore_latest(state: TrainState, checkpoints: Path, processes: Processes = ALONE) -> None:
    """Continue from the newest whole checkpoint in the folder; a damaged one is named in a warning and passed over.

    All processes continue from the one that the writing process found whole.
    """
    restored = None
    if processes.is_main:
        for folder in sorted(checkpoints.glob("step-*"), reverse=True):
            try:
                state.load(folder)
            except DamagedFileError as error:
                logger.warning("checkpoint passed over: %s", error)
            else:
                restored = folder
                break
    restored = processes.of_main(restored)
    if restored is not None and not processes.is_main:
        state.load(restored)
    if restored is not None and state.processes != processes.count:
        logger.warning(
            "the run goes on with %d instead of %d processes: the same pictures, noise and batches, other rounding",
            *(processes.count, state.processes),
        )
    state.processes = processes.count


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}
