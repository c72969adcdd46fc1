"""Everything besides the model and the pictures that decides an evaluation's numbers, as a report states it."""

from __future__ import annotations

from typing import Any

from pikavae.evaluation.metrics import DATA_RANGE, MAX_PSNR, SSIM_K1, SSIM_K2, SSIM_SIGMA, ssim_window


def protocol(*, image_size: int, batch_size: int, device_type: str) -> dict[str, Any]:
    """What was measured and how, in words for people and JSON values."""
    window = ssim_window(image_size, image_size)
    return {
        "latent": "mode of the posterior",
        "precision": "float32 without TF32; metrics in float64",
        "resize": "none",
        "data_range": [-1.0, 1.0],
        "reconstruction": "clamped to the data range, not rounded to 8 bits",
        "mean": "over pictures, of each picture's metric",
        "psnr": f"10 log10({DATA_RANGE:g}^2 / MSE) over all pixels and colours, at most {MAX_PSNR:g} dB",
        "ssim": f"Wang et al. 2004 on [0, 1], mean over RGB, K1 {SSIM_K1}, K2 {SSIM_K2}, population covariance",
        "ssim_window": f"Gaussian of sigma {SSIM_SIGMA}, {window} px, only windows wholly inside the picture",
        "psnr_min": "of the picture that has the lowest PSNR",
        "non_finite_fraction": "the share of the reconstructions' numbers that are not finite",
        "psnr_worst_tenth": "mean over the tenth of the pictures that has the lowest PSNR, rounded up",
        "mse": "over all pixels and colours, on the data range",
        "bicubic": "Keys' kernel with a = -0.5 and antialiasing (as Pillow), to the latent's height and width and back",
        "constant": "the mean colour over all pictures of the set",
        "batch_size": batch_size,
        "device": device_type,
    }
