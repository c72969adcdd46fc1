"""Read weights that others published for pikavae's model: whole and checked name by name, or not at all.

It reads a diffusers model folder (or a pipeline's, with `vae` in it), a single file under diffusers' names, a single
file of latent-diffusion (the autoencoder alone, or a whole Stable Diffusion checkpoint), the tutorial's saved module or
state dict, and a tiny autoencoder in diffusers' form or in its author's two files. No code in a file is ever run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.sizes import (
    BY_CHANNEL,
    CONFIG_NAME,
    FACTORS,
    KINDS,
    POST_QUANT_CONV,
    RUN_CONFIG_NAME,
    SCALING,
    STABLE_DIFFUSION_SCALING_FACTOR,
    Factors,
    checked_padding,
    diffusers_config,
    model_config,
    refuse_other_sizes,
    scaling_in,
    sizes_of,
)
from pikavae.model.tiny import build_autoencoder
from pikavae.model.tiny_sizes import NO_SCALING as OF_TINY
from pikavae.model.tiny_sizes import short
from pikavae.weights.factors import StatedFactors, checked_factors, factors_of_metadata
from pikavae.weights.fitting import checked_weights, refuse_mismatch, sizes_of_shapes
from pikavae.weights.keymaps import Naming, naming_of
from pikavae.weights.parts import Part, choose_part, split_part
from pikavae.weights.tiny_files import both_halves, files_of_both, from_combined, is_half
from pikavae.weights.weight_files import metadata_of, parts_of, read_json, read_tensors, weights_in

NO_SCALING = (
    f"no scaling_factor is stated: diffusion tools assume {STABLE_DIFFUSION_SCALING_FACTOR}, Stable Diffusion 1's, "
    f"until `pikavae evaluate` measures it"
)
NO_SCALING_OF_16 = (
    "no scaling_factor is stated, and sizes cannot tell SD3 (scaling_factor 1.5305, shift_factor 0.0609) from FLUX.1 "
    "(0.3611, 0.1159): place the config.json of the family's vae folder beside the weights"
)
PREFIX = "pikavae."
GROUPS_KEY, PADDING_KEY = f"{PREFIX}norm_groups", f"{PREFIX}padding"
"""The keys that `pikavae export` writes to a file's metadata of safetensors, beside the factors of latents."""
FORMS: dict[Naming, str] = {
    "diffusers": "diffusers file",
    "LDM": "LDM single file",
    "tutorial": "tutorial file",
    "tiny": "tiny file",
}
PAIR_FORM = "two files of TAESD"
SNAPSHOT_FORM = "pikavae snapshot"
NEUTRAL = {"block_out_channels", "force_upcast", "use_quant_conv", POST_QUANT_CONV, *FACTORS}


@dataclass(frozen=True)
class Published:
    """Holds the weights of an autoencoder that was published.

    Attributes:
        config: the model's sizes.
        state: every weight under diffusers' name: float32, finite, on the CPU, in its own memory. The counter of a
            batch norm is int64.
        form: what was read: "diffusers folder", "diffusers file", "LDM single file", "tutorial file", "tiny file",
            "two files of TAESD" or "pikavae snapshot".
        scaling_factor: the factor of latents for a diffusion model; None if it is unknown.
        shift_factor: what is subtracted from latents before they are scaled; None if nothing is stated.
        latents_mean: what is subtracted from each channel; None if nothing is stated, and so for `latents_std`.
        latents_std: what each channel is divided by, besides the scaling.
        notes: a line for each thing that was assumed, converted or ignored.
        image_size: the side, in pixels, that it was trained at by its `config.json`; None if it is unknown.
    """

    config: ModelConfig
    state: dict[str, Tensor]
    form: str
    scaling_factor: float | None
    notes: tuple[str, ...]
    image_size: int | None = None
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None

    @property
    def scaling(self) -> Factors:
        """Return the stated factors of the latents in the form of a `config.json`."""
        return scaling_in(vars(self))


@dataclass(frozen=True)
class _Description:
    """Holds what a `config.json`, or a file of weights, states besides the weights."""

    config: ModelConfig
    factors: StatedFactors
    image_size: int | None = None
    notes: tuple[str, ...] = ()


def read_published(path: Path, *, expected: ModelConfig | None = None, norm_groups: int | None = None) -> Published:
    """Read a folder or a file of weights.

    Sizes come from its `config.json`, or else from the shapes. Shapes do not show the number of groups of GroupNorm:
    without a `config.json` it is `norm_groups`, or else `expected`'s, or 32.

    Args:
        path: a diffusers model folder or one with a `vae` folder inside, or a file.
        expected: the sizes that it must have.
        norm_groups: the number of groups of a file that does not say it.

    Raises:
        UserError: nothing is there, or it is damaged or of no known form; names are missing, unexpected or of another
            shape than the sizes make; a weight is not finite; the sizes differ from `expected`.
    """
    path, wanted = split_part(path)
    source, description = _locate(path)
    described = None if description is None else _read_config(description)
    tensors, notes = read_tensors(source)
    is_pair = is_half(tensors)
    tensors = both_halves(source, tensors) if is_pair else from_combined(tensors)
    metadata = metadata_of(source)
    groups = _norm_groups_of(metadata, source) or norm_groups or (32 if expected is None else expected.norm_groups)
    fits = partial(_fits, groups=groups, where=source)
    part = choose_part(tensors, wanted, source, fits)
    weights, naming = part.weights, naming_of(part.weights)
    if naming is None:
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise UserError(
            f"{source}: not an autoencoder of a known kind: expected diffusers', LDM's or the tutorial's names, "
            f"found {some}"
        )
    refuse_other_families(weights, source)
    form = PAIR_FORM if is_pair else FORMS[naming]
    if described is None:
        padding = checked_padding(metadata.get(PADDING_KEY, "zeros"), f"{source}: {PADDING_KEY}")
        sizes = sizes_of_shapes(weights, naming, groups, source).model_copy(update={"padding": padding})
        stated = {"scaling_factor": _ldm_scaling_factor(tensors)} | factors_of_metadata(metadata, PREFIX)
        described = _Description(sizes, _factors_of_kind(sizes, stated, source))
        if GROUPS_KEY not in metadata and sizes.kind == "kl":
            notes += [f"norm_groups {groups} is assumed: the file does not state it"]
    elif path.is_dir():
        if naming in ("diffusers", "tiny"):
            form = SNAPSHOT_FORM if (source.parent / RUN_CONFIG_NAME).is_file() else "diffusers folder"
        notes += [*described.notes, f"read from {source.relative_to(path)}"]
    else:
        notes += [*described.notes, f"sizes are those of {CONFIG_NAME} beside it"]
    config = described.config
    if described.factors.scaling_factor is None and not config.latent_norm:  # a tiny model always has one
        notes += [NO_SCALING_OF_16 if config.latent_channels == 16 and not config.quant_conv else NO_SCALING]
    state, converted = checked_weights(weights, naming, config, source)
    if expected is not None:
        refuse_other_sizes(config, sizes_of(expected), path)
    return Published(
        config,
        state,
        form,
        notes=(*notes, *part.notes, *converted),
        image_size=described.image_size,
        **vars(described.factors),
    )


def _factors_of_kind(sizes: ModelConfig, stated: Mapping[str, Any], where: Path) -> StatedFactors:
    """Return the factors of latents that were stated, as the kind of model has them.

    Raises:
        UserError: as `checked_factors`, or there are numbers by channel and this kind has none.
    """
    is_kl = sizes.kind == "kl" and not sizes.latent_norm
    for name in () if is_kl else BY_CHANNEL:
        if stated.get(name) not in (None, 0):
            raise UserError(
                f"{where}: {name} is {short(stated[name])}, and only a plain AutoencoderKL has it; remove it"
            )
    if sizes.latent_norm:
        return StatedFactors()
    factors = checked_factors(stated, sizes.latent_channels, where)
    if is_kl:
        return factors
    given = {name: value for name in SCALING if (value := getattr(factors, name)) is not None}
    return StatedFactors(**{**OF_TINY, **given})


def published_files(path: Path) -> list[Path]:
    """Return the files that `read_published` reads: `config.json` if there is one, and the weights with all parts.

    Raises:
        UserError: nothing is there, or it is of no known form.
    """
    source, description = _locate(split_part(path)[0])
    files = files_of_both(source) or [source, *parts_of(source)]
    return [*([] if description is None else [description]), *files]


def _refuse_checkpoint(path: Path) -> None:
    """Refuse a checkpoint: its weights have diffusers' names too, but its shortcuts may not be folded in yet."""
    folder = path if path.is_dir() else path.parent
    if (folder / "state.json").is_file() and (folder / "optimizer.pt").is_file():
        raise UserError(
            f"{path}: a checkpoint, which only its own run can resume from; name the run's snapshot instead"
        )


def _locate(path: Path) -> tuple[Path, Path | None]:
    """Return the file of weights, and the `config.json` that describes it."""
    _refuse_checkpoint(path)
    if not path.exists():
        raise UserError(f"{path}: not found; name a folder or a file of weights")
    if path.is_file():
        beside = path.parent / CONFIG_NAME
        return path, beside if _describes(beside, path) else None
    for folder in (path, path / "vae"):
        if (folder / CONFIG_NAME).is_file():
            return weights_in(folder), folder / CONFIG_NAME
    raise UserError(
        f"{path}: not a model folder: it has neither {CONFIG_NAME} nor vae/{CONFIG_NAME}; name the file of weights"
    )


def _describes(description: Path, weights: Path) -> bool:
    """Return True if a `config.json` beside a file of weights is an autoencoder's, by the file's name or content."""
    if not description.is_file():
        return False
    if weights.name.startswith("diffusion_pytorch_model"):
        return True
    try:
        return bool(read_json(description).get("_class_name") in KINDS)
    except UserError:  # that of something else
        return False


def _read_config(path: Path) -> _Description:
    """Return what a `config.json` states, with a note on unknown fields."""
    sizes = read_json(path)
    config = model_config(sizes, where=str(path))
    known = {*diffusers_config(config, 0), *(NEUTRAL - set(SCALING) if config.latent_norm else NEUTRAL)}
    strangers = sorted(key for key in sizes if key not in known and not key.startswith("_"))
    return _Description(
        config,
        _factors_of_kind(config, sizes, path),
        _picture_size(sizes.get("sample_size"), config),
        (f"unknown fields: {', '.join(strangers)}",) if strangers else (),
    )


def _picture_size(value: Any, config: ModelConfig) -> int | None:
    """Return the side in pixels; None for a value that no setting allows, since many folders have a wrong value."""
    usable = isinstance(value, int) and 8 <= value <= 4096 and value % config.size_step == 0
    return value if usable else None


def _ldm_scaling_factor(tensors: dict[str, Tensor]) -> float | None:
    """Return the factor that a diffusion model keeps beside its weights if it measured its latents' deviation."""
    factor = next((value for name, value in tensors.items() if f".{name}".endswith(".scale_factor")), None)
    if factor is None or factor.numel() != 1 or not factor.is_floating_point() or factor.is_meta:
        return None
    return float(factor) if math.isfinite(float(factor)) else None


def refuse_other_families(weights: Mapping[str, Tensor], where: Path) -> None:
    """Refuse an autoencoder of another kind, if its names show the kind.

    Raises:
        UserError: it has codes instead of a posterior.
    """
    if "quantize.embedding.weight" in weights:
        raise UserError(f"{where}: its latents are codes of a list (quantize.embedding); only AutoencoderKL is read")


def _norm_groups_of(metadata: Mapping[str, str], where: Path) -> int | None:
    stated = metadata.get(GROUPS_KEY)
    if stated is not None and not re.fullmatch(r"[1-9]\d{0,5}", stated):
        raise UserError(f"{where}: {GROUPS_KEY} is {short(stated)}; expected a whole number")
    return None if stated is None else int(stated)


def _fits(part: Part, *, groups: int, where: Path) -> bool:
    """Return True if a part of a file is a whole autoencoder."""
    naming = naming_of(part.weights)
    try:
        if naming is None:
            return False
        refuse_other_families(part.weights, where)
        refuse_mismatch(part.weights, naming, sizes_of_shapes(part.weights, naming, groups, where), where)
    except UserError:
        return False
    return True


def read_snapshot(folder: Path) -> AutoencoderKL:
    """Return the model of a snapshot or a diffusers folder, on the CPU, in float32 and evaluation mode.

    Raises:
        UserError: as `read_published`, which is the only reader of weights.
    """
    published = read_published(folder)
    with torch.device("meta"):
        model = build_autoencoder(published.config)
    model.load_state_dict(published.state, assign=True)
    return model.eval()
