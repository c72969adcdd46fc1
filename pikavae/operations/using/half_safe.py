"""Make a copy of a model that stays finite in fp16: find the layers that are too large, and rescale weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.evaluation.measure.measurement import Sample
from pikavae.evaluation.metrics.similarity import psnr
from pikavae.evaluation.report.sections import HalfPrecision
from pikavae.evaluation.studies.peaks import LIMIT, Peaks, measure_peaks
from pikavae.evaluation.studies.precision import of_format
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32, prepare_for_use
from pikavae.model.sizes import CONFIG_NAME, RUN_CONFIG_NAME, WEIGHTS_NAME
from pikavae.model.tiling import TILES, pad
from pikavae.operations.resolving.resolve import ResolvedModel
from pikavae.operations.stages.describing import card_of
from pikavae.operations.stages.runtime import choose_device, use_threads
from pikavae.operations.using.exchange import EXPORTED_CARD, export_target
from pikavae.operations.using.exported_files import WRITTEN_SUFFIX
from pikavae.operations.using.picture_files import find_pictures
from pikavae.operations.using.picture_formats import form_of, read_picture
from pikavae.tracker.client import Workspace
from pikavae.weights.published import read_snapshot
from pikavae.weights.rescale import rescale
from pikavae.workspace.files import folder_atomically
from pikavae.workspace.records import read_object

HEADROOM = 4
"""How many times a layer's numbers may grow beyond those of the pictures given before they leave fp16."""
BOUND = 2.0**14
"""The peak that a layer may have: a power of two, and fp16's largest number by about `HEADROOM`."""
MOST_CHANGE = 2.0 / 255 / 8
"""The largest accepted difference of a float32 reconstruction, on [-1, 1]: an eighth of an 8-bit level."""
UPCAST = "force_upcast"
"""diffusers' field that makes pipelines in fp16 compute the autoencoder in float32."""


@dataclass(frozen=True)
class Layer:
    """Holds the largest magnitude of a layer's result before and after, and by how much the layer was divided.

    Attributes:
        name: its name in the model, which diffusers shares.
        before: over the pictures, in float32.
        after: the same of the rescaled model.
        scale: the largest scale of its channels, a power of two; 1 if it was not rescaled.
    """

    name: str
    before: float
    after: float
    scale: float


@dataclass(frozen=True)
class HalfSafe:
    """Holds what was found and done.

    Attributes:
        path: the folder that was written; None if no layer is too large and nothing was.
        layers: those that were too large or rescaled, in the order they are computed.
        peak: the largest magnitude anywhere, before and after.
        difference: the largest difference of the float32 reconstructions, on [-1, 1].
        psnr: how near they are, in dB, of the farthest picture.
        before, after: what fp16 costs each model; both are compared with the given model's float32 reconstructions.
    """

    path: Path | None
    layers: Sequence[Layer]
    peak: tuple[float, float]
    difference: float
    psnr: float
    before: HalfPrecision
    after: HalfPrecision

    @property
    def error(self) -> str:
        """Say how far the float32 reconstructions are from those of the given model."""
        if self.difference == 0.0:
            return "its float32 reconstructions are the same, bit for bit"
        return (
            f"its float32 reconstructions differ by at most {self.difference:.2g} on [-1, 1] "
            f"({self.difference / (2 / 255):.2g} of an 8-bit level), {self.psnr:.1f} dB at least"
        )


@torch.inference_mode()
def half_safe(
    workspace: Workspace, model: ResolvedModel, images: Sequence[Path], out: Path, config: Config
) -> HalfSafe:
    """Write a copy of a model whose layers stay `HEADROOM` times below fp16's largest number on the pictures given.

    Weights are divided and multiplied by powers of two so that the reconstructions remain the same up to GroupNorm's
    epsilon; `pikavae.weights.rescale` says where that is possible. Nothing is written if no layer is too large. Of a
    picture of more than a megapixel, the central square of one is used.

    Args:
        workspace: the state folder and its store.
        model: the model.
        images: picture files, or folders of them.
        out: a new or empty folder.
        config: the device and the number of threads.

    Raises:
        UserError: a file is no picture; the folder is not empty; the model is not finite in float32; or the copy is not
            to be used, which the message explains. Nothing was written.
    """
    if out.suffix.lower() == WRITTEN_SUFFIX:
        raise UserError(f"--out {out}: a folder is written; `pikavae export {out.stem} {out}` makes it one file")
    out = export_target(out, field="--out")
    form = form_of(model.folder)
    pictures = [read_picture(given.path, form) for given in find_pictures(images, arrays=not form.is_plain)]
    use_threads(config)
    device = choose_device(config)
    given = prepare_for_use(read_snapshot(model.folder), device)
    if given.config.kind == "tiny":
        raise UserError(
            f"half-safe {model.name}: a tiny autoencoder has no norms that would keep its pictures the same while "
            f"layers are rescaled; `pikavae evaluate` says whether fp16 may be used"
        )
    sample = _reconstruct(given, pictures, device)
    with exact_float32():
        peaks = measure_peaks(given, sample.images)
        if not all(bool(peak.isfinite().all()) for peak in peaks.values()):
            raise UserError(f"half-safe {model.name}: its numbers are not finite in float32 either; use other weights")
        copy, scales = rescale(given, peaks, BOUND)
        before = of_format(given, sample, torch.float16, peaks=peaks)
        after_peaks = measure_peaks(copy, sample.images) if scales else peaks
        after = of_format(copy, sample, torch.float16, peaks=after_peaks) if scales else before
        again = _reconstruct(copy, pictures, device) if scales else sample
    pairs = list(zip(again.reconstructions, sample.reconstructions, strict=True))
    found = HalfSafe(
        out if scales else None,
        _layers(peaks, after_peaks, scales),
        (_peak(peaks), _peak(after_peaks)),
        max((a - b).abs().max().item() for a, b in pairs),
        min(psnr(a, b).min().item() for a, b in pairs),
        before,
        after,
    )
    _check(model, found)
    if scales:
        _write(workspace, model, copy, out, found)
    return found


def _check(model: ResolvedModel, found: HalfSafe) -> None:
    """Refuse a copy that is not to be used.

    Raises:
        UserError: fp16 is not to be used with it, or its float32 reconstructions are others.
    """
    if not found.difference <= MOST_CHANGE:
        raise UserError(
            f"half-safe {model.name}: nothing written: {found.error}, because GroupNorm's epsilon weighs more in "
            f"rescaled maps of low contrast; use bf16, or float32"
        )
    if found.after.verdict == "fail":
        cannot = "; what an activation reads, and the latent itself, cannot be rescaled" if found.after.beyond else ""
        raise UserError(
            f"half-safe {model.name}: nothing written, no rescaling makes it fit for fp16: "
            f"{found.after.reason}{cannot}; use bf16, or float32"
        )


def _reconstruct(model: AutoencoderKL, pictures: Sequence[Tensor], device: torch.device) -> Sample:
    """Return pictures, cut to a size that the model takes whole, with their float32 reconstructions."""
    images, made = [], []
    for picture in pictures:
        image = pad(_centre(picture), model.config.downsampling_factor)
        images.append(image)
        made.append(model.decode(model.encode(image.to(device)).mode()).cpu())
    return Sample(images, made, device)


def _centre(picture: Tensor) -> Tensor:
    """Return a picture (1, 3, H, W); of one with more pixels than a tile, its centre of a tile's sides at most."""
    height, width = picture.shape[2:]
    if height * width <= TILES.size**2:
        return picture
    top, left = (max(0, side - TILES.size) // 2 for side in (height, width))
    return picture[:, :, top : top + TILES.size, left : left + TILES.size]


def _peak(peaks: Peaks) -> float:
    return max(peak.max().item() for peak in peaks.values())


def _layers(before: Peaks, after: Peaks, scales: Mapping[str, float]) -> list[Layer]:
    rows = [Layer(name, before[name].max().item(), after[name].max().item(), scales.get(name, 1.0)) for name in before]
    return [row for row in rows if row.scale != 1.0 or row.before > BOUND]


def _write(workspace: Workspace, model: ResolvedModel, copy: AutoencoderKL, out: Path, found: HalfSafe) -> None:
    """Write the copy as a folder that diffusers loads, with the given model's configuration and a card."""
    weights = {name: value.cpu().contiguous() for name, value in copy.state_dict().items()}
    sizes = read_object(model.folder / CONFIG_NAME)
    sizes |= {UPCAST: False} if UPCAST in sizes else {}
    card = card_of(workspace, model.folder, None, f"{model.title}, rescaled for fp16")
    with folder_atomically(out) as temporary:
        save_file(weights, temporary / WEIGHTS_NAME, metadata={"format": "pt"})
        (temporary / CONFIG_NAME).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
        if (model.folder / RUN_CONFIG_NAME).is_file():
            shutil.copyfile(model.folder / RUN_CONFIG_NAME, temporary / RUN_CONFIG_NAME)
        (temporary / EXPORTED_CARD).write_text(f"{card}\n{_section(found)}", encoding="utf-8")


def _section(found: HalfSafe) -> str:
    """Write the card's section on what was rescaled."""
    count = found.after.num_images
    rows = [f"| `{row.name}` | {row.before:.3g} | {row.after:.3g} | {row.scale:g} |" for row in found.layers]
    return "\n".join(
        [
            "## Half precision",
            "",
            f"Weights were rescaled by `pikavae half-safe`, so that numbers stay below fp16's {LIMIT:.0f}. On "
            f"{count} picture{'' if count == 1 else 's'}, {found.error}. Before: {found.before.reason}. After: "
            f"{found.after.reason}.",
            "",
            "| layer | largest number before | after | divided by |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )
