"""Names the published family whose sizes an autoencoder has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pikavae.config import FAMILIES, ModelConfig
from pikavae.model.sizes import SCALING, sizes_of

OWN = "own"
SCALING_OF: Mapping[str, tuple[float | None, float | None]] = {
    "sd1": (0.18215, None),
    "sdxl": (0.13025, None),
    "sd3": (1.5305, 0.0609),
    "flux1": (0.3611, 0.1159),
}
"""Scaling and shift factor in the `config.json` of families that share their sizes with another."""
OF_ANY_LATENT = {"taesd": {"latent_channels"}}
"""Sizes that differ inside a family: TAESD's author has one network for 4 and for 16 latent channels."""


def family_of(config: ModelConfig, scaling: Mapping[str, Any]) -> str:
    """Return the name of the family with these sizes, as `model.like` has them; `own` if there is none.

    Families of the same sizes are told apart by their factors; if they do not decide, all are named: `sd3 or flux1`.

    Args:
        config: the model's sizes.
        scaling: the factors of its latents by diffusers' names, as `scaling_in` returns them.
    """
    sizes = sizes_of(config)
    alike = [
        name
        for name, family in FAMILIES.items()
        if all(value == sizes[size] for size, value in family.items() if size not in OF_ANY_LATENT.get(name, ()))
    ]
    stated = tuple(scaling.get(name) for name in SCALING)
    decided = [name for name in alike if len(alike) > 1 and _is_of(stated, SCALING_OF[name])]
    return " or ".join(decided or alike) or OWN


def _is_of(stated: tuple[float | None, ...], factors: tuple[float | None, ...]) -> bool:
    """Return True if stated factors are those of a family; a shift of 0 is none."""
    return [one or None for one in stated] == [one or None for one in factors]
