"""Computes what an evaluation's page says of the latents. `latents.html` holds its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.sections import NoiseLevel
from pikavae.evaluation.studies.latent_view import NOISED_PICTURES, LatentView
from pikavae.evaluation.studies.smoothness import POSTERIOR
from pikavae.html.charts import Bar, Chart

YARDSTICK = 0.1
"""The noise whose effect the page describes in words."""


def count_images(view: LatentView) -> int:
    """Count the images that the section shows."""
    examples = [] if view.smoothness is None else view.smoothness.examples
    return 2 * len(view.components.images) + len(examples) + sum(len(w.frames) for w in view.walks) + len(view.noise)


@dataclass(frozen=True)
class Yardstick:
    """Compares the effect of noise on the latents with the reconstructions' own error, on the same pictures.

    Attributes:
        noise: its share of each channel's deviation, in words.
        psnr: in dB, of the pictures with noise against those without.
        own: in dB, of the reconstructions against their originals.
        verdict: `less than`, `more than` or `as much as`: how much the noise changes, compared with the autoencoder.
        num_pictures: how many pictures.
    """

    noise: str
    psnr: float
    own: float
    verdict: str
    num_pictures: int


def describe_latents(report: Report, view: LatentView) -> dict[str, object]:
    """Return the values of the section, by the names that the template has for them."""
    levels = report.latent_view.smoothness
    return {
        "view": view,
        "num_noised": min(len(view.components.images), NOISED_PICTURES),
        "levels": [
            {**level.content(), "noise": _noise_name(level), "latent_change": share_text(level.latent_change)}
            for level in levels
        ],
        "noise_chart": _noise_chart(levels),
        "yardstick": _compare_noise(report),
        "share_text": share_text,
    }


def share_text(share: float | None) -> str:
    """Format a share in three digits; None becomes a dash."""
    return "-" if share is None else f"{100 * share:.3g} %"


def _compare_noise(report: Report) -> Yardstick | None:
    """Compare the effect of one level of noise with the reconstructions' own error; None if a number is missing."""
    noisy = next((level.psnr for level in report.latent_view.smoothness if level.noise == YARDSTICK), None)
    scores = [image.psnr for image in report.per_image[:NOISED_PICTURES]]
    known = [psnr for psnr in scores if psnr is not None]
    if noisy is None or len(known) < len(scores):
        return None
    own = fmean(known)
    verdict = "less than" if noisy > own else "more than" if noisy < own else "as much as"
    return Yardstick(share_text(YARDSTICK), noisy, own, verdict, len(scores))


def _noise_chart(levels: Sequence[NoiseLevel]) -> Chart | None:
    """Chart PSNR by noise, without the posterior's own noise; return None if a number is missing."""
    steps = [level for level in levels if level.noise != POSTERIOR]
    scores = [level.psnr for level in steps if level.psnr is not None]
    if not steps or len(scores) < len(steps):
        return None
    names = [_noise_name(level) for level in steps]
    return Chart(
        title="PSNR of the decoded pictures by the noise on their latents",
        bars=[
            Bar(place, place + 1, max(psnr, 0.0), f"noise of {name}")
            for place, (psnr, name) in enumerate(zip(scores, names, strict=True))
        ],
        ticks=[(place + 0.5, name) for place, name in enumerate(names)],
        axis="noise, of each channel's deviation",
        quantity="PSNR, dB",
    )


def _noise_name(level: NoiseLevel) -> str:
    return share_text(level.noise) if isinstance(level.noise, float) else "the posterior's own"
