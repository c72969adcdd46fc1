"""The card of a model: what it is, what it was trained on, how good it is by which protocol, and how to use it.

Markdown under a header that model hubs read. The same report, settings and name give the same card.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from pikavae.config import Config
from pikavae.evaluation.report import Report

CARD_NAME = "model_card.md"
LENGTH = 160
HUB = "hub:"
HEADLINE = ("psnr", "ssim")
TASK = {"type": "image-to-image", "name": "Reconstruction by an autoencoder"}
LIMITS = """\
- It reconstructs pictures; it makes none by itself. A latent diffusion model that is trained on its latents does.
- Scores hold for pictures like those that they were measured on, at that size, by that protocol; others differ.
- Fine detail below the latent's grid (small text, far faces) is lost first.
- Whatever the pictures' owners allow or forbid holds for a model that was trained on them."""


def model_card(report: Report | None, settings: Config, *, name: str, is_imported: bool = False) -> str:
    """The card as Markdown.

    Args:
        report: of this model; None where it was never measured, which the card then says.
        settings: the configuration that made it.
        name: what its maker calls it.
        is_imported: it is of another maker, so that of `settings` only sizes and picture size are known.
    """
    parts = [
        ("Training", _training(settings, is_imported=is_imported)),
        ("Scores", NOT_MEASURED if report is None else _scores(report)),
        ("Latents", _latents(report)),
        ("Use", _use(settings)),
        ("Limits", LIMITS),
        ("Licence", "Not stated yet. Whoever publishes this model fills in `license` above, and this line."),
    ]
    sections = [f"## {title}\n\n{text}" for title, text in parts]
    return (
        "\n".join(
            [_header(report, settings, name, is_imported=is_imported), f"# {words(name)}", "", _kind(settings), ""]
        )
        + "\n\n".join(sections)
        + "\n"
    )


NOT_MEASURED = "Not measured yet: `pikavae evaluate` does it."


def words(text: object) -> str:
    """A text from outside on one line, of bounded length, without what Markdown or HTML would take for its own."""
    line = " ".join(str(text).split())
    short = line if len(line) <= LENGTH else f"{line[: LENGTH - 1]}…"
    return short.translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#"})


def source_name(source: str) -> str:
    """A source of pictures without a machine's paths."""
    return source if source.startswith(HUB) else source.rstrip("/").rsplit("/", 1)[-1]


def _header(report: Report | None, settings: Config, name: str, *, is_imported: bool) -> str:
    """YAML in the terms of Hugging Face's model cards."""
    data = settings.data
    header: dict[str, Any] = {
        "license": "unknown",
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["autoencoder", "vae", "AutoencoderKL", "pikavae"],
    }
    if data.source.startswith(HUB) and not is_imported:
        header["datasets"] = [data.source.removeprefix(HUB)]
    if report is not None:
        metrics = [
            {"type": metric, "name": metric.upper(), "value": round(value, 6)}
            for metric in HEADLINE
            if (value := report.metrics[metric]) is not None
        ]
        dataset = {"name": f"evaluation set {report.evaluation_set}", "type": f"pikavae/{report.evaluation_set}"}
        result = {"task": TASK, "dataset": dataset, "metrics": metrics}
        header["model-index"] = [{"name": " ".join(name.split())[:LENGTH], "results": [result]}] if metrics else []
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text.replace('license: unknown', 'license: unknown  # yours to fill in', 1)}---\n"


def _kind(settings: Config) -> str:
    model = settings.model
    return (
        f"A variational autoencoder of Stable Diffusion v1's kind (diffusers' `AutoencoderKL`): one latent cell of "
        f"{model.latent_channels} numbers for {model.downsampling_factor} x {model.downsampling_factor} pixels, "
        f"channels {', '.join(map(str, model.channels))}. Any height and width that {model.downsampling_factor} "
        f"divides."
    )


def _training(settings: Config, *, is_imported: bool) -> str:
    if is_imported:
        return "Made elsewhere, and imported: how it was trained is not known here."
    data, training = settings.data, settings.training
    start = "new weights" if training.start is None else f"the weights of {words(source_name(training.start))}"
    return (
        f"Trained by pikavae on the pictures of {words(source_name(data.source))} "
        f"at {data.image_size} px, {training.steps:,} steps of {training.batch_size} pictures, from {start}; loss: "
        f"{settings.loss.reconstruction}; optimizer: {settings.optimizer.name}. `pikavae.yaml` beside the weights has "
        f"every setting."
    )


def _scores(report: Report) -> str:
    metrics = [
        f"| `{name}` | {_digits(value)} | {words(report.reasons.get(name, report.protocol.get(name, '')))} |"
        for name, value in report.metrics.items()
    ]
    protocol = [
        f"- {words(name)}: {words(value)}" for name, value in report.protocol.items() if name not in report.metrics
    ]
    return "\n".join(
        [
            report.summary_markdown(),
            "",
            "<details><summary>All metrics</summary>",
            "",
            "| metric | value | how it was measured, or why not |",
            "| --- | ---: | --- |",
            *metrics,
            "",
            "</details>",
            "",
            "Protocol:",
            "",
            *protocol,
        ]
    )


def _latents(report: Report | None) -> str:
    measured = {} if report is None else measured_scaling(report)
    if not measured:
        return "Their deviation was not measured: `config.json` has the scaling factor that the weights came with."
    return (
        f"Measured: scaling factor {measured['scaling_factor']:.6g}, shift factor {measured['shift_factor']:.6g}. "
        f"`(latent - shift_factor) * scaling_factor` has mean 0 and deviation 1. An exported `config.json` has both, "
        f"but where the latents are those of published weights, whose factor it keeps. A trainer that knows no shift "
        f"may leave it out."
    )


def measured_scaling(report: Report) -> dict[str, float]:
    """`scaling_factor` and `shift_factor` as the report measured them; empty where it could not."""
    factors = {name: report.metrics.get(name) for name in ("scaling_factor", "shift_factor")}
    known = {name: value for name, value in factors.items() if value is not None and math.isfinite(value)}
    return known if len(known) == len(factors) and known["scaling_factor"] > 0 else {}


def _use(settings: Config) -> str:
    factor = settings.model.downsampling_factor
    return f"""\
```python
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("path/to/this/folder").eval()
latents = vae.encode(images).latent_dist.mode()  # images: (B, 3, H, W) float32 in [-1, 1], {factor} divides H and W
reconstructions = vae.decode(latents).sample
```

```
pikavae reconstruct path/to/this/folder picture.png --out reconstructions
pikavae import path/to/this/folder
```"""


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
