"""The report of one evaluation: numbers overall and for each picture, and the protocol that they were measured by."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pikavae.errors import UserError
from pikavae.files import write_atomically

REPORT_NAME = "report.json"
PER_IMAGE_NAME = "per_image.csv"
SHOWN = ("psnr", "ssim", "kl_nats_per_image", "scaling_factor")
"""The metrics that the table and the summary show."""


@dataclass(frozen=True)
class ImageScore:
    """The numbers of one picture; None where one is not finite, or not defined for the picture.

    PSNR in dB, errors and shifts on [-1, 1], KL in nats. `metrics.py`, `appearance.py` and `perceptual.py` define them.
    """

    name: str
    caption: str
    psnr: float | None
    ssim: float | None
    mse: float | None
    kl_nats: float | None
    bicubic_psnr: float | None
    ms_ssim: float | None
    psnr_foreground: float | None
    colour_shift_red: float | None
    colour_shift_green: float | None
    colour_shift_blue: float | None
    flat_noise: float | None
    high_frequency_ratio: float | None
    edge_error: float | None
    border_mse: float | None
    inside_mse: float | None
    lpips: float | None


@dataclass(frozen=True)
class Report:
    """What an evaluation found. JSON throughout: a number that is not finite is None, and `reasons` says why."""

    metrics: Mapping[str, float | None]
    """Means over pictures: `psnr`, `ssim`, `mse` and those of `ImageScore` from `ms_ssim` on. Besides, `psnr_pooled`
    (of the mean MSE), `psnr_min`, `psnr_worst_tenth`, `kl_nats_per_image`, `kl_nats_per_dimension`, `latent_mean`,
    `latent_std`, `scaling_factor`, `shift_factor`, `active_units`, `non_finite_fraction`, `rfid`, `kid`,
    `kid_deviation`."""
    reasons: Mapping[str, str]
    """Why a metric is None, by its name."""
    counts: Mapping[str, int]
    """Over how many pictures a mean is taken, by the metric's name, where it is not defined for some of them."""
    baselines: Mapping[str, Mapping[str, float | None]]
    """`bicubic`, `constant`, `original_bar`: their `psnr` and `ssim` on the same pictures."""
    latents: Mapping[str, Any]
    """`channel_means`, `channel_stds`, `unit_variances` (of each channel, over pictures), `non_finite_fraction` of the
    posteriors."""
    latent_view: Mapping[str, Any]
    """Of the first pictures: `component_shares` of the variance, and `smoothness`, a `NoiseLevel` for each noise; it is
    empty where latents do not vary."""
    precision: Mapping[str, Mapping[str, Any]]
    """`bf16` and `fp16`: whether the model can be used in the format; `precision.of_format` tells of their fields."""
    protocol: Mapping[str, Any]
    """What decides the numbers besides the model and the pictures."""
    num_images: int
    image_size: int
    evaluation_set: str
    """Digest of the pictures."""
    downsampling_factor: int
    primary_metric: str
    provenance: Mapping[str, Any]
    """Where the model came from, as the caller gave it."""
    per_image: Sequence[ImageScore]
    """The pictures' numbers, in the set's order."""

    def save(self, folder: Path) -> None:
        """Write `report.json` and `per_image.csv` into the existing `folder`."""
        tree = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "per_image"}
        write_atomically(folder / REPORT_NAME, json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        write_atomically(folder / PER_IMAGE_NAME, _to_csv(self.per_image))

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read back what `save` wrote; the result is equal to what was saved.

        Raises:
            UserError: a file is missing, damaged, or of another version's form.
        """
        for name in (REPORT_NAME, PER_IMAGE_NAME):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: not a report, {name} is missing; evaluate the model again")
        try:
            tree = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
            per_image = _from_csv((folder / PER_IMAGE_NAME).read_bytes().decode())  # text mode would alter line ends
            report = cls(**tree, per_image=per_image)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{folder}: damaged report, or another version's: {error}; evaluate the model again"
            ) from None
        if len(per_image) != report.num_images:
            raise UserError(
                f"{folder / PER_IMAGE_NAME}: {len(per_image)} pictures instead of {report.num_images}; "
                f"evaluate the model again"
            )
        return report

    def rows(self) -> list[tuple[str, float | None, float | None]]:
        """The model and its baselines: label, PSNR in dB, SSIM."""
        side = self.image_size // self.downsampling_factor
        labels = {
            "bicubic": f"bicubic, down to {side} x {side} (the latent grid) and back",
            "constant": "constant, the set's mean colour",
            "original_bar": "the original tutorial's bar",
        }
        named = [("this model", self.metrics), *((label, self.baselines[name]) for name, label in labels.items())]
        return [(label, scores["psnr"], scores["ssim"]) for label, scores in named]

    def table(self) -> str:
        """The model against the baselines in aligned columns, for a terminal."""
        rows = self.rows()
        width = max(len(label) for label, _, _ in rows)
        lines = [f"{'':<{width}}  {'PSNR dB':>7}  {'SSIM':>7}"]
        lines += [f"{label:<{width}}  {_digits(psnr, 2):>7}  {_digits(ssim, 4):>7}" for label, psnr, ssim in rows]
        halves = [f"In {name}: {half['verdict']}: {half['reason']}." for name, half in self.precision.items()]
        return "\n".join([*lines, *self._complaints(), "", *halves])

    def summary_markdown(self) -> str:
        """The same as a Markdown table, with a line on the pictures and the latents."""
        psnr, ssim = self.metrics["psnr"], self.metrics["ssim"]
        lines = [f"PSNR {_digits(psnr, 2)} dB, SSIM {_digits(ssim, 4)}.", ""]
        lines += ["| reconstruction | PSNR (dB) | SSIM |", "| --- | ---: | ---: |"]
        lines += [f"| {label} | {_digits(p, 2)} | {_digits(s, 4)} |" for label, p, s in self.rows()]
        kl, scaling = self.metrics["kl_nats_per_image"], self.metrics["scaling_factor"]
        lines += [
            "",
            f"Means over {self.num_images:,} pictures of {self.image_size} px (set `{self.evaluation_set}`). "
            f"KL {_digits(kl, 1)} nats per picture, measured scaling factor {_digits(scaling, 4)}.",
        ]
        return "\n".join([*lines, *(f"\n{complaint}" for complaint in self._complaints())])

    def _complaints(self) -> list[str]:
        """One line for each reason why a number is missing here, naming the metrics that it took away."""
        names: dict[str, list[str]] = {}
        for name in SHOWN:
            if name in self.reasons:
                names.setdefault(self.reasons[name], []).append(name)
        return [f"Not a number: {', '.join(metrics)}: {reason}." for reason, metrics in names.items()]


def _digits(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _to_csv(scores: Sequence[ImageScore]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return text.getvalue()


def _from_csv(text: str) -> list[ImageScore]:
    """Raises ValueError or TypeError where a row is not one of `_to_csv`."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        return [
            ImageScore(
                name=row.pop("name"),
                caption=row.pop("caption"),
                **{key: float(value) if value else None for key, value in row.items()},
            )
            for row in rows
        ]
    except (KeyError, csv.Error) as error:
        raise ValueError(f"{PER_IMAGE_NAME}: {error}") from None
