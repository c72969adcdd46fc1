"""Check what files state about the scaling of latents: one number for all channels, or one for each.

A diffusion model gets `(latent - shift_factor) * scaling_factor`, or by channel `(latent - latents_mean) *
scaling_factor / latents_std`: so do the pipelines of diffusers, which use mean and deviation only together.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pikavae.errors import UserError
from pikavae.model.sizes import BY_CHANNEL, FACTORS, SCALING
from pikavae.model.tiny_sizes import short

LARGEST = sys.float_info.max


@dataclass(frozen=True)
class StatedFactors:
    """Holds what a file states about its latents; None for what it does not state."""

    scaling_factor: float | None = None
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None


def checked_factors(stated: Mapping[str, Any], latent_channels: int, where: object) -> StatedFactors:
    """Return what a `config.json` or a file's metadata states about latents of so many channels.

    Raises:
        UserError: a number is not finite, or not above 0 where it must be; there is not one for each channel; a mean or
            a deviation is alone; or there are two shifts.
    """
    found: dict[str, Any] = {name: _one(stated.get(name), name, where) for name in SCALING}
    found |= {name: _each(stated.get(name), name, latent_channels, where) for name in BY_CHANNEL}
    for name, other in (BY_CHANNEL, BY_CHANNEL[::-1]):
        if found[name] is not None and found[other] is None:
            raise UserError(f"{where}: {name} without {other}, and diffusion pipelines use neither alone; state both")
    if found["latents_mean"] is not None and found["shift_factor"]:
        raise UserError(
            f"{where}: shift_factor is {found['shift_factor']:g} beside latents_mean, which is a shift too; remove one"
        )
    return StatedFactors(**found)


def factors_of_metadata(metadata: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return the factors that a file's metadata holds as texts, such as `0.18215` and `[0.1, 0.2]`, not yet checked."""
    found: dict[str, Any] = {}
    for name in FACTORS:
        if (text := metadata.get(f"{prefix}{name}")) is not None:
            found[name] = text
            with contextlib.suppress(ValueError):
                found[name] = json.loads(text) if name in BY_CHANNEL else float(text)
    return found


def _one(value: Any, name: str, where: object) -> float | None:
    """Return a scaling factor, which is above 0, or a shift factor, which is any finite number."""
    if value is None:
        return None
    is_scaling = name == "scaling_factor"
    if not _is_finite(value) or (is_scaling and value <= 0):
        expected = "a number above 0" if is_scaling else "a finite number"
        raise UserError(f"{where}: {name} is {short(value)}; expected {expected}")
    return float(value)


def _each(value: Any, name: str, latent_channels: int, where: object) -> tuple[float, ...] | None:
    """Return the number of each channel: deviations are above 0, means are any finite numbers."""
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != latent_channels:
        raise UserError(
            f"{where}: {name} is {short(value)}; expected a list of {latent_channels} numbers, one a latent channel"
        )
    is_std = name == "latents_std"
    for channel, number in enumerate(value):
        if not _is_finite(number) or (is_std and number <= 0):
            expected = "a number above 0" if is_std else "a finite number"
            raise UserError(f"{where}: {name}[{channel}] is {short(number)}; expected {expected}")
    return tuple(map(float, value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
