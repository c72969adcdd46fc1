"""Read and write tiny autoencoders as their author names them: two files, or ComfyUI's one with both.

The encoder's file has names such as `1.conv.0.weight`. Numbers in the decoder's are one higher than diffusers', because
the clamp of the latents counts as a layer there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.weights.weight_files import read_tensors

ENCODER, DECODER = "encoder", "decoder"
FIRST = {ENCODER: 0, DECODER: 1}
"""The number of each half's first convolution in its own file."""
NUMBERED = re.compile(r"(\d+)\.((?:(?:conv|pool)\.\d+\.)?(?:weight|bias))")
HALF = re.compile(r"(.*)(encoder|decoder)", re.DOTALL)
COMBINED = re.compile(r"taesd_(encoder|decoder)\.(.+)")
SCALES = {"vae_scale", "vae_shift"}
"""What ComfyUI keeps in a file with both: the scaling of the larger model's latents."""


def is_half(names: Collection[str]) -> bool:
    """Return True for the names of an encoder or a decoder in a file of its own."""
    return bool(names) and all(map(NUMBERED.fullmatch, names))


def other_half(path: Path) -> Path | None:
    """Return the file of the other half: `a_encoder.pth` for `a_decoder.pth`; None if the name is of no half."""
    if not (named := HALF.fullmatch(path.stem)):
        return None
    return path.with_name(f"{named[1]}{DECODER if named[2] == ENCODER else ENCODER}{path.suffix}")


def files_of_both(path: Path) -> list[Path]:
    """Return the files of both halves if a path is that of one, the encoder's first; else none.

    Raises:
        UserError: a file cannot be read.
    """
    other = other_half(path)
    if other is None or not other.is_file() or not is_half(read_tensors(path)[0]):
        return []
    return sorted((path, other), key=lambda file: file.stem.endswith(DECODER))


def both_halves(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of both halves under diffusers' names, given the file of one and its tensors.

    Raises:
        UserError: the other half is not beside it, or is no such file.
    """
    half, other = _half_of(tensors), other_half(path)
    missing = DECODER if half == ENCODER else ENCODER
    if other is None or not other.is_file():
        wanted = f"taesd_{missing}{path.suffix}" if other is None else other.name
        raise UserError(
            f"{path}: the {half} of a tiny autoencoder alone; place the file of its {missing} beside it, as {wanted}"
            + (f", and name this one taesd_{half}{path.suffix}" if other is None else "")
        )
    theirs, _ = read_tensors(other)
    if not is_half(theirs) or _half_of(theirs) != missing:
        raise UserError(f"{other}: not the {missing} of the tiny autoencoder whose {half} is {path.name}")
    return {**_renamed(half, tensors), **_renamed(missing, theirs)}


def from_combined(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of ComfyUI's file of both halves under diffusers' names; all others as they are."""
    if not any(map(COMBINED.fullmatch, tensors)):
        return dict(tensors)
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in SCALES:
            continue
        if (named := COMBINED.fullmatch(name)) and NUMBERED.fullmatch(named[2]):
            found |= _renamed(named[1], {named[2]: value})
        else:
            found[name] = value
    return found


def in_halves(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the weights of encoder and decoder under their author's names, given diffusers'."""
    halves: dict[str, dict[str, Tensor]] = {ENCODER: {}, DECODER: {}}
    for name, value in state.items():
        half, _, rest = name.partition(".layers.")
        number, _, leaf = rest.partition(".")
        halves[half][f"{int(number) + FIRST[half]}.{leaf}"] = value.contiguous()
    return halves


def tiny_sizes_of_shapes(weights: Mapping[str, Tensor], where: Path) -> ModelConfig:
    """Return the sizes of a tiny autoencoder, given its weights under diffusers' names.

    Raises:
        UserError: there are too few weights to find the sizes, or no model has such sizes.
    """
    convs: dict[int, Tensor] = {}
    blocks: dict[int, Tensor] = {}
    for name, value in weights.items():
        if (named := re.fullmatch(r"encoder\.layers\.(\d+)\.(conv\.\d+\.)?weight", name)) and value.ndim == 4:
            (blocks if named[2] else convs)[int(named[1])] = value
    if len(convs) < 2 or not blocks:
        raise UserError(f"{where}: too few weights of a tiny encoder to infer its sizes; download it again")
    places = sorted(convs)
    counts = [sum(start < number < end for number in blocks) for start, end in pairwise(places)]
    width = Counter(value.shape[0] for value in blocks.values()).most_common(1)[0][0]
    each = Counter(counts[1:] or [1]).most_common(1)[0][0]
    try:
        return ModelConfig(
            kind="tiny",
            channels=(width,) * len(counts),
            num_res_blocks=max(1, each),
            latent_channels=convs[places[-1]].shape[0],
            image_channels=convs[places[0]].shape[1],
            mid_block_norm=any(re.match(r"encoder\.layers\.\d+\.pool\.", name) for name in weights),
        )
    except ValidationError as error:
        message = str(error.errors(include_url=False)[0]["msg"]).removeprefix("Value error, ")
        raise UserError(f"{where}: no tiny autoencoder has such sizes: {message}") from None


def _half_of(tensors: Mapping[str, Tensor]) -> str:
    return ENCODER if any(name.startswith("0.") for name in tensors) else DECODER


def _renamed(half: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a half under diffusers' names."""
    renamed = {}
    for name, value in tensors.items():
        number, _, leaf = name.partition(".")
        renamed[f"{half}.layers.{int(number) - FIRST[half]}.{leaf}"] = value
    return renamed
