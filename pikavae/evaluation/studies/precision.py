"""Measures what half precision costs a model: the same pictures in bf16 and fp16, against float32.

Weights and pictures are cast to the format, as in `from_pretrained(..., torch_dtype=...)` and a pipeline of diffusers.
Autocast would be milder: it keeps norms in float32. fp16 ends at 65504; beyond it activations become infinite and
pictures black.

A GPU computes in the format itself. Elsewhere every operation runs in float32 and its result is rounded to the format,
like the kernels of a GPU, which add up in float32. A CPU's own fp16 is up to sixty times slower, and its results
depend on the processor's instructions.

For fp16, the layers that go beyond its range are found by their numbers in float32; `pikavae half-safe` rescales them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pikavae.evaluation.measure.measurement import MOST_STUDIED, Measured, Sample
from pikavae.evaluation.metrics.similarity import psnr
from pikavae.evaluation.report.sections import HalfPrecision, finite
from pikavae.evaluation.studies.peaks import Peaks, beyond, describe, largest, measure_peaks
from pikavae.model.autoencoder import AutoencoderKL

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
MAX_LOSS = 0.5
"""The most dB of the mean PSNR against the originals that a format may cost."""
MIN_AGREEMENT = 30.0
"""The least dB of every picture against its float32 reconstruction: 30 is an RMS error of 8 of 255 levels."""
PROTOCOL = {
    "half_precision": f"weights and pictures cast to bf16 and fp16; at most {MOST_STUDIED} pictures, half of them the "
    f"first, half the worst; fails where a number is not finite, where the mean PSNR loses over {MAX_LOSS:g} dB, or "
    f"where a picture is under {MIN_AGREEMENT:g} dB from its float32 reconstruction; for fp16 also the largest "
    f"magnitude of each layer's result in float32",
}


class Rounding(TorchFunctionMode):
    """Rounds every operation's float32 result to a shorter format; a number beyond its range becomes infinite."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run the operation and round its result; torch calls this in place of every operation."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            return result.to(self.dtype).float()
        return result


def study_precision(model: AutoencoderKL, sample: Sample) -> Measured:
    """Compute field `precision` of a report: the result of `of_format` for each format."""
    found = {name: of_format(model, sample, dtype) for name, dtype in FORMATS.items()}
    return Measured(precision=found, protocol=PROTOCOL)


def of_format(model: AutoencoderKL, sample: Sample, dtype: torch.dtype, *, peaks: Peaks | None = None) -> HalfPrecision:
    """Measure a sample in a half format.

    Args:
        model: in float32; it remains unchanged.
        sample: pictures and their float32 reconstructions.
        dtype: torch.bfloat16 or torch.float16.
        peaks: those of the model's layers on the sample, if they were measured before; only fp16 needs them.
    """
    native = sample.device.type == "cuda"
    latents, pictures = _reconstruct(model, sample, dtype, native=native)
    numbers = _numbers(sample, pictures)
    shares = {"latents_non_finite": _non_finite(latents), "pictures_non_finite": _non_finite(pictures)}
    if dtype == torch.float16 and peaks is None:
        peaks = measure_peaks(model, sample.images)
    peak_layer, peak = largest(peaks or {})
    layers = beyond(peaks or {})
    failures, tried = _failures({**numbers, **shares}), f"(on the {_count_pictures(len(pictures))} tried)"
    passed = f"{_in_words(numbers, dtype)} {tried}; every picture at least {numbers['psnr_to_float32_min']:.1f} dB "
    passed += "from its float32 reconstruction"
    reason = f"{'; '.join(failures)} {tried}" if failures else passed
    return HalfPrecision(
        num_images=len(pictures),
        native=native,
        **{name: finite(value) for name, value in numbers.items()},
        latents_non_finite=shares["latents_non_finite"],
        pictures_non_finite=shares["pictures_non_finite"],
        peak=finite(peak),
        peak_layer=peak_layer,
        beyond={name: finite(value) for name, value in layers.items()},
        verdict="fail" if failures else "pass",
        reason="; ".join(part for part in (reason, describe(layers)) if part),
    )


def _numbers(sample: Sample, pictures: Sequence[Tensor]) -> dict[str, float]:
    """Compare pictures, made in a half format, with the originals and with their float32 reconstructions."""
    float32 = [x.clamp(-1.0, 1.0) for x in sample.reconstructions]
    pairs = list(zip(pictures, float32, strict=True))
    own = torch.cat([psnr(made, image) for made, image in zip(pictures, sample.images, strict=True)])
    before = torch.cat([psnr(x, image) for x, image in zip(float32, sample.images, strict=True)])
    agreement = torch.cat([psnr(made, x) for made, x in pairs])
    furthest = torch.stack([(made.clamp(-1.0, 1.0) - x).abs().max() for made, x in pairs]).max()
    return {
        "psnr": own.mean().item(),
        "psnr_min": own.min().item(),
        "psnr_in_float32": before.mean().item(),
        "psnr_to_float32": agreement.mean().item(),
        "psnr_to_float32_min": agreement.min().item(),
        "max_difference": furthest.item(),
    }


def _in_words(numbers: Mapping[str, float], dtype: torch.dtype) -> str:
    """Describe the PSNR of the pictures tried and their PSNR in float32."""
    name = next(name for name, known in FORMATS.items() if known == dtype)
    own, before = (f"{numbers[key]:.2f} dB" for key in ("psnr", "psnr_in_float32"))
    return f"{own} in {name}, {'the same as in float32' if own == before else f'{before} in float32'}"


def _count_pictures(number: int) -> str:
    return "one picture" if number == 1 else f"{number} pictures"


def _reconstruct(
    model: AutoencoderKL, sample: Sample, dtype: torch.dtype, *, native: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute modes and reconstructions of the sample in a format, and return them as float32 on the CPU."""
    compute = dtype if native else torch.float32
    cast = deepcopy(model).to(dtype).to(compute).eval()
    latents, pictures = [], []
    for images in sample.images:
        with nullcontext() if native else Rounding(dtype):
            latent = cast.encode(images.to(sample.device).to(dtype).to(compute)).mode()
            picture = cast.decode(latent.to(compute))
        latents.append(latent.float().cpu())
        pictures.append(picture.float().cpu())
    return latents, pictures


def _failures(numbers: Mapping[str, float]) -> list[str]:
    latents, pictures = numbers["latents_non_finite"], numbers["pictures_non_finite"]
    if latents or pictures:
        return [f"{latents:.2%} of the latents' numbers and {pictures:.2%} of the pictures' are not finite"]
    if not math.isfinite(numbers["psnr_in_float32"]):
        return ["the float32 reconstructions have numbers that are not finite"]
    found = []
    loss = numbers["psnr_in_float32"] - numbers["psnr"]
    if loss > MAX_LOSS:
        found.append(f"loses {loss:.2f} dB of {numbers['psnr_in_float32']:.2f} dB PSNR, over {MAX_LOSS:g} dB")
    if numbers["psnr_to_float32_min"] < MIN_AGREEMENT:
        nearest = f"{numbers['psnr_to_float32_min']:.1f} dB"
        found.append(f"a picture is {nearest} from its float32 reconstruction, under {MIN_AGREEMENT:g} dB")
    return found


def _non_finite(tensors: Iterable[Tensor]) -> float:
    """Return the share of NaN and infinite numbers."""
    flat = torch.cat([x.flatten() for x in tensors])
    return (~flat.isfinite()).double().mean().item()
