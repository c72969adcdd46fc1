"""Convert an autoencoder's sizes from and to a `config.json` of diffusers, and check them before use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from ..config import ModelConfig
from ..errors import OtherSizesError, UserError
from .padding import Padding

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
RUN_CONFIG_NAME = "pikavae.yaml"
STABLE_DIFFUSION_SCALING_FACTOR = 0.18215
SCALING = ("scaling_factor", "shift_factor")
"""The fields of a `config.json` for the latents: a diffusion model gets `(latent - shift_factor) * scaling_factor`."""

SIZES = ("channels", "num_res_blocks", "latent_channels", "norm_groups", "mid_attention", "quant_conv")
THEIR_NAMES = {
    "channels": "block_out_channels",
    "num_res_blocks": "layers_per_block",
    "latent_channels": "latent_channels",
    "norm_groups": "norm_num_groups",
    "mid_attention": "mid_block_add_attention",
    "quant_conv": "use_quant_conv",
}
"""The name of each size in diffusers."""
POST_QUANT_CONV = "use_post_quant_conv"
"""diffusers' field for the convolution after the latent, which pikavae has if it has the one before the latent."""
PADDING = "padding_mode"
"""The field for what convolutions read beyond a border, in PyTorch's words; diffusers does not know it."""
THEIR_DEFAULTS: dict[str, Any] = {
    "channels": [64],
    "num_res_blocks": 1,
    "latent_channels": 4,
    "norm_groups": 32,
    "mid_attention": True,
    "quant_conv": True,
}
"""The values that diffusers uses for fields missing from a `config.json`."""
FIXED: dict[str, Any] = {"_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


def sizes_of(config: ModelConfig) -> dict[str, Any]:
    """Return the fields of section `model` that weights must fit, by name; the others concern only training."""
    return {name: getattr(config, name) for name in SIZES}


def refuse_other_sizes(config: ModelConfig, required: Mapping[str, Any], where: object) -> None:
    """Refuse weights of other sizes than required.

    Args:
        config: the sizes of the weights.
        required: the required sizes, fields of section `model` by name.
        where: the place that the message names.

    Raises:
        OtherSizesError: some sizes differ; the message lists them.
    """
    differing = {
        name: (getattr(config, name), value) for name, value in required.items() if getattr(config, name) != value
    }
    if differing:
        listed = ", ".join(f"{name} {theirs} instead of {value}" for name, (theirs, value) in differing.items())
        raise OtherSizesError(f"{where}: other sizes than section model: {listed}", differing)


def scaling_in(sizes: Mapping[str, Any]) -> dict[str, float]:
    """Return what a `config.json` states about the latents that a diffusion model gets, by diffusers' names."""
    return {name: sizes[name] for name in SCALING if sizes.get(name) is not None}


def diffusers_config(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """Return the content of `config.json` for diffusers' `AutoencoderKL.from_pretrained`."""
    levels = len(config.channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.30.0",
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "force_upcast": True,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_res_blocks,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_groups,
        "out_channels": 3,
        "sample_size": image_size,
        "scaling_factor": STABLE_DIFFUSION_SCALING_FACTOR,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **({} if config.quant_conv else {POST_QUANT_CONV: False, THEIR_NAMES["quant_conv"]: False}),
        **({} if config.padding == "zeros" else {PADDING: config.padding}),
    }


def model_config(sizes: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Return the sizes of a `config.json`; missing fields have diffusers' defaults.

    Raises:
        UserError: it describes a model of another kind; the message names the field.
    """
    for key, value in FIXED.items():
        if sizes.get(key, value) != value:
            raise UserError(f"{where}: {key} is {short(sizes[key])}; pikavae reads models with {value!r} only")
    given = {name: sizes.get(key, THEIR_DEFAULTS[name]) for name, key in THEIR_NAMES.items()}
    for name, value in given.items():
        _refuse_other_kind(name, value, where)
    if (after := sizes.get(POST_QUANT_CONV, True)) is not given["quant_conv"]:
        raise UserError(
            f"{where}: use_quant_conv is {given['quant_conv']} and {POST_QUANT_CONV} is {short(after)}; pikavae reads "
            f"models with both convolutions or with neither"
        )
    padding = checked_padding(sizes.get(PADDING, "zeros"), f"{where}: {PADDING}")
    for key, default in BLOCKS.items():
        types, channels = sizes.get(key, [default]), given["channels"]
        if not isinstance(types, list) or len(types) != len(channels):
            raise UserError(
                f"{where}: {key} is {short(types)}; expected one for each of block_out_channels {short(channels)}"
            )
        if unknown := [kind for kind in types if kind != default]:
            raise UserError(f"{where}: {key} has {short(unknown[0])}; only {default} is read")
    try:
        return ModelConfig(**{**given, "channels": tuple(given["channels"]), "padding": padding})
    except ValidationError as error:
        raise UserError(f"{where}: {complaint_of(error)}") from None


def _refuse_other_kind(name: str, value: Any, where: str) -> None:
    """Refuse values that pydantic would convert to a size: text, true and false, floats such as 4.0."""
    kind: type = int
    expected = "a whole number"
    numbers = [value]
    if name == "channels":
        numbers, expected = value if isinstance(value, list) else [None], "a list of whole numbers"
    elif name in ("mid_attention", "quant_conv"):
        kind, expected = bool, "true or false"
    if not all(type(number) is kind for number in numbers):
        raise UserError(f"{where}: {THEIR_NAMES[name]} is {short(value)}; expected {expected}")


def checked_padding(value: object, where: str) -> Padding:
    """Return what a file states about padding.

    Raises:
        UserError: it is no padding that pikavae knows.
    """
    for known in get_args(Padding):
        if value == known:
            padding: Padding = known
            return padding
    raise UserError(f"{where} is {short(value)}; expected one of {', '.join(get_args(Padding))}")


def complaint_of(error: ValidationError) -> str:
    """Describe the first mistake in sizes, with diffusers' name of the field."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return short(first["msg"].removeprefix("Value error, "), as_it_is=True)
    message = str(first["msg"])
    name = THEIR_NAMES[str(first["loc"][0])]
    return f"{name} has {short(first['input'])}: {message[:1].lower()}{message[1:]}"


def short(value: object, *, as_it_is: bool = False) -> str:
    """Return a value from a file as one short line."""
    return " ".join((str(value) if as_it_is else repr(value)).split())[:160]
