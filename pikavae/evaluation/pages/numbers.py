"""Draws conclusions from an evaluation's numbers for its page."""

from __future__ import annotations

from pikavae.evaluation.report.panels import choose_evenly
from pikavae.evaluation.report.report import Report
from pikavae.evaluation.report.sections import Baseline
from pikavae.html.charts import Chart, histogram
from pikavae.html.text import Level, PageFinding, count


def conclusions(report: Report) -> list[PageFinding]:
    """Return sentences on what the numbers show, with a level each."""
    found: list[PageFinding] = []
    share = report.metrics["non_finite_fraction"]
    if share:
        found.append(
            PageFinding("check", f"{share:.2%} of the reconstructions' numbers are not finite: this model is broken.")
        )
    psnr = report.metrics["psnr"]
    if psnr is None:
        return found
    lesser: Level
    for name, what, lesser in (
        ("bicubic", "scaling the pictures down to the latent's grid and back", "check"),
        ("original_bar", "the bar that the original tutorial calls good", "check"),
        ("constant", "showing one colour", "check"),
        ("jpeg", "JPEG files of at most the latent's bytes", "note"),
        ("webp", "WebP files of at most the latent's bytes", "note"),
    ):
        baseline = report.baselines.get(name)
        if baseline is None:  # an earlier version did not measure it
            continue
        other = baseline.psnr
        own, where = _on_the_same(report, baseline, psnr)
        if other is not None and own is not None:
            level: Level = "fine" if own > other else lesser
            verb = "better than" if own > other else "worse than" if own < other else "equal to"
            found.append(PageFinding(level, f"{abs(own - other):.2f} dB {verb} {what} ({other:.2f} dB){where}."))
    for name, half in report.precision.items():
        if half.verdict == "fail":
            found.append(PageFinding("check", f"Not to be used in {name}: {half.reason}."))
    pairs = [(image.psnr, image.bicubic_psnr) for image in report.per_image]
    losses = sum(own is None or (other is not None and own < other) for own, other in pairs)
    if losses:
        found.append(
            PageFinding("note", f"{count(losses, 'picture')} of {len(pairs):,} came out worse than by bicubic scaling.")
        )
    return found


def _on_the_same(report: Report, baseline: Baseline, psnr: float) -> tuple[float | None, str]:
    """Return the model's PSNR on a baseline's pictures, and words on which pictures they are if not all."""
    if not baseline.coded or baseline.coded >= report.num_images:
        return psnr, ""
    scores = [report.per_image[i].psnr for i in choose_evenly(report.num_images, int(baseline.coded))]
    known = [score for score in scores if score is not None]
    mean = sum(known) / len(known) if len(known) == len(scores) else None
    return mean, f", on the {count(len(scores), 'picture')} that were coded"


def psnr_chart(report: Report) -> Chart:
    """Make a histogram of the pictures' PSNR with a mark at the mean. At least one picture must have a PSNR."""
    mean = report.metrics["psnr"]
    return histogram(
        [image.psnr for image in report.per_image if image.psnr is not None],
        title="Histogram of PSNR",
        axis="PSNR, dB",
        mark=None if mean is None else (mean, f"mean {mean:.2f}"),
    )
