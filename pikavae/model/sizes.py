"""Convert an autoencoder's sizes from and to a `config.json` of diffusers, and check them before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from ..config import FAMILIES, NOT_IN_TINY, ModelConfig
from ..errors import OtherSizesError, UserError
from .latent_norm import EPS, MOMENTUM, PATCH
from .padding import Padding
from .tiny_sizes import TINY, image_channels_of, of_tiny, short, tiny_config

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
RUN_CONFIG_NAME = "pikavae.yaml"
STABLE_DIFFUSION_SCALING_FACTOR = 0.18215
SCALING = ("scaling_factor", "shift_factor")
"""The fields of a `config.json` for the latents: a diffusion model gets `(latent - shift_factor) * scaling_factor`."""
BY_CHANNEL = ("latents_mean", "latents_std")
"""The same by channel: it gets `(latent - latents_mean) * scaling_factor / latents_std`."""
FACTORS = (*SCALING, *BY_CHANNEL)
Factors = Mapping[str, float | list[float]]
"""What a file states about its latents, by the names of `FACTORS`."""

SIZES = (
    "kind",
    "channels",
    "num_res_blocks",
    "latent_channels",
    "image_channels",
    "norm_groups",
    "mid_attention",
    "quant_conv",
    "mid_block_norm",
    "latent_norm",
    "decoder_channels",
)
THEIR_NAMES = {
    "channels": "block_out_channels",
    "num_res_blocks": "layers_per_block",
    "latent_channels": "latent_channels",
    "norm_groups": "norm_num_groups",
    "mid_attention": "mid_block_add_attention",
    "quant_conv": "use_quant_conv",
    "decoder_channels": "decoder_block_out_channels",
}
"""The name of each size in diffusers, where `_class_name` says `latent_norm`."""
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
    "decoder_channels": None,
}
"""The values that diffusers uses for fields missing from a `config.json`."""
KL, KL_OF_FLUX2 = "AutoencoderKL", "AutoencoderKLFlux2"
KINDS = (KL, KL_OF_FLUX2, TINY)
NAMES_OF_KINDS = {"kl": f"an {KL}", "tiny": f"a tiny autoencoder ({TINY})"}
"""diffusers' classes of the models that are read: without and with `latent_norm`, and of kind `tiny`."""
FIXED: dict[str, Any] = {"act_fn": "silu"}
OF_FLUX2: dict[str, Any] = {
    "batch_norm_eps": EPS,
    "batch_norm_momentum": MOMENTUM,
    "patch_size": [PATCH, PATCH],
}
"""The fields of a `config.json` for `latent_norm`. The momentum concerns training alone, where pikavae has its own."""
THEIR_DEFAULTS_OF_FLUX2 = THEIR_DEFAULTS | {
    "channels": [128, 256, 512, 512],
    "num_res_blocks": 2,
    "latent_channels": 32,
}
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
    absent = NOT_IN_TINY if config.kind == "tiny" else ()
    differing = {
        name: (getattr(config, name), value)
        for name, value in required.items()
        if getattr(config, name) != value and name not in absent
    }
    if "image_channels" in differing:
        theirs, wanted = differing["image_channels"]
        raise OtherSizesError(
            f"{where}: reads and makes pictures of {theirs} channel{'' if theirs == 1 else 's'}, and data.channels "
            f"asks for {wanted}: name a model for such pictures, or set data.channels to its own",
            {"image_channels": differing["image_channels"]},
        )
    if "kind" in differing:
        theirs, wanted = differing["kind"]
        raise OtherSizesError(
            f"{where}: {NAMES_OF_KINDS[theirs]}, and model.kind {wanted} asks for {NAMES_OF_KINDS[wanted]}: name such "
            f"a model, or take this one; set {' '.join(flags_for(config, required))}",
            {"kind": differing["kind"]},
        )
    if differing:
        listed = ", ".join(f"{name} {theirs} instead of {value}" for name, (theirs, value) in differing.items())
        remedy = f"set {' '.join(flags_for(config, required))}"
        raise OtherSizesError(f"{where}: other sizes than section model: {listed}; {remedy}", differing)


def flags_for(config: ModelConfig, required: Mapping[str, Any]) -> list[str]:
    """Return the flags with which section `model` has the sizes of `config` in place of the required ones."""
    sizes = sizes_of(config)
    if families := [name for name, family in FAMILIES.items() if sizes == {**family, "image_channels": 3}]:
        return [f"--model.like {families[-1]}"]
    absent = NOT_IN_TINY if config.kind == "tiny" else ()
    return [
        f"--model.{name.replace('_', '-')} {_words(sizes[name])}"
        for name, value in required.items()
        if sizes[name] != value and name not in absent
    ]


def _words(value: Any) -> str:
    """Return a size as a flag takes it: `true`, `16`, `8 16`, `none`."""
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value).lower()


def is_normalised(sizes: Mapping[str, Any]) -> bool:
    """Return True for the `config.json` of a model with `latent_norm`, which scales its latents by that alone."""
    return bool(sizes.get("_class_name") == KL_OF_FLUX2)


def scaling_in(sizes: Mapping[str, Any]) -> Factors:
    """Return what a `config.json` states about the latents that a diffusion model gets, by diffusers' names."""
    stated = {name: sizes[name] for name in FACTORS if sizes.get(name) is not None}
    return {name: list(value) if name in BY_CHANNEL else value for name, value in stated.items()}


def in_digits(factor: float | Sequence[float], digits: int) -> str:
    """Return a factor of latents for a person: `0.18215`, or `[0.1, 0.2]` by channel."""
    if isinstance(factor, Sequence):
        return f"[{', '.join(in_digits(number, digits) for number in factor)}]"
    return f"{factor:.{digits}g}"


def diffusers_config(config: ModelConfig, image_size: int) -> dict[str, Any]:
    """Return the content of `config.json` for `from_pretrained` of diffusers' class, one of `KINDS`."""
    if config.kind == "tiny":
        return of_tiny(config)
    levels = len(config.channels)
    own: dict[str, Any] = {"force_upcast": True, "scaling_factor": STABLE_DIFFUSION_SCALING_FACTOR}
    if config.latent_norm:
        own = {THEIR_NAMES["decoder_channels"]: config.decoder_channels and [*config.decoder_channels], **OF_FLUX2}
    fields = {
        "_class_name": KL_OF_FLUX2 if config.latent_norm else KL,
        "_diffusers_version": "0.36.0" if config.latent_norm else "0.30.0",
        "act_fn": "silu",
        "block_out_channels": list(config.channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_res_blocks,
        "mid_block_add_attention": config.mid_attention,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.image_channels,
        "sample_size": image_size,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **({} if config.quant_conv else {POST_QUANT_CONV: False, THEIR_NAMES["quant_conv"]: False}),
        **({} if config.padding == "zeros" else {PADDING: config.padding}),
        **own,
    }
    return dict(sorted(fields.items()))


def model_config(sizes: Mapping[str, Any], *, where: str) -> ModelConfig:
    """Return the sizes of a `config.json`; missing fields have diffusers' defaults.

    Raises:
        UserError: it describes a model of another kind; the message names the field.
    """
    kind = sizes.get("_class_name", KL)
    if kind not in KINDS:
        raise UserError(f"{where}: _class_name is {short(kind)}; expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if kind == TINY:
        return tiny_config(sizes, where=where)
    is_flux2 = kind == KL_OF_FLUX2
    for key, value in (FIXED | OF_FLUX2 if is_flux2 else FIXED).items():
        if sizes.get(key, value) != value and key != "batch_norm_momentum":
            raise UserError(f"{where}: {key} is {short(sizes[key])}; pikavae reads models with {value!r} only")
    defaults = THEIR_DEFAULTS_OF_FLUX2 if is_flux2 else THEIR_DEFAULTS
    given = {name: sizes.get(key, defaults[name]) for name, key in THEIR_NAMES.items()}
    if not is_flux2 or given["decoder_channels"] in ([], given["channels"]):
        given["decoder_channels"] = None  # as diffusers takes it
    for name, value in given.items():
        _refuse_other_kind(name, value, where)
    if (after := sizes.get(POST_QUANT_CONV, True)) is not given["quant_conv"]:
        raise UserError(
            f"{where}: use_quant_conv is {given['quant_conv']} and {POST_QUANT_CONV} is {short(after)}; pikavae reads "
            f"models with both convolutions or with neither"
        )
    images = image_channels_of(sizes, where)
    padding = checked_padding(sizes.get(PADDING, "zeros"), f"{where}: {PADDING}")
    for key, default in BLOCKS.items():
        channels = given["channels"]
        types = sizes.get(key, [default] * 4 if is_flux2 else [default])
        if not isinstance(types, list) or len(types) != len(channels):
            raise UserError(
                f"{where}: {key} is {short(types)}; expected one for each of block_out_channels {short(channels)}"
            )
        if unknown := [kind for kind in types if kind != default]:
            raise UserError(f"{where}: {key} has {short(unknown[0])}; only {default} is read")
    try:
        own = {"latent_norm": is_flux2, "padding": padding, "image_channels": images}
        return ModelConfig(**{**given, **own, "channels": tuple(given["channels"])})
    except ValidationError as error:
        raise UserError(f"{where}: {complaint_of(error)}") from None


def _refuse_other_kind(name: str, value: Any, where: str) -> None:
    """Refuse values that pydantic would convert to a size: text, true and false, floats such as 4.0."""
    kind: type = int
    expected = "a whole number"
    numbers = [value]
    if name == "decoder_channels" and value is None:
        return
    if name in ("channels", "decoder_channels"):
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
    name = {**THEIR_NAMES, "image_channels": "in_channels"}[str(first["loc"][0])]
    return f"{name} has {short(first['input'])}: {message[:1].lower()}{message[1:]}"
