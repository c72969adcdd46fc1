"""Export a model as files for other programs than diffusers: one file, or two of a tiny autoencoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from pikavae.config import Config, ModelConfig
from pikavae.errors import DamagedFileError, UserError
from pikavae.model.sizes import CONFIG_NAME, PADDING, STABLE_DIFFUSION_SCALING_FACTOR, Factors, in_digits, sizes_of
from pikavae.model.tiny_sizes import MID_BLOCK_NORM
from pikavae.operations.resolving.resolve import ResolvedModel
from pikavae.operations.resolving.scaling import scaling_of
from pikavae.operations.stages.describing import has_the_latents_of_others, newest_report
from pikavae.tracker.client import Workspace
from pikavae.weights.keymaps import export_ldm
from pikavae.weights.published import GROUPS_KEY, PADDING_KEY, PREFIX, Published, read_published
from pikavae.weights.tiny_files import DECODER, ENCODER, in_halves, other_half
from pikavae.workspace.files import write_atomically
from pikavae.workspace.records import read_object

WRITTEN_SUFFIX = ".safetensors"


def export_file(workspace: Workspace, model: ResolvedModel, out: Path, config: Config) -> Path:
    """Write a model as a file under LDM's names, or a tiny one as two files under its author's, and return `out`.

    Args:
        workspace: the state folder and its store.
        model: from `model_to_export`.
        out: a new file; of a tiny one, that of either half.
        config: batch size, device and threads, if the scaling must be measured.

    Raises:
        UserError: it cannot be written, or is no name for a tiny model's half; nothing was written.
        DamagedFileError: what was read back differs.
    """
    source = model.folder
    published = read_published(source)
    if published.config.kind == "tiny":
        return _export_halves(published, source, out)
    tensors = {name: value.contiguous() for name, value in export_ldm(published.state).items()}
    metadata = {"format": "pt", GROUPS_KEY: str(published.config.norm_groups)}
    metadata |= {} if published.config.padding == "zeros" else {PADDING_KEY: published.config.padding}
    factors = _scaling(workspace, source, published, config)
    metadata |= {f"{PREFIX}{name}": json.dumps(value) for name, value in factors.items()}
    _write_file(out, tensors, metadata)
    _verify_written(published, source, out)
    return out


def _export_halves(published: Published, source: Path, out: Path) -> Path:
    """Write a tiny autoencoder as two files, the encoder's first; return the named one, which must be a half's."""
    other = other_half(out)
    if other is None:
        raise UserError(
            f"export {str(out)!r}: a tiny autoencoder is written as two files, as programs for previews take it; name "
            f"{out.stem}_decoder{WRITTEN_SUFFIX}, or a new folder for diffusers"
        )
    if other.exists():
        raise UserError(f"export {str(out)!r}: the file of its other half, {other.name}, is there; name new files")
    halves = in_halves(published.state)
    encoder, decoder = sorted((out, other), key=lambda file: file.stem.endswith(DECODER))
    _write_file(encoder, halves[ENCODER], {"format": "pt"})
    try:
        _write_file(decoder, halves[DECODER], {"format": "pt"})
    except UserError:
        encoder.unlink()
        raise
    _verify_written(published, source, out)
    return out


def _write_file(out: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        write_atomically(out, save(tensors, metadata))
    except OSError as error:
        raise UserError(f"export {str(out)!r}: cannot be written ({error.strerror}); name another file") from None


def _verify_written(published: Published, source: Path, out: Path) -> None:
    """Read back what was written, and compare it bit for bit."""
    again = read_published(out)
    if _as_stated(again) != _as_stated(published) or not all(
        torch.equal(again.state[name], value) for name, value in published.state.items()
    ):
        raise DamagedFileError(f"{out}: what was written differs from {source}; check the disk")


def _as_stated(published: Published) -> tuple[object, ...]:
    """Return what a file of weights must say again when it is read."""
    return sizes_of(published.config), published.config.padding


def _scaling(workspace: Workspace, source: Path, published: Published, config: Config) -> Factors:
    """Return the factors of a model's latents by diffusers' names, published or measured; none if neither is known."""
    if has_the_latents_of_others(source):
        return published.scaling
    scaling = scaling_of(workspace, source, newest_report(workspace, source), config)
    return {} if scaling is None else {**scaling.factors}


def tools_note(path: Path) -> str:
    """Explain how to use an exported folder or file in other tools, in a line or two."""
    if path.is_dir():
        sizes = read_object(path / CONFIG_NAME)
        alone = PADDING not in sizes and MID_BLOCK_NORM not in sizes
        how = "" if alone else ", and the lines in its README.md: this class alone spoils pictures"
        return f"diffusers: {sizes['_class_name']}.from_pretrained({str(path)!r}){how}"
    published = read_published(path)
    padding = published.config.padding
    if published.config.kind == "tiny":
        other = other_half(path)
        return (
            f"with {'' if other is None else other.name}; ComfyUI: put both into its folder models/vae_approx\n"
            f"its previews take the decoder by name: taesd_decoder for a diffusion model of Stable Diffusion 1's kind, "
            f"taesdxl_decoder for SDXL's, taesd3_decoder and taef1_decoder for SD3's and FLUX.1's; all of "
            f"--model.like taesd, the latter two with 16 latent channels; and taef2_decoder for FLUX.2's, of "
            f"--model.like taef2"
        )
    if padding != "zeros":
        return (
            f"its convolutions pad by {padding}, and programs that load such files pad by zeros, which spoils borders\n"
            f"use it in pikavae, or export a folder: its README.md has a loader for diffusers"
        )
    sizes, factor = sizes_of(published.config), published.scaling_factor
    if sizes == sizes_of(ModelConfig()) | {"latent_channels": 16, "quant_conv": False}:
        lines = ["under LDM's names, with the sizes of SD3's and FLUX.1's autoencoders; tools that load those"]
        lines += ["take scaling and shift of the latents from the diffusion model, not from this file"]
        stated = ", ".join(f"{name} {in_digits(value, 5)}" for name, value in published.scaling.items())
        return "\n".join([*lines, *([f"this model's are {stated}"] if stated else [])])
    if published.config.latent_norm:
        return (
            "under the names of FLUX.2's ae.safetensors, with the statistics that normalise its latents\n"
            "ComfyUI: put it into its folder models/vae; tools from before FLUX.2, such as A1111, do not load it"
        )
    lines = ["ComfyUI and A1111: put it into their folder models/vae or models/VAE"]
    if sizes != sizes_of(ModelConfig()):
        lines = [
            "under LDM's names; ComfyUI and A1111 load files of Stable Diffusion 1's sizes alone, and these are others"
        ]
    if factor is not None and factor != STABLE_DIFFUSION_SCALING_FACTOR:
        lines.append(f"they multiply latents by {STABLE_DIFFUSION_SCALING_FACTOR}; this model's factor is {factor:.5g}")
    return "\n".join(lines)
