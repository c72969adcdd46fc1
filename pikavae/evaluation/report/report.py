"""Holds the report of one evaluation: numbers of the set and of each picture, and the protocol."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from pydantic import Field, JsonValue

from pikavae.errors import DamagedFileError, UserError
from pikavae.evaluation.metrics.definitions import METRICS, OF_PICTURE
from pikavae.evaluation.report.sections import (
    Baseline,
    ChannelNumbers,
    HalfPrecision,
    LatentNumbers,
    LatentViewNumbers,
    OtherSizes,
    WholePictures,
)
from pikavae.evaluation.report.table import BYTES, COLOUR_SHIFT, TableRow, align, markdown
from pikavae.workspace.files import write_atomically
from pikavae.workspace.records import Record, read_object

REPORT_NAME = "report.json"
PER_IMAGE_NAME = "per_image.csv"
SHOWN = ("psnr", "ssim", "kl_nats_per_image", "scaling_factor")
"""The metrics that the table and the summary show."""


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class ImageScore:
        """Stands for the class below, whose fields are those of the table of metrics."""

        name: str
        caption: str

        def __init__(self, name: str, caption: str, **scores: float | None) -> None: ...

        def __getattr__(self, metric: str) -> float | None: ...

else:
    ImageScore = make_dataclass(
        "ImageScore",
        [("name", str), ("caption", str), *((metric.name, float | None, None) for metric in OF_PICTURE)],
        frozen=True,
        namespace={
            "__module__": __name__,
            "__doc__": "Holds the numbers of one picture, by the names of `OF_PICTURE`.\n\n"
            "A number is None if it is not finite, not defined for the picture, or of a metric that a report lacks.",
        },
    )


class Report(Record):
    """Holds what an evaluation found, as JSON: a number that is not finite is None, and `reasons` says why.

    A section that an earlier version did not measure is empty.
    """

    metrics: Mapping[str, float | None]
    """By their names in `METRICS`: numbers of the set, and means of the numbers of its pictures."""
    reasons: Mapping[str, str]
    """Why a metric is None, by its name."""
    counts: Mapping[str, int] = {}
    """Over how many pictures a mean is taken, by the metric's name, if the metric is not defined for all of them."""
    baselines: Mapping[str, Baseline]
    """`jpeg`, `webp`, `bicubic`, `constant`, `original_bar`, on the same pictures."""
    latents: LatentNumbers
    latent_view: LatentViewNumbers = LatentViewNumbers()
    precision: Mapping[str, HalfPrecision] = {}
    """Verdicts on the model's use in `bf16` and `fp16`."""
    sizes: OtherSizes = OtherSizes()
    channels: Mapping[str, ChannelNumbers] = {}
    """The scores of each channel, by its name; empty for RGB."""
    whole: WholePictures = WholePictures()
    protocol: Mapping[str, JsonValue]
    """Everything that decides the numbers apart from the model and the pictures."""
    num_images: int
    image_size: int
    evaluation_set: str
    """The digest of the pictures."""
    downsampling_factor: int
    primary_metric: str
    provenance: Mapping[str, JsonValue]
    """Where the model came from, as the caller gave it."""
    per_image: Sequence[ImageScore] = Field(exclude=True)
    """The pictures' numbers, in the set's order."""

    def save(self, folder: Path) -> None:
        """Write `report.json` and `per_image.csv` into the existing `folder`."""
        text = json.dumps(self.content(), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomically(folder / REPORT_NAME, f"{text}\n")
        write_atomically(folder / PER_IMAGE_NAME, _to_csv(self.per_image))

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read what `save` wrote; the result equals the saved report.

        Raises:
            UserError: a file is missing or damaged.
        """
        for name in (REPORT_NAME, PER_IMAGE_NAME):
            if not (folder / name).is_file():
                raise UserError(f"{folder}: not a report, {name} is missing; evaluate the model again")
        try:
            per_image = _from_csv((folder / PER_IMAGE_NAME).read_bytes().decode())  # text mode would alter line ends
        except (ValueError, TypeError) as error:
            raise UserError(f"{folder}: damaged report: {error}; evaluate the model again") from None
        try:
            path = folder / REPORT_NAME
            report = cls.of({**read_object(path), "per_image": per_image}, path)
        except DamagedFileError as error:
            raise UserError(f"{error}; evaluate the model again") from None
        if len(per_image) != report.num_images:
            raise UserError(
                f"{folder / PER_IMAGE_NAME}: {len(per_image)} pictures instead of {report.num_images}; "
                f"evaluate the model again"
            )
        return report

    def rows(self, others: Sequence[tuple[str, Report]] = (), name: str = "this model") -> list[TableRow]:
        """Return the table's rows: the model, others measured on the same pictures, and the baselines.

        Args:
            others: labels and reports of the others.
            name: the label of this model.
        """
        side = self.image_size // self.downsampling_factor
        labels = {
            "jpeg": "JPEG",
            "webp": "WebP",
            "bicubic": f"bicubic, down to {side} x {side} (the latent grid) and back",
            "constant": "constant, the set's mean colour",
            "original_bar": "the original tutorial's bar",
        }
        models = [report.table_row(label) for label, report in [(name, self), *others]]
        baselines = [(label, self.baselines[name]) for name, label in labels.items() if name in self.baselines]
        return [*models, *(TableRow(f"{label}{self._fit(found)}", found.content()) for label, found in baselines)]

    def table_row(self, label: str) -> TableRow:
        """Return the model's own row of the table."""
        numbers = {COLOUR_SHIFT.name: self._colour_shift(), BYTES.name: self.latents.bytes}
        return TableRow(label, {**self.metrics, **numbers})

    def _colour_shift(self) -> float | None:
        """Return the largest shift of three colours: the mean over pictures of its absolute value, as in `compare`.

        In a mean with signs, pictures that are too bright would cancel pictures that are too dark.
        """
        names = [f"colour_shift_{colour}" for colour in ("red", "green", "blue")]
        if any(self.metrics.get(name) is None for name in names):
            return None
        columns = ([getattr(image, name) for image in self.per_image] for name in names)
        return max(fmean(abs(shift) for shift in column if shift is not None) for column in columns)

    def table(self, others: Sequence[tuple[str, Report]] = ()) -> str:
        """Format `rows` in aligned columns for a terminal, with the effect of half precision and whole pictures."""
        return "\n".join([*align(self.rows(others)), *self._complaints(), "", *self.halves(), *self._whole()])

    def text(self, name: str) -> str:
        """Format a metric with its digits and its unit."""
        return METRICS[name].text(self.metrics.get(name))

    def explain(self, name: str) -> str:
        """Explain how a metric was measured and over how many pictures, if not all; or why it has no value."""
        if name in self.reasons:
            return self.reasons[name]
        words = str(self.protocol.get(METRICS[name].entry if name in METRICS else name, ""))
        if name in self.counts:
            words += f"; mean over the {self.counts[name]:,} of {self.num_images:,} pictures that have it"
        return words.removeprefix("; ")

    def halves(self) -> list[str]:
        """Return a sentence on each half format."""
        return [
            f"{half.reason}." if half.verdict == "pass" else f"Not to be used in {name}: {half.reason}."
            for name, half in self.precision.items()
        ]

    def _whole(self) -> list[str]:
        """Return a sentence on whole pictures, if some were measured."""
        found, psnr = self.whole, METRICS["psnr"]
        if not found.num_images:
            return []
        pictures = f"{found.num_images} whole picture{'s' * (found.num_images > 1)}"
        return [
            f"{psnr.text(found.psnr)} on {pictures} of up to {found.largest_width:,} x {found.largest_height:,} px, in "
            f"tiles of {found.tile} px; {psnr.text(found.psnr_min)} in the worst."
        ]

    def summary_markdown(self) -> str:
        """Format `rows` as a Markdown table, with a line on the pictures and the latents."""
        lines = [
            f"PSNR {self.text('psnr')}, SSIM {self.text('ssim')}.",
            "",
            *markdown(self.rows()),
            "",
            f"Means over {self.num_images:,} pictures of {self.image_size} px (set `{self.evaluation_set}`). "
            f"KL {self.text('kl_nats_per_image')}, scaling factor of their latents {self.text('scaling_factor')}.",
        ]
        return "\n".join([*lines, *(f"\n{complaint}" for complaint in self._complaints())])

    def _fit(self, found: Baseline) -> str:
        """Return the end of a label: if a codec's files fit within the latents' bytes, and for how many pictures."""
        if found.coded is None:
            return ""
        count, too_large = found.coded, found.too_large
        if too_large:
            return f", the lowest quality; {too_large:,.0f} of {count:,.0f} larger than the latent"
        return " within the latent's bytes" + (f", {count:,.0f} pictures" if count < self.num_images else "")

    def _complaints(self) -> list[str]:
        """Return lines on the metrics that are not a number, grouped by reason, and on means over fewer pictures."""
        names: dict[str, list[str]] = {}
        for name in SHOWN:
            if name in self.reasons:
                names.setdefault(self.reasons[name], []).append(name)
        return [
            *(f"Not a number: {', '.join(metrics)}: {reason}." for reason, metrics in names.items()),
            *(
                f"{name} is the mean over {self.counts[name]:,} of {self.num_images:,} pictures: the others have none."
                for name in ("psnr", "ssim", "ms_ssim")
                if name in self.counts
            ),
        ]


def _to_csv(scores: Sequence[ImageScore]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ImageScore)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return text.getvalue()


def _from_csv(text: str) -> list[ImageScore]:
    """Parse what `_to_csv` wrote; raise ValueError or TypeError for any other row."""
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
