"""What the page of an evaluation says about half precision."""

from __future__ import annotations

from pikavae.data.page_html import Html, count, tag, together
from pikavae.evaluation.page_numbers import number
from pikavae.evaluation.report import Report

COLUMNS = (
    ("PSNR, dB", "psnr", 2),
    ("worst picture", "psnr_min", 2),
    ("against float32, dB", "psnr_to_float32", 1),
    ("worst picture", "psnr_to_float32_min", 1),
    ("largest difference", "max_difference", 4),
)


def precision_section(report: Report) -> Html:
    """Each format's numbers and its verdict, in a table."""
    formats = report.precision
    first = next(iter(formats.values()))
    lead = (
        f"{count(first['num_images'], 'picture')} by weights and activations in half the bits, as torch_dtype of "
        f"from_pretrained has them. In float32 they have {number(first['psnr_in_float32'], 2)} dB. A difference is "
        f"on [-1, 1], from the float32 reconstruction."
    )
    head = tag(
        "tr", *(tag("th", name, scope="col") for name in ("format", *(name for name, _, _ in COLUMNS), "verdict"))
    )
    rows = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            *(tag("td", number(one[key], decimals)) for _, key, decimals in COLUMNS),
            tag("td", f"{one['verdict']}: {one['reason']}", class_="said"),
        )
        for name, one in formats.items()
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="metrics")
    return together(tag("p", lead), tag("div", table, class_="scroll"))
