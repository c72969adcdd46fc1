"""Weights that others published, as this project's model takes them: whole and checked name by name, or not at all.

Read are a diffusers model folder (or a pipeline's, with `vae` in it), a single file under diffusers' names, a single
file of latent-diffusion (the autoencoder alone, or a whole Stable Diffusion checkpoint), and what the tutorial saves,
its module or its state dict. No code in a file is ever run.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import ModelConfig
from ..errors import UserError
from .autoencoder import AutoencoderKL
from .keymaps import Naming, canonical_name, encoder_blocks, is_attention_matrix, naming_of, their_names
from .snapshot import CONFIG_NAME, SETTINGS_NAME, WEIGHTS_NAME, diffusers_config, mismatch, model_config
from .weight_files import parts_of, read_json, read_tensors, weights_in

PREFIXES = ("first_stage_model.", "vae.")
LEFT_ASIDE = {"loss.": "names of the training loss", "model_ema.": "EMA copies"}
FORMS: dict[Naming, str] = {"diffusers": "diffusers file", "LDM": "LDM single file", "tutorial": "tutorial file"}
SNAPSHOT_FORM = "pikavae snapshot"
WIDTHS = r"\.(conv1|conv2|norm2|s\.2|s\.3|s\.5)\.(weight|bias)"
SIZES = ("channels", "num_res_blocks", "latent_channels", "norm_groups", "mid_attention")
SHIFTS = ("latents_mean", "latents_std", "shift_factor")
NEUTRAL = {"force_upcast", "scaling_factor", "use_quant_conv", "use_post_quant_conv", *SHIFTS}


@dataclass(frozen=True)
class Published:
    """Weights of somebody else's autoencoder.

    Attributes:
        config: the model's sizes.
        state: every weight under diffusers' name: float32, finite, on the CPU, in memory of its own.
        form: what was read: "diffusers folder", "diffusers file", "LDM single file", "tutorial file" or
            "pikavae snapshot".
        scaling_factor: what latents are multiplied by for a diffusion model; None where nothing tells it.
        notes: what was assumed, converted or left aside, a line each.
        image_size: the side, in pixels, that it was trained at, by its `config.json`; None where nothing tells it.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    form: str
    scaling_factor: float | None
    notes: tuple[str, ...]
    image_size: int | None = None


def read_published(path: Path, *, expected: ModelConfig | None = None, norm_groups: int | None = None) -> Published:
    """Read a folder or a file of weights.

    Sizes are those of its `config.json`, or else are told by the shapes. The number of groups of GroupNorm is in no
    weights file: without a `config.json` it is `norm_groups`, or else `expected`'s, or 32.

    Args:
        path: a diffusers model folder or one with a `vae` folder inside, or a file.
        expected: the sizes that it must have.
        norm_groups: the number of groups of a file that does not tell it.

    Raises:
        UserError: nothing is there, it is damaged or of no form that is known; names are missing, unexpected or of
            another shape than the sizes make; a weight is not finite; the sizes differ from `expected`.
    """
    source, description = _locate(path)
    tensors, notes = read_tensors(source)
    scaling_factor = _ldm_scaling_factor(tensors)
    weights, aside = _select(tensors)
    naming = naming_of(weights)
    if naming is None:
        some = ", ".join(sorted(weights or tensors)[:3]) or "nothing"
        raise UserError(
            f"{source}: no autoencoder that is known: expected diffusers', LDM's or the tutorial's names, found {some}"
        )
    form, image_size = FORMS[naming], None
    if description is not None and naming == "diffusers":
        config, scaling_factor, image_size, about = _described(description)
        notes += [*about, *([] if path.is_dir() else [f"sizes are those of {CONFIG_NAME} beside it"])]
        if path.is_dir():
            form = SNAPSHOT_FORM if (source.parent / SETTINGS_NAME).is_file() else "diffusers folder"
            notes += [f"read from {source.relative_to(path)}"]
    else:
        groups = norm_groups or (32 if expected is None else expected.norm_groups)
        config = _sizes_of_shapes(weights, naming, groups, source)
        notes += [f"norm_groups {groups} is assumed: the file does not tell it"]
    state, converted = _checked(weights, naming, config, source)
    if expected is not None:
        refuse_other_sizes(config, sizes_of(expected), path)
    return Published(config, state, form, scaling_factor, (*notes, *aside, *converted), image_size)


def published_files(path: Path) -> list[Path]:
    """The files that `read_published` reads: the `config.json`, if there is one, and the weights with all their parts.

    Raises:
        UserError: nothing is there, or it is of no form that is known.
    """
    source, description = _locate(path)
    return [*([] if description is None else [description]), source, *parts_of(source)]


def sizes_of(config: ModelConfig) -> dict[str, Any]:
    """The fields of section `model` that weights must fit, by name; the others concern only how it is trained."""
    return {name: getattr(config, name) for name in SIZES}


def refuse_other_sizes(config: ModelConfig, required: Mapping[str, Any], where: object) -> None:
    """Compare sizes.

    Args:
        config: the sizes of the weights.
        required: what they must be, fields of section `model` by name.
        where: what the message names.

    Raises:
        UserError: some differ; the message lists them.
    """
    differing = [
        f"{name} {getattr(config, name)} instead of {value}"
        for name, value in required.items()
        if getattr(config, name) != value
    ]
    if differing:
        raise UserError(f"{where}: other sizes than section model: {', '.join(differing)}")


def _refuse_checkpoint(path: Path) -> None:
    """A checkpoint's weights have diffusers' names too, but may lack the shortcuts that are not folded in yet."""
    folder = path if path.is_dir() else path.parent
    if (folder / "state.json").is_file() and (folder / "optimizer.pt").is_file():
        raise UserError(f"{path}: a checkpoint, for resuming its own run; name the run's snapshot instead")


def _locate(path: Path) -> tuple[Path, Path | None]:
    """The file of weights, and the `config.json` that describes it."""
    _refuse_checkpoint(path)
    if not path.exists():
        raise UserError(f"{path}: not found; name a folder or a file of weights")
    if path.is_file():
        beside = path.parent / CONFIG_NAME
        ours = path.name.startswith("diffusion_pytorch_model") and beside.is_file()
        return path, beside if ours else None
    for folder in (path, path / "vae"):
        if (folder / CONFIG_NAME).is_file():
            return weights_in(folder), folder / CONFIG_NAME
    raise UserError(
        f"{path}: no model folder, it has neither {CONFIG_NAME} nor vae/{CONFIG_NAME}; name the file of weights"
    )


def _described(path: Path) -> tuple[ModelConfig, float | None, int | None, list[str]]:
    """Sizes, scaling factor and picture size of a `config.json`, and a note on fields that nobody here knows."""
    sizes = read_json(path)
    is_used_as_it_is = all((path.parent / name).is_file() for name in (SETTINGS_NAME, WEIGHTS_NAME))
    for key in SHIFTS:
        if key == "shift_factor" and is_used_as_it_is:
            continue
        if sizes.get(key) not in (None, 0):
            raise UserError(
                f"{path}: {key} is {_short(sizes[key])}; only models whose latents are scaled, not shifted, are read"
            )
    channels = sizes.get("block_out_channels", [64])
    for key, default in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        types = sizes.get(key, [default])
        if not isinstance(channels, list) or not isinstance(types, list) or len(types) != len(channels):
            raise UserError(
                f"{path}: {key} is {_short(types)}; expected one for each of block_out_channels {_short(channels)}"
            )
        if unknown := [kind for kind in types if kind != default]:
            raise UserError(f"{path}: {key} has {_short(unknown[0])}; only {default} is read")
    try:
        config = model_config(sizes, where=str(path))
    except ValueError as error:
        raise UserError(f"{path}: {_short(error)}") from None
    known = {*diffusers_config(config, 0), *NEUTRAL}
    strangers = sorted(key for key in sizes if key not in known and not key.startswith("_"))
    return (
        config,
        _number(sizes.get("scaling_factor"), path),
        _picture_size(sizes.get("sample_size"), config),
        [f"fields not known here: {', '.join(strangers)}"] if strangers else [],
    )


def _number(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise UserError(f"{path}: scaling_factor is {_short(value)}; expected a number above 0")
    return float(value)


def _picture_size(value: Any, config: ModelConfig) -> int | None:
    """The side in pixels; None for what no setting could be, since many a folder's value was never looked at."""
    usable = isinstance(value, int) and 8 <= value <= 4096 and value % config.downsampling_factor == 0
    return value if usable else None


def _ldm_scaling_factor(tensors: dict[str, Tensor]) -> float | None:
    """A diffusion model that measured its latents' deviation keeps the factor beside its weights."""
    factor = tensors.get("scale_factor")
    if factor is None or factor.numel() != 1 or not factor.is_floating_point() or factor.is_meta:
        return None
    return float(factor) if math.isfinite(float(factor)) else None


def _select(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The autoencoder's tensors of a file, without the prefix that they have in a larger model."""
    prefix = next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in tensors)), "")
    weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    outside = len(tensors) - len(weights)
    notes = [f"{outside} names outside {prefix}* left aside"] if outside else []
    for start, what in LEFT_ASIDE.items():
        names = [name for name in weights if name.startswith(start)]
        notes += [f"{len(names)} {what} ({start}*) left aside"] if names else []
        weights = {name: value for name, value in weights.items() if not name.startswith(start)}
    # Where a file has a weight under its old name and under the new one, the old stays, and is unexpected.
    renamed = {name: canonical_name(name) for name in weights}
    return {name if renamed[name] in weights else renamed[name]: value for name, value in weights.items()}, notes


def _sizes_of_shapes(weights: dict[str, Tensor], naming: Naming, groups: int, where: Path) -> ModelConfig:
    """The sizes that most shapes tell, so that a single odd one is named as odd and not taken for a size."""
    blocks = encoder_blocks(naming, weights)
    levels = max(blocks.values(), default=-1) + 1
    widths: list[list[int]] = [[] for _ in range(levels)]
    for name, value in weights.items():
        match = re.fullmatch(rf"(.+?){WIDTHS}", name)
        if match and match[1] in blocks and value.ndim:
            widths[blocks[match[1]]].append(value.shape[0])
    latent = [
        weights[name].shape[axis]
        for name, axis in _latent_axes(naming)
        if name in weights and weights[name].ndim > axis
    ]
    if not levels or not all(widths) or not latent:
        raise UserError(
            f"{where}: too few weights of an autoencoder's encoder and latent to tell its sizes; download it again"
        )
    attention = any(re.search(r"\.(attentions\.0|attn_1)\.|\.\d+\.q\.", name) for name in weights)
    try:
        return ModelConfig(
            channels=tuple(_most(level) for level in widths),
            num_res_blocks=_most(Counter(blocks.values()).values()),
            latent_channels=_most(latent),
            norm_groups=groups,
            mid_attention=attention,
        )
    except ValueError as error:
        raise UserError(f"{where}: {_short(error)}; put a {CONFIG_NAME} beside it, or set section model") from None


def _latent_axes(naming: Naming) -> list[tuple[str, int]]:
    """Weights, and the axis of each that is as long as the latent has channels."""
    before, conv_in = ("decoder.0", "decoder.1") if naming == "tutorial" else ("post_quant_conv", "decoder.conv_in")
    return [(f"{before}.weight", 0), (f"{before}.weight", 1), (f"{before}.bias", 0), (f"{conv_in}.weight", 1)]


def _most(values: Iterable[int]) -> int:
    return Counter(values).most_common(1)[0][0]


def _checked(
    weights: dict[str, Tensor], naming: Naming, config: ModelConfig, where: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of the model that `config` makes, under diffusers' names; complaints are in the file's own names."""
    with torch.device("meta"):
        model = AutoencoderKL(config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    theirs = their_names(naming, config, shapes)
    matrices = {theirs[name] for name in shapes if is_attention_matrix(name)}
    weights = {name: _matrix(value) if name in matrices else value for name, value in weights.items()}
    if complaint := mismatch({theirs[name]: shape for name, shape in shapes.items()}, weights):
        raise UserError(
            f"{where}: nothing loaded, it does not fit a model of channels {config.channels}, {config.num_res_blocks} "
            f"residual blocks a level and {config.latent_channels} latent channels: {complaint}"
        )
    state = {name: _float32(theirs[name], weights[theirs[name]], where) for name in shapes}
    formats = Counter(str(weights[theirs[name]].dtype).removeprefix("torch.") for name in shapes)
    del formats["float32"]
    return state, [f"{count} weights converted from {name} to float32" for name, count in formats.items()]


def _matrix(value: Tensor) -> Tensor:
    """An attention matrix (C, C) that the file has as a 1x1 convolution (C, C, 1, 1) or (C, C, 1)."""
    return value.flatten(1) if value.ndim > 2 and set(value.shape[2:]) == {1} else value


def _float32(name: str, value: Tensor, where: Path) -> Tensor:
    stored = value.layout == torch.strided and not value.is_meta and not value.is_quantized
    if not stored or not value.is_floating_point() or value.untyped_storage().nbytes() < value.nbytes:
        raise UserError(
            f"{where}: {name} is no dense floating-point tensor ({value.dtype}, {value.layout}); nothing loaded"
        )
    copy = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(copy).all()):
        raise UserError(
            f"{where}: {name} holds NaN or infinite numbers; nothing loaded, use another copy of the weights"
        )
    return copy


def _short(value: object) -> str:
    """A value from a file, or what pydantic says of one, on one short line."""
    errors = getattr(value, "errors", None)
    text = "; ".join(str(error["msg"]) for error in errors()) if callable(errors) else repr(value)
    return " ".join(text.split())[:160]
