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
from pikavae.evaluation.standings import Standing, aligned, markdown
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
    """`jpeg`, `webp`, `bicubic`, `constant`, `original_bar`: `psnr`, `ssim` and `bytes` a picture on the same pictures.

    Of the first two also how many pictures were `coded`, and how many files are `too_large`: than the latent, at the
    lowest quality."""
    latents: Mapping[str, Any]
    """`channel_means`, `channel_stds`, `unit_variances` (of each channel, over pictures), `non_finite_fraction` of the
    posteriors; `bytes` a picture in half precision."""
    latent_view: Mapping[str, Any]
    """Of the first pictures: `component_shares` of the variance, and `smoothness`, a `NoiseLevel` for each noise; it is
    empty where latents do not vary."""
    precision: Mapping[str, Mapping[str, Any]]
    """`bf16` and `fp16`: whether the model can be used in the format; `precision.of_format` tells of their fields."""
    sizes: Mapping[str, Any]
    """A few pictures at other sizes and in tiles; `sizes.study_sizes` tells of its fields."""
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

    def rows(self, others: Sequence[tuple[str, Report]] = (), name: str = "this model") -> list[Standing]:
        """The model, others that were measured on the same pictures, and the baselines.

        Args:
            others: what they are called, and their reports.
            name: what this model is called.
        """
        side = self.image_size // self.downsampling_factor
        labels = {
            "jpeg": f"JPEG{self._fit('jpeg')}",
            "webp": f"WebP{self._fit('webp')}",
            "bicubic": f"bicubic, down to {side} x {side} (the latent grid) and back",
            "constant": "constant, the set's mean colour",
            "original_bar": "the original tutorial's bar",
        }
        models = [report.standing(label) for label, report in [(name, self), *others]]
        return [
            *models,
            *(
                Standing(label, **{key: self.baselines[row][key] for key in ("psnr", "ssim", "bytes")})
                for row, label in labels.items()
            ),
        ]

    def standing(self, label: str) -> Standing:
        """The model's own line of the table."""
        shifts = [self.metrics[f"colour_shift_{colour}"] for colour in ("red", "green", "blue")]
        return Standing(
            label,
            psnr=self.metrics["psnr"],
            ssim=self.metrics["ssim"],
            bytes=self.latents["bytes"],
            psnr_worst_tenth=self.metrics["psnr_worst_tenth"],
            ms_ssim=self.metrics["ms_ssim"],
            colour_shift=max((shift for shift in shifts if shift is not None), key=abs, default=None),
            scaling_factor=self.metrics["scaling_factor"],
        )

    def table(self, others: Sequence[tuple[str, Report]] = ()) -> str:
        """`rows` in aligned columns, for a terminal, and what half precision does."""
        halves = [f"In {name}: {half['verdict']}: {half['reason']}." for name, half in self.precision.items()]
        return "\n".join([*aligned(self.rows(others)), *self._complaints(), "", *halves])

    def summary_markdown(self) -> str:
        """The same as a Markdown table, with a line on the pictures and the latents."""
        psnr, ssim = self.metrics["psnr"], self.metrics["ssim"]
        kl, scaling = self.metrics["kl_nats_per_image"], self.metrics["scaling_factor"]
        lines = [
            f"PSNR {_digits(psnr, 2)} dB, SSIM {_digits(ssim, 4)}.",
            "",
            *markdown(self.rows()),
            "",
            f"Means over {self.num_images:,} pictures of {self.image_size} px (set `{self.evaluation_set}`). "
            f"KL {_digits(kl, 1)} nats per picture, measured scaling factor {_digits(scaling, 4)}.",
        ]
        return "\n".join([*lines, *(f"\n{complaint}" for complaint in self._complaints())])

    def _fit(self, codec: str) -> str:
        """Whether a codec's files are as small as the latents, and of how many pictures, as the end of a label."""
        found = self.baselines[codec]
        count, too_large = found["coded"] or 0.0, found["too_large"] or 0.0
        if too_large:
            return f", the lowest quality; {too_large:,.0f} of {count:,.0f} larger than the latent"
        return " within the latent's bytes" + (f", {count:,.0f} pictures" if count < self.num_images else "")

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
