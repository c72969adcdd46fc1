"""The report of an evaluation as a page, for a person to see in half a minute how good a model is, and where it fails.

One HTML file that asks nothing of the network and can be read without its script, so that it opens in the sandboxed
viewer of an experiment tracker as it does from a disk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pikavae.data.page_charts import figure
from pikavae.data.page_html import (
    NAME_LENGTH,
    VALUE_LENGTH,
    Html,
    count,
    escaped,
    shortened,
    strip_address,
    tag,
    together,
)
from pikavae.evaluation.latent_view import LatentView
from pikavae.evaluation.page_frame import PICTURES_BYTES, framed, glance
from pikavae.evaluation.page_latents import count_images, latents_section
from pikavae.evaluation.page_numbers import conclusions, number, psnr_chart
from pikavae.evaluation.page_precision import precision_section
from pikavae.evaluation.page_sizes import sizes_section
from pikavae.evaluation.page_standings import standings_table
from pikavae.evaluation.page_tiles import tile
from pikavae.evaluation.panels import ERROR_GAIN
from pikavae.evaluation.report import Report
from pikavae.evaluation.shown import ShownPicture

PAGE_NAME = "report.html"
FILMSTRIP_BYTES = 600_000


def report_page(
    report: Report,
    shown: Mapping[str, Sequence[ShownPicture]],
    view: LatentView,
    filmstrip: Path | None = None,
) -> str:
    """The page, as one HTML document. The same report and pictures give the same page.

    Args:
        report: the numbers.
        shown: the `first` pictures, the `worst` from the lowest PSNR up, the `best` from the highest down.
        view: of the latents of the first of the `first`.
        filmstrip: a picture file of the training, which is shown where it is given.
    """
    limit = PICTURES_BYTES // (sum(3 * len(chosen) for chosen in shown.values()) + count_images(view))
    parts = [
        ("table", "Against baselines", _table(report)),
        ("pictures", "The same pictures for every model", _pictures(shown["first"], FIRST, limit)),
        ("distribution", "Distribution", _distribution(report)),
        ("worst", "Worst", _pictures(shown["worst"], "From the lowest PSNR up.", limit)),
        ("best", "Best", _pictures(shown["best"], "From the highest PSNR down.", limit)),
        ("metrics", "All metrics", _metrics(report)),
        ("precision", "Half precision", precision_section(report)),
        ("sizes", "Other sizes, and tiles", sizes_section(report)),
        ("latents", "Latents", latents_section(report, view, shown["first"], limit)),
        *([("training", "Training", _training(filmstrip))] if filmstrip else []),
        ("lineage", "Configuration and lineage", _settings(report)),
    ]
    return framed(f"{_subject(report)} - evaluation", _header(report), _headline(report), parts)


FIRST = (
    "The first of the evaluation set. Drag over a picture, or move to its slider and use the arrow keys: the original "
    f"is left of the line, the reconstruction right of it. Below it the absolute error, {ERROR_GAIN:g} times as bright."
)


def _subject(report: Report) -> str:
    """What was measured, in a few words."""
    run, model = report.provenance.get("run"), report.provenance.get("model")
    words = f"Run {run}" if run else f"Model {model}" if model else "An autoencoder"
    return shortened(words, NAME_LENGTH)


def _header(report: Report) -> Html:
    return tag(
        "header",
        tag("p", "Evaluation of reconstructions", class_="kicker"),
        tag("h1", _subject(report), dir="auto"),
        tag(
            "p",
            f"{count(report.num_images, 'picture')} of {report.image_size} px, one latent cell for "
            f"{report.downsampling_factor} by {report.downsampling_factor} pixels; evaluation set ",
            tag("code", shortened(report.evaluation_set, NAME_LENGTH)),
            class_="subtitle",
        ),
    )


def _headline(report: Report) -> Html:
    """The numbers that decide, and what they say."""
    metrics = report.metrics
    numbers = [
        ("PSNR, dB", number(metrics["psnr"], 2)),
        ("SSIM", number(metrics["ssim"], 3)),
        ("worst tenth, dB", number(metrics["psnr_worst_tenth"], 2)),
        ("KL, nats a picture", number(metrics["kl_nats_per_image"], 0)),
    ]
    return glance(numbers, conclusions(report))


def _table(report: Report) -> Html:
    own, *others = report.rows()
    return standings_table([own, *sorted(others, key=lambda row: -(row.psnr or 0.0))], own=1)


def _distribution(report: Report) -> Html:
    scores = [image.psnr for image in report.per_image if image.psnr is not None]
    if not scores:
        return tag("p", "No picture has a PSNR: no reconstruction is finite.")
    wins = sum(
        image.psnr > image.bicubic_psnr
        for image in report.per_image
        if image.psnr is not None and image.bicubic_psnr is not None
    )
    words = f"{wins:,} of {count(report.num_images, 'picture')} are better than bicubic at the latent's size."
    return tag("div", figure(psnr_chart(report), "PSNR of the pictures. ", words), class_="figures")


def _pictures(pictures: Sequence[ShownPicture], lead: str, limit: int) -> Html:
    return together(
        tag("p", lead), tag("ul", *(tag("li", tile(picture, limit)) for picture in pictures), class_="tiles")
    )


def _metrics(report: Report) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", tag("code", name), scope="row"),
            tag("td", "-" if value is None else f"{value:.6g}"),
            tag("td", _said(report, name), class_="said"),
        )
        for name, value in report.metrics.items()
    ]
    head = tag("tr", *(tag("th", name, scope="col") for name in ("metric", "value", "how it was measured, or why not")))
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="metrics"), class_="scroll")


def _said(report: Report, name: str) -> str:
    """How a metric was measured, and over how many pictures where that is not all; or why it has no value."""
    if name in report.reasons:
        return report.reasons[name]
    colourless = name.removesuffix("_red").removesuffix("_green").removesuffix("_blue")
    words = str(report.protocol.get(colourless, ""))
    if name in report.counts:
        words += f"; mean over the {count(report.counts[name], 'picture')} that have it"
    return words.removeprefix("; ")


def _training(filmstrip: Path) -> Html:
    words = "The same validation pictures at moments of the training, from left to right; the originals at the right."
    with Image.open(filmstrip) as picture:
        sheet = tag(
            "img",
            src=strip_address(picture.convert("RGB"), FILMSTRIP_BYTES),
            alt="Reconstructions at moments of the training",
            class_="sheet-of-many",
        )
    return together(tag("p", words), tag("div", sheet, class_="scroll", tabindex="0"))


def _settings(report: Report) -> Html:
    return together(
        *(
            tag(
                "div",
                tag("h3", title),
                tag("div", _pairs(values), class_="scroll"),
            )
            for title, values in (("Where the model came from", report.provenance), ("Protocol", report.protocol))
        )
    )


def _pairs(values: Mapping[str, Any]) -> Html:
    rows = [
        tag(
            "tr",
            tag("th", tag("code", shortened(name, NAME_LENGTH)), scope="row"),
            tag("td", _value(value)),
        )
        for name, value in values.items()
    ]
    return tag("table", tag("tbody", *rows), class_="settings")


def _value(value: object) -> Html:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escaped(shortened(text, VALUE_LENGTH))
