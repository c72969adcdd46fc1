"""Whether a model can be used in half precision: the same pictures in bf16 and fp16, against float32.

Weights and pictures are cast to the format, as `from_pretrained(..., torch_dtype=...)` and a pipeline of diffusers do.
Autocast would be milder: it keeps norms in float32. fp16 ends at 65504, beyond which activations become infinite and
pictures black.

A GPU computes in the format itself. Elsewhere every operation is done in float32 and its result rounded to the format,
as the kernels of a GPU do, which add up in float32: a CPU's own fp16 is up to sixty times slower, and its results
depend on what the processor has instructions for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pikavae.evaluation.measurement import MOST_STUDIED, Findings, Sample
from pikavae.evaluation.metrics import psnr
from pikavae.model.autoencoder import AutoencoderKL

FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}
MAX_LOSS = 0.5
"""dB of the mean PSNR against the originals that a format may cost."""
MIN_AGREEMENT = 30.0
"""dB that every picture must have against its float32 reconstruction: at 30, an error of 8 of 255 levels (RMS)."""
PROTOCOL = {
    "half_precision": f"weights and pictures cast to bf16 and fp16; at most {MOST_STUDIED} pictures, half of them the "
    f"first, half the worst; fails where a number is not finite, where the mean PSNR loses over {MAX_LOSS:g} dB, or "
    f"where a picture is under {MIN_AGREEMENT:g} dB from its float32 reconstruction",
}


class Rounding(TorchFunctionMode):
    """Rounds what every operation on float32 tensors gives to a shorter format; a number beyond it becomes infinite."""

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
        """Called by torch in place of every operation."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            return result.to(self.dtype).float()
        return result


def study_precision(model: AutoencoderKL, sample: Sample) -> Findings:
    """Field `precision` of a report: for each format what `of_format` returns."""
    return Findings(
        sections={"precision": {name: of_format(model, sample, dtype) for name, dtype in FORMATS.items()}},
        protocol=PROTOCOL,
    )


def of_format(model: AutoencoderKL, sample: Sample, dtype: torch.dtype) -> dict[str, Any]:
    """A sample in a half format.

    Args:
        model: in float32; it is not changed.
        sample: pictures and their float32 reconstructions.
        dtype: torch.bfloat16 or torch.float16.

    Returns:
        JSON values, numbers None where they are not finite: `num_images`, `native` (whether the device computed in the
        format itself), `psnr` and `psnr_min` against the originals and `psnr_in_float32` of the same pictures,
        `psnr_to_float32` and `psnr_to_float32_min` against the float32 reconstructions, `max_difference` from those (on
        [-1, 1]), the shares `latents_non_finite` and `pictures_non_finite`, `verdict` (`pass` or `fail`), `reason`.
    """
    native = sample.device.type == "cuda"
    latents, pictures = _reconstruct(model, sample, dtype, native=native)
    truth = list(zip(pictures, sample.images, strict=True))
    float32 = [x.clamp(-1.0, 1.0) for x in sample.reconstructions]
    pairs = list(zip(pictures, float32, strict=True))
    own = torch.cat([psnr(made, image) for made, image in truth])
    before = torch.cat([psnr(x, image) for x, image in zip(float32, sample.images, strict=True)])
    agreement = torch.cat([psnr(made, x) for made, x in pairs])
    furthest = torch.stack([(made.clamp(-1.0, 1.0) - x).abs().max() for made, x in pairs]).max()
    numbers = {
        "psnr": own.mean().item(),
        "psnr_min": own.min().item(),
        "psnr_in_float32": before.mean().item(),
        "psnr_to_float32": agreement.mean().item(),
        "psnr_to_float32_min": agreement.min().item(),
        "max_difference": furthest.item(),
        "latents_non_finite": _non_finite(latents),
        "pictures_non_finite": _non_finite(pictures),
    }
    failures = _failures(numbers)
    return {
        "num_images": len(pictures),
        "native": native,
        **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
        "verdict": "fail" if failures else "pass",
        "reason": "; ".join(failures)
        or f"{numbers['psnr']:.2f} dB PSNR where float32 has {numbers['psnr_in_float32']:.2f} dB, every picture at "
        f"least {numbers['psnr_to_float32_min']:.1f} dB from its float32 reconstruction",
    }


def _reconstruct(
    model: AutoencoderKL, sample: Sample, dtype: torch.dtype, *, native: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Modes and reconstructions of the sample in a format, float32 on the CPU."""
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
    """The share of NaN and infinite numbers."""
    flat = torch.cat([x.flatten() for x in tensors])
    return (~flat.isfinite()).double().mean().item()
