"""Declare the whole configuration, and check what concerns several of its sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import model_validator

from .data import CHANNELS, DataConfig
from .model import ModelConfig, why_size_does_not_fit
from .results import EvaluationConfig, PromotionConfig, RegistryConfig, TrackingConfig
from .section import NamesPath, Section
from .training import LossConfig, OptimizerConfig, TrainingConfig


class Config(Section):
    """Everything that decides what a run does."""

    data: DataConfig = DataConfig()
    """The pictures."""
    model: ModelConfig = ModelConfig()
    """The autoencoder."""
    loss: LossConfig = LossConfig()
    """What training minimises."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights are updated."""
    training: TrainingConfig = TrainingConfig()
    """How long and how precisely the run trains, and how often it writes."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How models are measured."""
    registry: RegistryConfig = RegistryConfig()
    """Where models are registered."""
    promotion: PromotionConfig = PromotionConfig()
    """What a version must reach to become champion."""
    tracking: TrackingConfig = TrackingConfig()
    """Where runs are recorded."""

    @model_validator(mode="before")
    @classmethod
    def _channels_of_data(cls, given: Any) -> Any:
        """Give the model as many channels as the pictures have, unless its number is given."""
        if not isinstance(given, Mapping) or isinstance(given.get("model", {}), ModelConfig):
            return given
        data, model = given.get("data", {}), given.get("model", {})
        if isinstance(data, Mapping) and "channels" in data and isinstance(model, Mapping):
            with suppress(ValueError):  # it is reported with the field's name
                count = len(DataConfig(channels=data["channels"]).channel_names)
                given = {**given, "model": {"image_channels": count, **model}}
        elif isinstance(data, DataConfig) and isinstance(model, Mapping):
            given = {**given, "model": {"image_channels": len(data.channel_names), **model}}
        return given

    @model_validator(mode="after")
    def _channels_agree(self) -> Self:
        names, count = self.data.channel_names, self.model.image_channels
        if len(names) != count:
            raise ValueError(
                f"model.image_channels {count}: the pictures have {len(names)} (data.channels {' '.join(names)}); "
                f"leave model.image_channels out, it follows from data.channels"
            )
        if self.loss.perceptual_weight > 0 and names not in CHANNELS.values():
            raise ValueError(
                f"loss.perceptual_weight {self.loss.perceptual_weight:g}: LPIPS sees colours, and data.channels has "
                f"{' '.join(names)}; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _size_fits_factor(self) -> Self:
        if reason := why_size_does_not_fit(self.data.image_size, self.model.size_step):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _can_grow_latents(self) -> Self:
        training = self.training
        if training.grow_latents and training.start is None:
            raise ValueError("training.grow_latents adds channels to trained weights: name them by training.start")
        if training.grow_latents and training.trainable == "decoder":
            raise ValueError(
                "training.grow_latents adds channels that the encoder must learn to fill: set training.trainable all"
            )
        return self

    @model_validator(mode="after")
    def _is_for_a_tiny_model(self) -> Self:
        is_tiny, training = self.model.kind == "tiny", self.training
        if training.teacher is not None and not is_tiny:
            raise ValueError(
                f"training.teacher {training.teacher!r}: it teaches a tiny autoencoder, and model.kind is kl; set "
                f"model.like taesd, or name the weights to begin with in training.start"
            )
        if training.grow_latents and is_tiny:
            raise ValueError("training.grow_latents: a tiny autoencoder cannot grow; leave it out")
        return self

    @model_validator(mode="after")
    def _buckets_fit_factor(self) -> Self:
        factor, size = self.model.size_step, self.data.image_size
        step = max(8, size // 8)
        if self.data.crop == "buckets" and step % factor:
            raise ValueError(
                f"data.crop buckets: sides are multiples of {step} pixels at data.image_size {size}, which the "
                f"downsampling factor {factor} ({len(self.model.channels)} levels in model.channels) does not divide: "
                f"use data.image_size {8 * factor * max(1, round(size / (8 * factor)))}"
            )
        return self

    @model_validator(mode="after")
    def _rate_lasts(self) -> Self:
        optimizer, training = self.optimizer, self.training
        falls_to_zero = optimizer.schedule == "cosine" and optimizer.final_fraction == 0
        is_by_steps, end = not (training.epochs or training.minutes), optimizer.schedule_steps or training.steps
        if falls_to_zero and is_by_steps and end < training.steps:
            raise ValueError(
                f"optimizer.schedule_steps {end}: the learning rate would be 0 from there to training.steps "
                f"{training.steps}: use {training.steps} or more, or an optimizer.final_fraction above 0"
            )
        return self

    def shares(self) -> list[str]:
        """Return the dotted names of the settings in use that are shares of the schedule."""
        loss, seen = self.loss, self.loss.adversarial_weight > 0
        used = {
            "optimizer.schedule": self.optimizer.schedule == "cosine",
            "loss.kl_warmup": self.model.kind == "kl" and loss.kl_weight > 0 and loss.kl_warmup > 0,
            "loss.adversarial_start": seen and loss.adversarial_start > 0,
            "loss.adversarial_warmup": seen and loss.adversarial_warmup > 0,
        }
        return [name for name, is_used in used.items() if is_used]

    def flat(self) -> dict[str, Any]:
        """Return every field by its dotted name, e.g. `{"data.image_size": 64, ...}`, with JSON's types as values."""
        return {
            f"{section}.{field}": value
            for section, fields in self.model_dump(mode="json").items()
            for field, value in fields.items()
        }

    def named_paths(self, folder: Path) -> dict[str, Path]:
        """Return the absolute path, seen from a folder, of each setting that names one, by its dotted name.

        Each element of a list has its own name, such as `data.links_into.0`.
        """
        return {
            dotted: path
            for dotted, value, mark in self._settings_of_paths()
            if (path := mark.path(value, folder)) is not None
        }

    def relative_paths(self) -> dict[str, str]:
        """Return the value of each setting that names a relative path, by its dotted name."""
        return {dotted: value for dotted, value, mark in self._settings_of_paths() if mark.is_relative(value)}

    def _settings_of_paths(self) -> Iterator[tuple[str, str, NamesPath]]:
        """Yield name, value and mark of each setting that may name a path, and of each element of such a list."""
        for name, section in self:
            for field, info in type(section).model_fields.items():
                value = getattr(section, field)
                for mark in info.metadata:
                    if isinstance(mark, NamesPath) and value is not None:
                        elements = {f".{place}": text for place, text in enumerate(value)}
                        named = elements if isinstance(value, tuple) else {"": value}
                        yield from ((f"{name}.{field}{place}", text, mark) for place, text in named.items())

    def seen_from(self, folder: Path) -> Config:
        """Return the same configuration with every path absolute: it then means the same in any folder."""
        tree = self.model_dump(mode="json")
        for dotted, path in self.named_paths(folder).items():
            section, field, *place = dotted.split(".")
            if place:
                tree[section][field][int(place[0])] = str(path)
            else:
                tree[section][field] = str(path)
        return Config.model_validate(tree)

    def to_yaml(self) -> str:
        """Return the whole tree as YAML; `presets.load_config` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
