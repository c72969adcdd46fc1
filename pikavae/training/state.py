"""Hold all that changes while training in one object, and save and load it as checkpoints.

A checkpoint is a folder, whole or absent:

    model.safetensors, ema.safetensors   weights, with the training shortcuts as they are
    discriminator.safetensors            weights of the discriminator, if one is trained
    optimizer.pt                         both optimizers and the gradient scaler (tensors and plain values only)
    pikavae.yaml                         the configuration of the run
    state.json                           step, pictures seen, seconds, scores, and the SHA-256 of each file above
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Adam, Optimizer

from pikavae.config import Config, ModelConfig, content_hash
from pikavae.data.prepared.loader import choose_layout
from pikavae.errors import DamagedFileError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.fold import unfold, with_padding
from pikavae.model.grow import NEW_LOGVAR, grow_latents
from pikavae.model.picture_channels import can_take_over, take_over
from pikavae.model.sizes import CONFIG_NAME, RUN_CONFIG_NAME, Factors, refuse_other_sizes, scaling_in, sizes_of
from pikavae.model.tiny import build_autoencoder
from pikavae.training.adversarial import PatchDiscriminator, new_discriminator
from pikavae.training.optimizers import build_optimizer, load_moments
from pikavae.training.processes import ALONE, Processes
from pikavae.weights.published import read_snapshot
from pikavae.workspace.files import folder_atomically, sha256_of
from pikavae.workspace.records import read_object
from pikavae.workspace.run_record import CheckpointRecord, Counters

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"


@dataclass
class Adversary:
    """Holds the discriminator and its optimizer.

    Attributes:
        network: float32 master weights.
        optimizer: Adam with latent-diffusion's decay rates, 0.5 and 0.9.
    """

    network: PatchDiscriminator
    optimizer: Optimizer

    @classmethod
    def fresh(cls, config: Config, device: torch.device) -> Adversary:
        """Return the discriminator before its first step, made from the seed."""
        network = new_discriminator(config.training.seed, config.model.image_channels).to(device)
        rate = config.loss.discriminator_learning_rate
        return cls(network, Adam(network.parameters(), lr=rate, betas=(0.5, 0.9), fused=True))


@dataclass
class TrainState:
    """Holds everything mutable in a run.

    It has no random generator: the order of the pictures, flips, crops, noise and transformations follow from
    `images_seen` and the seed, and learning rates, warm-ups and phases from `step` and `seconds`.

    Attributes:
        model: float32 master weights.
        ema: their moving average, or None if it is off.
        optimizer: the autoencoder's optimizer with its state.
        scaler: gradient scaler, enabled only for fp16.
        adversary: the discriminator and its optimizer, or None without an adversarial loss.
        step: optimizer steps taken.
        images_seen: pictures taken from the stream.
        seconds: training time so far, over all attempts.
        scores: the primary validation metric of every checkpoint, by step.
        processes: how many processes train together.
        threads: the CPU threads of each that made the checkpoint from which it resumed; None if it did not.
        scaling: the scaling and shift of the first weights' latents, if the latents remain theirs; None if not.
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
    threads: int | None = None
    scaling: Factors | None = None

    @classmethod
    def fresh(cls, config: Config, device: torch.device, start: Path | None = None) -> TrainState:
        """Return the state before the first step.

        Args:
            config: the whole configuration.
            device: where to keep it.
            start: a snapshot folder with the first weights; without it they are initialised from the seed, without
                the global generator.

        Raises:
            UserError: the snapshot cannot be read, or its sizes differ from `config.model`.
        """
        if start is not None:
            model = starting_weights(start, config)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.training.seed)
                model = build_autoencoder(config.model)
        if config.training.trainable == "decoder":
            model.requires_grad_(False)
            model.decoder.requires_grad_(True)
            model.post_quant_conv.requires_grad_(True)
        layout = choose_layout(device.type, config.training.channels_last)
        model = model.to(device=device).to(memory_format=layout)
        ema = copy.deepcopy(model).requires_grad_(False) if config.training.ema_decay else None
        scaler = torch.amp.GradScaler(device.type, enabled=config.training.precision == "fp16")
        adversary = Adversary.fresh(config, device) if config.loss.adversarial_weight else None
        scaling = None
        if start is not None and config.training.trainable == "decoder":
            scaling = scaling_in(read_object(start / CONFIG_NAME))
        return cls(model, ema, build_optimizer(model, config.optimizer), scaler, adversary, scaling=scaling)

    @property
    def averaged(self) -> AutoencoderKL:
        """Return the weights to use: the moving average if it is on, else the current ones."""
        return self.model if self.ema is None else self.ema

    def copy(self, copied: Callable[[Any], Any]) -> StateCopy:
        """Return what a checkpoint holds of this state.

        Args:
            copied: returns nested dicts and lists with their tensors copied; or the same, if the state does not change
                before it is written.
        """
        weights = {"model": self.model.state_dict()}
        moments = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        if self.ema is not None:
            weights["ema"] = self.ema.state_dict()
        if self.adversary is not None:
            weights["discriminator"] = self.adversary.network.state_dict()
            moments["discriminator"] = self.adversary.optimizer.state_dict()
        counters = Counters(
            step=self.step,
            images_seen=self.images_seen,
            seconds=self.seconds,
            scores={str(step): score for step, score in self.scores.items()},
            processes=self.processes,
            threads=torch.get_num_threads(),
        )
        return StateCopy(self.model.config, copied(weights), copied(moments), counters, self.scaling)

    def load(self, folder: Path) -> None:
        """Load the checkpoint `folder`, after checking the hash of every file.

        Raises:
            DamagedFileError: a file is missing or altered; nothing was loaded.
        """
        record = read_state(folder)
        for name, expected in record.sha256.items():
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                raise DamagedFileError(f"{folder / name}: missing or altered since it was written")
        device = next(self.model.parameters()).device
        moments = torch.load(folder / "optimizer.pt", map_location=device, weights_only=True)
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        if self.ema is not None:
            self.ema.load_state_dict(load_file(folder / "ema.safetensors"))
        load_moments(self.optimizer, moments["optimizer"])
        self.scaler.load_state_dict(moments["scaler"])
        if self.adversary is not None:
            self.adversary.network.load_state_dict(load_file(folder / "discriminator.safetensors"))
            load_moments(self.adversary.optimizer, moments["discriminator"])
        self.step, self.images_seen, self.seconds = record.step, record.images_seen, record.seconds
        self.scores = {int(step): score for step, score in record.scores.items()}
        self.processes, self.threads = record.processes, record.threads


@dataclass(frozen=True)
class StateCopy:
    """Holds what a checkpoint holds, to be written while the state moves on.

    Attributes:
        sizes: the autoencoder's.
        weights: the weights of `model`, and of `ema` and `discriminator` if there are such, by name.
        moments: the states of optimizers and scaler.
        counters: the state's numbers.
        scaling: as in the state.
    """

    sizes: ModelConfig
    weights: dict[str, dict[str, Tensor]]
    moments: dict[str, Any]
    counters: Counters
    scaling: Factors | None

    @property
    def step(self) -> int:
        """Return the optimizer steps taken."""
        return self.counters.step

    @property
    def scores(self) -> dict[int, float]:
        """Return the primary validation metric of every checkpoint, by step."""
        return {int(step): score for step, score in self.counters.scores.items()}

    def averaged(self) -> AutoencoderKL:
        """Return a model with the weights to use: the moving average if it is on, else the current ones."""
        with torch.device("meta"):
            model = build_autoencoder(self.sizes)
        model.load_state_dict(self.weights.get("ema", self.weights["model"]), assign=True)
        return model

    def write(self, folder: Path, config: str) -> None:
        """Write the checkpoint `folder`, whole or not at all, with `config`, the configuration as YAML."""
        with folder_atomically(folder) as temporary:
            for name, weights in self.weights.items():
                save_file(_on_cpu(weights), temporary / f"{name}.safetensors")
            torch.save(self.moments, temporary / "optimizer.pt")
            (temporary / RUN_CONFIG_NAME).write_text(config, encoding="utf-8")
            hashes = {file.name: sha256_of(file) for file in sorted(temporary.iterdir())}
            values = CheckpointRecord(**self.counters.content(), sha256=hashes).content()
            (temporary / STATE_NAME).write_text(json.dumps({**values, "digest": content_hash(values)}, indent=2) + "\n")


def starting_weights(snapshot: Path, config: Config) -> AutoencoderKL:
    """Return a snapshot's weights in a model to train, with the shortcuts and the padding of the configuration.

    With `training.grow_latents`, latent channels are added. A model of RGB pictures is made one of grey or RGBA ones.

    Raises:
        UserError: the snapshot cannot be read, or has other sizes; the message names them.
    """
    model, sizes = read_snapshot(snapshot), config.model
    if model.config.image_channels != sizes.image_channels and can_take_over(
        model.config.image_channels, config.data.channel_names
    ):
        model = take_over(model, config.data.channel_names)
    if config.training.grow_latents:
        logvar = NEW_LOGVAR if sizes.initial_logvar is None else sizes.initial_logvar
        model = grow_latents(model, sizes.latent_channels, logvar=logvar, seed=config.training.seed)
    refuse_other_sizes(model.config, sizes_of(sizes), f"starting weights {snapshot}")
    model = with_padding(model, sizes.padding) if model.config.padding != sizes.padding else model
    model = unfold(model) if sizes.resample_shortcuts else model
    return model.train().requires_grad_(True)


def read_state(folder: Path) -> CheckpointRecord:
    """Read a checkpoint's `state.json`.

    Raises:
        DamagedFileError: it is missing, cut short, or not pikavae's.
    """
    try:
        values: dict[str, Any] = json.loads((folder / STATE_NAME).read_text())
        digest = values.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DamagedFileError(f"{folder / STATE_NAME}: {error!r}") from None
    if content_hash(values) != digest:
        raise DamagedFileError(f"{folder / STATE_NAME}: altered since it was written")
    return CheckpointRecord.of(values, folder / STATE_NAME)


def threads_of_newest(checkpoints: Path, processes: int) -> int | None:
    """Return the CPU threads that the newest whole checkpoint was made with; None if by other processes, or unknown."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        with suppress(DamagedFileError):
            record = read_state(folder)
            return record.threads if record.processes == processes else None
    return None


def step_name(step: int) -> str:
    """Return the name for what belongs to a step, which sorts by step: `step-00000400`."""
    return f"step-{step:08d}"


def restore_latest(state: TrainState, checkpoints: Path, processes: Processes = ALONE) -> None:
    """Load the newest whole checkpoint in the folder; a warning names each damaged one, which is skipped.

    All processes load the one that the writing process found whole.
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
            "the run resumes with %d processes instead of %d: the same pictures, noise and batches, other rounding",
            *(processes.count, state.processes),
        )
    on_cpu, threads = next(state.model.parameters()).device.type == "cpu", torch.get_num_threads()
    if on_cpu and state.threads not in (None, threads):
        logger.warning(
            "the run resumes with %d CPU threads instead of %d: the same pictures, noise and batches, other rounding",
            *(threads, state.threads),
        )
    state.processes = processes.count


def _on_cpu(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in weights.items()}
