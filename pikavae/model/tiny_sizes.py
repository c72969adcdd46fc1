"""Convert a tiny autoencoder's sizes from and to a `config.json` of diffusers' `AutoencoderTiny`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ..config import ModelConfig
from ..errors import UserError

TINY = "AutoencoderTiny"
MAX_BLOCKS = 64
WIDTHS = ("encoder_block_out_channels", "decoder_block_out_channels")
COUNTS = ("num_encoder_blocks", "num_decoder_blocks")
DEFAULTS: dict[str, list[int]] = {
    **dict.fromkeys(WIDTHS, [64] * 4),
    COUNTS[0]: [1, 3, 3, 3],
    COUNTS[1]: [3, 3, 3, 1],
}
"""The values that diffusers uses for fields missing from a `config.json`."""
FIXED: dict[str, Any] = {
    "act_fn": "relu",
    "upsampling_scaling_factor": 2,
    "upsample_fn": "nearest",
}
MID_BLOCK_NORM = "mid_block_norm"
"""The field of a `config.json` for `model.mid_block_norm`; diffusers does not read it."""
NO_SCALING = {"scaling_factor": 1.0, "shift_factor": 0.0}
"""The factors of its latents, which a diffusion model gets as they are."""


def of_tiny(config: ModelConfig) -> dict[str, Any]:
    """Return the content of `config.json` for `from_pretrained` of diffusers' `AutoencoderTiny`.

    `latent_magnitude` and `latent_shift` only describe latents that are stored as 8-bit pictures.
    """
    encoder, widths = blocks_of(config), list(config.channels)
    fields = {
        "_class_name": TINY,
        "_diffusers_version": "0.30.0",
        **FIXED,
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        **dict.fromkeys(WIDTHS, widths),
        COUNTS[0]: encoder,
        COUNTS[1]: encoder[::-1],
        "force_upcast": False,
        "latent_channels": config.latent_channels,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        **({MID_BLOCK_NORM: True} if config.mid_block_norm else {}),
        **NO_SCALING,
    }
    return dict(sorted(fields.items()))


def blocks_of(config: ModelConfig) -> list[int]:
    """Return the residual blocks of each level of the encoder, from the full resolution down."""
    return [1, *[config.num_res_blocks] * (len(config.channels) - 1)]


def tiny_config(sizes: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Return the sizes of a `config.json` of an `AutoencoderTiny`; missing fields have diffusers' defaults.

    Raises:
        UserError: it describes another model; the message names the field.
    """
    for key, value in FIXED.items():
        if sizes.get(key, value) != value:
            raise UserError(f"{where}: {key} is {short(sizes[key])}; pikavae reads models with {value!r} only")
    lists = {key: sizes.get(key, default) for key, default in DEFAULTS.items()}
    for key, value in lists.items():
        if not isinstance(value, list) or not value or not all(type(number) is int for number in value):
            raise UserError(f"{where}: {key} is {short(value)}; expected a list of whole numbers")
        if len(value) != len(lists[WIDTHS[0]]):
            raise UserError(f"{where}: {key} is {short(value)}; expected as many numbers as {WIDTHS[0]} has")
        if key in COUNTS and not all(1 <= number <= MAX_BLOCKS for number in value):
            raise UserError(f"{where}: {key} is {short(value)}; expected numbers from 1 to {MAX_BLOCKS}")
        if key in WIDTHS and set(value) != {lists[WIDTHS[0]][0]}:
            raise UserError(f"{where}: {key} is {short(value)}; expected one number throughout, as this kind has")
    if type(latent := sizes.get("latent_channels", 4)) is not int:
        raise UserError(f"{where}: latent_channels is {short(latent)}; expected a whole number")
    if type(norm := sizes.get(MID_BLOCK_NORM, False)) is not bool:
        raise UserError(f"{where}: {MID_BLOCK_NORM} is {short(norm)}; expected true or false")
    images = image_channels_of(sizes, where)
    widths, blocks = lists[WIDTHS[0]], lists[COUNTS[0]]
    try:
        config = ModelConfig(
            kind="tiny",
            channels=tuple(widths),
            num_res_blocks=blocks[-1],
            latent_channels=latent,
            image_channels=images,
            mid_block_norm=norm,
        )
    except ValidationError as error:
        raise UserError(f"{where}: {_complaint_of(error)}") from None
    for key, expected in zip(COUNTS, (blocks_of(config), blocks_of(config)[::-1]), strict=True):
        if lists[key] != expected:
            raise UserError(
                f"{where}: {key} is {short(lists[key])}; pikavae reads models with {expected}, one block at the full "
                f"resolution and one number of blocks elsewhere"
            )
    return config


def image_channels_of(sizes: Mapping[str, Any], where: str) -> int:
    """Return how many channels the pictures of a `config.json` have, which it states twice; 3 if it does not.

    Raises:
        UserError: the two differ, or are no whole number.
    """
    before, after = (sizes.get(key, 3) for key in ("in_channels", "out_channels"))
    if type(before) is not int or before != after:
        raise UserError(
            f"{where}: in_channels is {short(before)} and out_channels is {short(after)}; expected one whole "
            f"number, the channels of a picture"
        )
    return before


def _complaint_of(error: ValidationError) -> str:
    """Describe the first mistake in sizes, with diffusers' name of the field."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return short(first["msg"].removeprefix("Value error, "), as_it_is=True)
    name = {"channels": WIDTHS[0]}.get(str(first["loc"][0]), str(first["loc"][0]))
    message = str(first["msg"])
    return f"{name} has {short(first['input'])}: {message[:1].lower()}{message[1:]}"


def short(value: object, *, as_it_is: bool = False) -> str:
    """Return a value from a file as one short line."""
    return " ".join((str(value) if as_it_is else repr(value)).split())[:160]
