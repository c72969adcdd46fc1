"""Map names of weights to those of LDM's single files, of the tutorial's `nn.Sequential` and of older diffusers.

Every function maps diffusers' names, which pikavae uses, to the others; sizes decide which names there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal

from torch import Tensor

from pikavae.config import ModelConfig

Naming = Literal["diffusers", "LDM", "tutorial", "tiny"]

_LDM_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_TUTORIAL_ATTENTION = {**_LDM_ATTENTION, "to_out.0": "out"}
_TUTORIAL_RESNET = {"norm1": "s.0", "conv1": "s.2", "norm2": "s.3", "conv2": "s.5", "conv_shortcut": "res"}
_ATTENTION_WORDS = {  # names in files of either naming, by diffusers' present name
    "group_norm": ("norm", "group_norm"),
    "to_q": ("q", "query", "to_q"),
    "to_k": ("k", "key", "to_k"),
    "to_v": ("v", "value", "to_v"),
    "to_out.0": ("proj_out", "proj_attn", "out", "to_out", "to_out.0"),
}
_LDM_PARTS = (
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
)


TINY_LAYER = r"layers\.\d+\.(?:(?:conv|pool)\.\d+\.)?(?:weight|bias)$"
"""The end of each name of a tiny autoencoder. Transformers have other layers."""


def naming_of(names: Collection[str]) -> Naming | None:
    """Return the naming of these names, found by the encoder's; None if they are of no known autoencoder."""
    signs: dict[Naming, str] = {
        "diffusers": r"encoder\.(down_blocks|mid_block)\.",
        "LDM": r"encoder\.(down|mid)\.",
        "tutorial": r"encoder\.\d+\.",
        "tiny": rf"encoder\.{TINY_LAYER}",
    }
    votes = {naming: sum(bool(re.match(sign, name)) for name in names) for naming, sign in signs.items()}
    best = max(votes, key=lambda naming: votes[naming])
    return best if votes[best] else None


_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module")
"""Parts that torch.compile, torch's parallel modules and checkpointing add to the names of what they wrap."""
_BEGINNING = re.compile(
    rf"(?P<prefix>(?:[^.]+\.)*?)encoder\.(?:(?:{'|'.join(_WRAPPERS)})\.)*"
    rf"(?:(?:down_blocks|mid_block|down|mid|\d+)\.|{TINY_LAYER})"
)


def prefixes_of(names: Iterable[str]) -> list[str]:
    """Return the prefix of each autoencoder among `names`, such as `first_stage_model.`, `module.vae.` or none."""
    return list(dict.fromkeys(match["prefix"] for name in names if (match := _BEGINNING.match(name))))


def strip_wrappers(name: str) -> str:
    """Return a name without the parts that torch's wrappers add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def their_names(naming: Naming, config: ModelConfig, names: Iterable[str]) -> dict[str, str]:
    """Return the names that a file of this naming has for diffusers' `names`: diffusers' name to theirs."""
    if naming == "LDM":
        return {name: _ldm_name(name, len(config.channels)) for name in names}
    if naming == "tutorial":
        modules = tutorial_modules(config)
        return {name: f"{modules[module]}.{leaf}" for name in names for module, _, leaf in [name.rpartition(".")]}
    return {name: name for name in names}


def canonical_name(name: str) -> str:
    """Return a name as in `their_names`, also if the file has an older or newer word for it.

    That concerns attention blocks, and the convolutions around the latent, which FLUX.2's files name with the encoder
    and the decoder.
    """
    name = re.sub(r"^(?:encoder\.(?=quant_conv\.)|decoder\.(?=post_quant_conv\.))", "", name)
    match = re.fullmatch(r"(.*\.(?:(mid_block\.attentions\.0)|mid\.attn_1))\.(.+)\.(weight|bias)", name)
    if match:
        for current, words in _ATTENTION_WORDS.items():
            if match[3] in words:
                return f"{match[1]}.{current if match[2] else _LDM_ATTENTION[current]}.{match[4]}"
    return name


def export_ldm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under LDM's names with attention as 1x1 convolutions, for Stable Diffusion's tools.

    Args:
        state: all weights of an autoencoder without training shortcuts, under diffusers' names.

    Returns:
        The same tensors as `encoder.down.0.block.0.conv1.weight` and so on; attention weights are views (C, C, 1, 1).
        With a batch norm of latents, the names are those of FLUX.2's `ae.safetensors`.
    """
    levels = len({name.split(".")[2] for name in state if name.startswith("encoder.down_blocks.")})
    is_flux2 = has_latent_norm(state)
    return {
        _flux2_name(_ldm_name(name, levels)) if is_flux2 else _ldm_name(name, levels): (
            value[:, :, None, None] if is_attention_matrix(name) else value
        )
        for name, value in state.items()
    }


def has_latent_norm(names: Iterable[str]) -> bool:
    """Return True if there are names of a batch norm of latents, as FLUX.2's autoencoder has it."""
    return any(name.startswith("bn.") for name in names)


def _flux2_name(name: str) -> str:
    """Return the name in FLUX.2's files, where the convolutions around the latent are the encoder's and decoder's."""
    return re.sub(r"^(post_)?quant_conv\.", lambda match: f"{'decoder' if match[1] else 'encoder'}.{match[0]}", name)


def is_attention_matrix(name: str) -> bool:
    """Return True if diffusers' `name` is a matrix of an attention block; elsewhere it may be a 1x1 convolution."""
    return ".attentions." in name and name.endswith(".weight") and ".group_norm." not in name


def _ldm_name(name: str, levels: int) -> str:
    # LDM counts the decoder's levels from the full resolution, diffusers from the latent's.
    name = re.sub(r"\.up_blocks\.(\d+)\.", lambda match: f".up.{levels - 1 - int(match[1])}.", name)
    for pattern, replacement in _LDM_PARTS:
        name = re.sub(pattern, replacement, name)
    before, attention, inner = name.partition(".mid_block.attentions.0.")
    if attention:
        module, _, leaf = inner.rpartition(".")
        return f"{before}.mid.attn_1.{_LDM_ATTENTION[module]}.{leaf}"
    return name


def tutorial_modules(config: ModelConfig) -> dict[str, str]:
    """Map diffusers' module names to those of the tutorial's two `nn.Sequential`, which number their parts in order."""
    mid = ["resnets.0", *(["attentions.0"] if config.mid_attention else []), "resnets.1"]
    levels = range(len(config.channels))
    encoder = ["encoder.conv_in"]
    for level in levels:
        encoder += [f"encoder.down_blocks.{level}.resnets.{i}" for i in range(config.num_res_blocks)]
        encoder += [f"encoder.down_blocks.{level}.downsamplers.0"] if level < levels[-1] else []
    encoder += [f"encoder.mid_block.{part}" for part in mid]
    encoder += ["encoder.conv_norm_out", "SiLU", "encoder.conv_out", "quant_conv"]

    decoder = ["post_quant_conv", "decoder.conv_in", "decoder.mid_block"]
    for level in levels:
        decoder += [f"decoder.up_blocks.{level}.resnets.{i}" for i in range(config.num_res_blocks + 1)]
        decoder += ["Upsample", f"decoder.up_blocks.{level}.upsamplers.0.conv"] if level < levels[-1] else []
    decoder += ["decoder.conv_norm_out", "SiLU", "decoder.conv_out"]

    places = {module: f"encoder.{number}" for number, module in enumerate(encoder)}
    places |= {module: f"decoder.{number}" for number, module in enumerate(decoder)}
    places |= {f"decoder.mid_block.{part}": f"{places['decoder.mid_block']}.{i}" for i, part in enumerate(mid)}
    return {theirs: ours for module, place in places.items() for theirs, ours in _tutorial_parts(module, place).items()}


def _tutorial_parts(module: str, place: str) -> dict[str, str]:
    if ".resnets." in module:
        return {f"{module}.{part}": f"{place}.{inner}" for part, inner in _TUTORIAL_RESNET.items()}
    if ".attentions." in module:
        return {f"{module}.{part}": f"{place}.{inner}" for part, inner in _TUTORIAL_ATTENTION.items()}
    if module.endswith(".downsamplers.0"):
        return {f"{module}.conv": f"{place}.1"}  # after a layer that pads
    return {} if module in ("SiLU", "Upsample", "decoder.mid_block") else {module: place}


def decoder_blocks(naming: Naming, names: Collection[str]) -> dict[str, int]:
    """Return what `encoder_blocks` does of the decoder, in diffusers' or LDM's names."""
    words = r"decoder\.(?:up_blocks\.(\d+)\.resnets|up\.(\d+)\.block)\.\d+"
    found = {match[0]: int(match[1] or match[2]) for name in names if (match := re.match(words, name))}
    last = max(found.values(), default=0)
    return {name: last - level for name, level in found.items()} if naming == "diffusers" else found


def encoder_blocks(naming: Naming, names: Collection[str]) -> dict[str, int]:
    """Return the encoder's residual blocks outside the bottleneck: module name in the file to resolution level."""
    if naming != "tutorial":
        words = (
            r"encoder\.down_blocks\.(\d+)\.resnets\.\d+"
            if naming == "diffusers"
            else r"encoder\.down\.(\d+)\.block\.\d+"
        )
        return {match[0]: int(match[1]) for name in names if (match := re.match(words, name))}
    places = [re.match(r"encoder\.(\d+)\.(s|1)\.", name) for name in names]
    halvings = sorted({int(place[1]) for place in places if place and place[2] == "1"})
    blocks = sorted({int(place[1]) for place in places if place and place[2] == "s"})[:-2]
    return {f"encoder.{number}": sum(number > halving for halving in halvings) for number in blocks}
