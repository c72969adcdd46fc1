"""What the page of an evaluation says about other sizes, and about tiles."""

from __future__ import annotations

from pikavae.data.page_html import Html, count, tag, together
from pikavae.evaluation.page_numbers import number
from pikavae.evaluation.report import Report

COLUMNS = (
    ("PSNR, dB", "psnr", 2),
    ("worst tenth", "psnr_worst_tenth", 2),
    ("SSIM", "ssim", 4),
    ("bicubic, dB", "bicubic_psnr", 2),
)


def sizes_section(report: Report) -> Html:
    """Each size's numbers in a table, and what tiles change in a sentence."""
    sizes = report.sizes
    if not sizes["by_size"]:
        return tag("p", "Not measured: evaluation.sizes is an empty list.")
    lead = (
        f"The same {count(sizes['num_images'], 'picture')} scaled to other sizes than that of this evaluation, "
        f"{report.image_size} px. Pictures are not as hard at every size: bicubic, to the latent and back, tells."
    )
    head = tag("tr", *(tag("th", name, scope="col") for name in ("size, px", *(name for name, _, _ in COLUMNS))))
    rows = [
        tag(
            "tr",
            tag("th", str(one["size"]), scope="row"),
            *(tag("td", number(one[key], decimals)) for _, key, decimals in COLUMNS),
            class_="own" if one["size"] == report.image_size else None,
        )
        for one in sizes["by_size"]
    ]
    table = tag("div", tag("table", tag("thead", head), tag("tbody", *rows)), class_="scroll")
    return together(tag("p", lead), table, tag("p", _tiled(report)))


def _tiled(report: Report) -> str:
    tiled = report.sizes["tiled"]
    if tiled is None:
        return "Tiles were not compared with whole pictures, since these are of more than a megapixel."
    decibels = {
        name: number(tiled[name], 2) for name in ("psnr_to_whole", "psnr_to_whole_min", "psnr_tiled", "psnr_whole")
    }
    off = {name: number(tiled[name], 4) for name in ("rms_seams", "rms_elsewhere", "max_difference")}
    return (
        f"In tiles of {tiled['tile']} px that overlap by {tiled['overlap']} px, as larger pictures go through, "
        f"{count(tiled['num_images'], 'picture')} of {tiled['size']} px came out {decibels['psnr_to_whole']} dB from "
        f"those that went through as a whole, {decibels['psnr_to_whole_min']} dB the farthest. The difference, on "
        f"[-1, 1], is {off['rms_seams']} at the seams and {off['rms_elsewhere']} elsewhere (RMS), and "
        f"{off['max_difference']} at most. Against the originals they have {decibels['psnr_tiled']} dB, and "
        f"{decibels['psnr_whole']} dB as a whole."
    )
