"""Check that a file's weights fit a model: read sizes from their shapes; compare names, shapes and numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.sizes import CONFIG_NAME, KL_OF_FLUX2, complaint_of
from pikavae.model.tiny import build_autoencoder
from pikavae.weights.keymaps import (
    Naming,
    decoder_blocks,
    encoder_blocks,
    has_latent_norm,
    is_attention_matrix,
    their_names,
)
from pikavae.weights.tiny_files import tiny_sizes_of_shapes

BATCHES, VARIANCE = "bn.num_batches_tracked", "bn.running_var"
WIDTHS = r"\.(conv1|conv2|norm2|s\.2|s\.3|s\.5)\.(weight|bias)"


def sizes_of_shapes(weights: dict[str, Tensor], naming: Naming, groups: int, where: Path) -> ModelConfig:
    """Return the sizes that most shapes agree on: a single odd shape is then reported as odd, not taken for a size.

    Raises:
        UserError: there are too few weights to find the sizes, or no model has such sizes.
    """
    if naming == "tiny":
        return tiny_sizes_of_shapes(weights, where)
    blocks = encoder_blocks(naming, weights)
    widths, latent_norm = _widths(weights, blocks), has_latent_norm(weights)
    latent = [
        weights[name].shape[axis]
        for name, axis in _latent_axes(naming)
        if name in weights and weights[name].ndim > axis
    ]
    if not all(widths) or not widths or not latent:
        raise UserError(
            f"{where}: too few weights of an autoencoder's encoder and latent to infer its sizes; download it again"
        )
    attention = any(re.search(r"\.(attentions\.0|attn_1)\.|\.\d+\.q\.", name) for name in weights)
    channels = tuple(_most(level) for level in widths)
    of_decoder = tuple(map(_most, filter(None, _widths(weights, decoder_blocks(naming, weights)))))
    try:
        return ModelConfig(
            channels=channels,
            num_res_blocks=_most(Counter(blocks.values()).values()),
            latent_channels=_most(latent),
            image_channels=_image_channels(weights, naming),
            norm_groups=groups,
            mid_attention=attention,
            quant_conv=naming == "tutorial" or any(re.match(r"(post_)?quant_conv\.", name) for name in weights),
            latent_norm=latent_norm,
            decoder_channels=of_decoder if latent_norm and of_decoder not in ((), channels) else None,
        )
    except ValidationError as error:
        remedy = f"put a {CONFIG_NAME} beside it, or set section model"
        raise UserError(f"{where}: {complaint_of(error)}; {remedy}") from None


def _widths(weights: Mapping[str, Tensor], blocks: Mapping[str, int]) -> list[list[int]]:
    """Return the widths that the weights of residual blocks show, by the blocks' levels."""
    widths: list[list[int]] = [[] for _ in range(max(blocks.values(), default=-1) + 1)]
    for name, value in weights.items():
        match = re.fullmatch(rf"(.+?){WIDTHS}", name)
        if match and match[1] in blocks and value.ndim:
            widths[blocks[match[1]]].append(value.shape[0])
    return widths


def _latent_axes(naming: Naming) -> list[tuple[str, int]]:
    """Return weights and for each the axis whose length is the number of latent channels."""
    before, conv_in = ("decoder.0", "decoder.1") if naming == "tutorial" else ("post_quant_conv", "decoder.conv_in")
    return [(f"{before}.weight", 0), (f"{before}.weight", 1), (f"{before}.bias", 0), (f"{conv_in}.weight", 1)]


def _image_channels(weights: Mapping[str, Tensor], naming: Naming) -> int:
    """Return the channels of a picture, which the encoder's first convolution reads; 3 without one."""
    first = weights.get("encoder.0.weight" if naming == "tutorial" else "encoder.conv_in.weight")
    return 3 if first is None or first.ndim != 4 else first.shape[1]


def _most(values: Iterable[int]) -> int:
    return Counter(values).most_common(1)[0][0]


def refuse_mismatch(
    weights: dict[str, Tensor], naming: Naming, config: ModelConfig, where: Path
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the file's names by those of the model that `config` makes, and the weights with attention as matrices.

    Raises:
        UserError: weights are missing, unexpected or of another shape; the message uses the file's own names.
    """
    is_tiny = config.kind == "tiny"
    with torch.device("meta"):
        model = build_autoencoder(config)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    theirs = their_names(naming, config, shapes)
    matrices = {theirs[name] for name in shapes if is_attention_matrix(name)}
    weights = {name: _matrix(value) if name in matrices else value for name, value in weights.items()}
    if config.latent_norm:
        weights = {BATCHES: torch.tensor(0), **weights}
    if complaint := mismatch({theirs[name]: shape for name, shape in shapes.items()}, weights):
        raise UserError(
            f"{where}: nothing loaded, it does not fit a {'tiny ' if is_tiny else ''}model of channels "
            f"{config.channels}, {config.num_res_blocks} residual blocks a level and {config.latent_channels} latent "
            f"channels{'' if config.quant_conv or is_tiny else ' without quant_conv'}"
            f"{' with norms beside the latent' if config.mid_block_norm else ''}"
            f"{' with the batch norm of FLUX.2' if config.latent_norm else ''}: {complaint}"
        )
    return theirs, weights


def checked_weights(
    weights: dict[str, Tensor], naming: Naming, config: ModelConfig, where: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of the model that `config` makes under diffusers' names, and a line for each converted format.

    Raises:
        UserError: a name is missing, unexpected or of another shape, or a weight is not finite.
    """
    if config.latent_norm is not has_latent_norm(weights):
        raise UserError(
            f"{where}: has no statistics of latents (bn.running_mean, bn.running_var), which {KL_OF_FLUX2} keeps with "
            f"its weights; nothing loaded, use the whole file"
            if config.latent_norm
            else f"{where}: has the statistics of FLUX.2's latents (bn), and {CONFIG_NAME} describes a model without; "
            f"nothing loaded, its _class_name would be {KL_OF_FLUX2}"
        )
    counted = not config.latent_norm or BATCHES in weights
    theirs, weights = refuse_mismatch(weights, naming, config, where)
    state = {
        name: whole_number(own, weights[own], where) if name == BATCHES else dense_float32(own, weights[own], where)
        for name, own in theirs.items()
    }
    if config.latent_norm and bool((state[VARIANCE] < 0).any()):
        raise UserError(f"{where}: {VARIANCE} holds negative numbers; nothing loaded, use another copy of the weights")
    formats = Counter(str(weights[own].dtype).removeprefix("torch.") for own in theirs.values() if own != BATCHES)
    del formats["float32"]
    notes = [f"{count} weights converted from {name} to float32" for name, count in formats.items()]
    return state, [*notes, *([] if counted else [f"{BATCHES} is missing, 0 is assumed"])]


def _matrix(value: Tensor) -> Tensor:
    """Return an attention matrix (C, C), also if the file has a 1x1 convolution (C, C, 1, 1) or (C, C, 1)."""
    return value.flatten(1) if value.ndim > 2 and set(value.shape[2:]) == {1} else value


def dense_float32(name: str, value: Tensor, where: Path) -> Tensor:
    """Return a weight of a file as float32, in its own memory.

    Raises:
        UserError: it is not a dense tensor of floating-point numbers, or not all of them are finite.
    """
    stored = value.layout == torch.strided and not value.is_meta and not value.is_quantized
    if not stored or not value.is_floating_point() or value.untyped_storage().nbytes() < value.nbytes:
        raise UserError(
            f"{where}: {name} is not a dense floating-point tensor ({value.dtype}, {value.layout}); nothing loaded"
        )
    copy = value.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(copy).all()):
        raise UserError(
            f"{where}: {name} holds NaN or infinite numbers; nothing loaded, use another copy of the weights"
        )
    return copy


def whole_number(name: str, value: Tensor, where: Path) -> Tensor:
    """Return a counter of a file as int64, in its own memory; tools that convert weights may have stored a float.

    Raises:
        UserError: it is not a whole number from 0 on.
    """
    number = value.detach().double() if value.layout == torch.strided and not value.is_meta else torch.tensor(-1.0)
    if not bool(torch.isfinite(number)) or number < 0 or number != number.round():
        raise UserError(f"{where}: {name} is not a whole number from 0 on; nothing loaded")
    return number.long()


def mismatch(expected: Mapping[str, torch.Size], weights: Mapping[str, Tensor]) -> str | None:
    """Name what is missing, unexpected or of another shape; None if all fits."""
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    parts = [("missing", missing), ("unexpected", unexpected), ("other shapes", shapes)]
    return "; ".join(f"{len(names)} {what}: {', '.join(names[:3])}" for what, names in parts if names) or None
