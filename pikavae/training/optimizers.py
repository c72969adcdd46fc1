"""Optimizers, the learning rate's course, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from pikavae.config import Config, OptimizerConfig
from pikavae.model.autoencoder import AutoencoderKL


def build_optimizer(model: AutoencoderKL, config: OptimizerConfig) -> Optimizer:
    """AdamW over all weights that are trained, or Muon over the hidden ones with AdamW for the rest.

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
    """Muon (Jordan et al. 2024, github.com/KellerJordan/Muon) in timm's implementation, which flattens convolutions.

    The original's scaling of the rate and Nesterov momentum, not timm's defaults, which are another optimizer.
    """
    from timm.optim.muon import Muon

    hidden, rest = split_for_muon(model)
    optimizer: Optimizer = Muon(
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
        nesterov=True,
        adjust_lr_fn="original",
        weight_decay=config.weight_decay,
        betas=config.betas,
        eps=config.eps,
    )
    return optimizer


def split_for_muon(model: AutoencoderKL) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The hidden weights, which Muon orthogonalises, and the rest, which AdamW updates.

    The rest: everything one-dimensional, the 1x1 convolutions, and the convolutions at both picture ends.
    """
    ends = {model.encoder.conv_in.weight, model.decoder.conv_out.weight}
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for parameter in filter(lambda weight: weight.requires_grad, model.parameters()):
        pointwise = parameter.ndim == 4 and parameter.shape[2:] == (1, 1)
        is_hidden = parameter.ndim >= 2 and not pointwise and parameter not in ends
        (hidden if is_hidden else rest).append(parameter)
    return hidden, rest


def learning_rate_factor(config: OptimizerConfig, step: int, progress: float) -> float:
    """The share of the peak rate for the optimizer step number `step` (from 0), at `progress` in [0, 1] of the run.

    A linear rise over `warmup_steps`, times 1 (constant) or final + (1 - final) * (1 + cos(pi * progress)) / 2
    (cosine; Loshchilov and Hutter 2017, arXiv:1608.03983).
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return rise
    fall = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return rise * (config.final_fraction + (1.0 - config.final_fraction) * fall)


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Give every group `factor` of its peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def total_steps(config: Config, num_images: int) -> int:
    """Optimizer steps of the whole run: `training.steps`, or what `training.epochs` passes over the pictures take."""
    training = config.training
    if training.epochs is None:
        return training.steps
    return math.ceil(training.epochs * num_images / (training.batch_size * training.accumulation))


@torch.no_grad()
def update_ema(average: list[Tensor], weights: list[Tensor], decay: float, step: int) -> None:
    """Move `average` towards `weights`: average = d * average + (1 - d) * weights, each with its own.

    d = min(decay, (1 + step) / (10 + step)), so that the first weights are soon forgotten.
    """
    torch._foreach_lerp_(average, weights, 1.0 - min(decay, (1 + step) / (10 + step)))
