"""Build optimizers, set the learning rate along the run, and update the moving average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pikavae.config import Config, OptimizerConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.training.muon import Muon, move_towards


def build_optimizer(model: AutoencoderKL, config: OptimizerConfig) -> Optimizer:
    """Build AdamW over all trained weights, or Muon over the hidden ones with NAdamW for the rest.

    Each group carries its peak rate as `peak_lr`; `set_learning_rate` scales it along the run.
    """
    if config.name == "adamw":
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return AdamW(
            [{"params": trained, "peak_lr": config.learning_rate}],
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return _build_muon(model, config)


def _build_muon(model: AutoencoderKL, config: OptimizerConfig) -> Optimizer:
    hidden, rest = split_for_muon(model)
    return Muon(
        [
            {"params": hidden, "lr": config.learning_rate, "peak_lr": config.learning_rate},
            {
                "params": rest,
                "lr": config.fallback_learning_rate,
                "peak_lr": config.fallback_learning_rate,
                "use_fallback": True,
            },
        ],
        momentum=config.momentum,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def take_step(optimizer: Optimizer, found_inf: Tensor | None) -> None:
    """Update the weights and drop their gradients; change nothing if `found_inf`, a float32 scalar, is 1.

    The device decides: fused optimizers and Muon take the flag as `torch.amp.GradScaler` gives it to them.
    """
    if found_inf is not None:
        optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # as torch's own scaler sets it
    optimizer.step()
    if found_inf is not None:
        del optimizer.found_inf  # type: ignore[attr-defined]
    optimizer.zero_grad(set_to_none=True)


def load_moments(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load the state of an optimizer, also of a run on another device or by an earlier version.

    Moments get the memory layout of their weights: fused optimizers read both as they lie in memory.
    """
    fused = [group.get("fused") for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, ours in zip(optimizer.param_groups, fused, strict=True):
        if "fused" in group:  # Muon has no such choice
            group["fused"] = ours
    for parameter, state in optimizer.state.items():
        state.pop("use_muon", None)  # timm's, which follows from the group and the shape
        for name, value in state.items():
            if name == "step":
                state[name] = value.to(parameter.device, torch.float32)
            elif value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def split_for_muon(model: AutoencoderKL) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the hidden weights, which Muon orthogonalises, and the rest, which AdamW updates.

    The rest is everything one-dimensional, the 1x1 convolutions, and the convolutions at both picture ends.
    """
    ends = set(model.ends)
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in filter(lambda weight: weight.requires_grad, model.parameters()):
        pointwise = parameter.ndim == 4 and parameter.shape[2:] == (1, 1)
        is_hidden = parameter.ndim >= 2 and not pointwise and parameter not in ends
        (hidden if is_hidden else rest).append(parameter)
    return hidden, rest


def learning_rate_factor(config: OptimizerConfig, step: int, progress: float) -> float:
    """Return the share of the peak rate for optimizer step `step` (from 0), at the share `progress` of the schedule.

    It is a linear rise over `warmup_steps`, times 1 (constant) or final + (1 - final) * (1 + cos(pi * progress)) / 2
    (cosine; Loshchilov and Hutter 2017, arXiv:1608.03983).
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return rise
    fall = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return rise * (config.final_fraction + (1.0 - config.final_fraction) * fall)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set every group's learning rate to `factor` times its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def total_steps(config: Config, num_images: int) -> int:
    """Return the optimizer steps of the whole run: `training.steps`, or those of `training.epochs` passes if set."""
    training = config.training
    if training.epochs is None:
        return training.steps
    return math.ceil(training.epochs * num_images / (training.batch_size * training.accumulation))


def schedule_end(config: Config, num_images: int) -> int | None:
    """Return the step at which rates and phases end; None if they end by the clock."""
    by_the_clock = config.training.minutes is not None
    return config.optimizer.schedule_steps or (None if by_the_clock else total_steps(config, num_images))


@torch.no_grad()
def update_ema(
    average: list[Tensor], weights: list[Tensor], decay: float, step: int, found_inf: Tensor | None = None
) -> None:
    """Move each `average` towards its weight: average = d * average + (1 - d) * weights; not if `found_inf` is 1.

    d = min(decay, (1 + step) / (10 + step)): the first weights soon lose their influence.
    """
    move_towards(average, weights, 1.0 - min(decay, (1 + step) / (10 + step)), found_inf)
