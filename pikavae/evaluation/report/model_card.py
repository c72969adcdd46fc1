"""Writes the card of a model: what it is, its training, its scores and their protocol, and how to use it.

The card is Markdown with a header that model hubs read. The same report, configuration and name give the same card.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from pikavae.config import Config
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.report.card_loading import class_of, use_of
from pikavae.evaluation.report.report import Report
from pikavae.html.text import shown_number
from pikavae.model.sizes import Factors, in_digits
from pikavae.model.tiny_sizes import TINY

CARD_NAME = "model_card.md"
LENGTH = 160
HUB = "hub:"
HEADLINE = ("psnr", "ssim")
FOLDERS = re.compile(r"(?<![\w.])/(?:[^/\s]+/)+")
"""Matches the folders of an absolute path, before its last part."""
TASK = {"type": "image-to-image", "name": "Reconstruction by an autoencoder"}
LIMITS = """\
- It reconstructs pictures; it makes none from nothing. A latent diffusion model that is trained on its latents does.
- Scores hold for pictures like those that they were measured on, at that size, by that protocol; others differ.
- Fine detail below the latent's grid (small text, far faces) is lost first.
- Whatever the pictures' owners allow or forbid holds for a model that was trained on them."""


@dataclass(frozen=True)
class Training:
    """Records what happened in a model's training, which can differ from what its configuration asked for.

    Attributes:
        step: the optimizer step of the weights.
        steps: how many steps the training took in all.
        images_seen: pictures up to the weights' step, counted each time they were seen.
        num_images: how many different training pictures there are; None if unknown.
        started_with: the digest of the first weights; None if they were new.
        name: what its run is called; None if unknown.
        note: what a person wrote about the run.
        tags: the tags that people gave the run.
        used: what the training used, such as `1.2 GPU hours, 0.8 CPU hours`; empty if it was not recorded.
    """

    step: int
    steps: int
    images_seen: int
    num_images: int | None
    started_with: str | None
    name: str | None = None
    note: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    used: str = ""


@dataclass(frozen=True)
class Scaling:
    """Holds the factors that give latents a mean of 0 and a deviation of 1, and the pictures they were measured on."""

    scaling_factor: float
    shift_factor: float
    num_images: int
    side: Literal["training", "evaluation"]

    @classmethod
    def of(
        cls, factor: float | None, shift: float | None, *, num_images: int, side: Literal["training", "evaluation"]
    ) -> Scaling | None:
        """Return the factors that were measured; None if latents cannot be scaled by them."""
        if factor is None or shift is None or not (math.isfinite(factor) and math.isfinite(shift) and factor > 0):
            return None
        return cls(factor, shift, num_images, side)

    @property
    def factors(self) -> dict[str, float]:
        """Return the factors in the form of a model's `config.json`."""
        return {"scaling_factor": self.scaling_factor, "shift_factor": self.shift_factor}

    @property
    def source(self) -> str:
        """Describe the pictures that the factors were measured on."""
        return f"the {self.num_images:,} {self.side} picture{'' if self.num_images == 1 else 's'}"


def model_card(
    report: Report | None,
    config: Config,
    *,
    name: str,
    is_imported: bool = False,
    training: Training | None = None,
    scaling: Scaling | None = None,
    written: bool = False,
    came_with: Factors | None = None,
) -> str:
    """Write the card as Markdown.

    Args:
        report: the model's report; None if it was never measured, which the card then says.
        config: the configuration that made the model.
        name: what its maker calls the model.
        is_imported: True if another maker made the model; then only sizes and picture size of `config` are known.
        training: what happened in its training; None if unknown, which the card then says.
        scaling: the scaling of its latents; None if it was not measured.
        written: True if `config.json` beside the card has that scaling.
        came_with: the factors of the latents in the weights' own `config.json`, by diffusers' names.
    """
    parts = [
        ("Training", _training(config, training, is_imported=is_imported)),
        ("Scores", NOT_MEASURED if report is None else _scores(report)),
        (
            "Latents",
            _about_latents(config, scaling, written=written, came_with=came_with or {}),
        ),
        ("Use", use_of(config)),
        ("Limits", LIMITS),
        ("Licence", "Not stated yet. Whoever publishes this model fills in `license` above, and this line."),
    ]
    sections = [f"## {title}\n\n{text}" for title, text in parts]
    return (
        "\n".join(
            [_header(report, config, name, is_imported=is_imported), f"# {one_line(name)}", "", _kind(config), "", ""]
        )
        + "\n\n".join(sections)
        + "\n"
    )


NORMALISED = (
    "A diffusion model gets them packed and normalised, in place of a scaling and a shift: `packed = "
    "torch.nn.functional.pixel_unshuffle(latents, 2)`, then `(packed - mean) / std` by channel, with `mean = "
    "vae.bn.running_mean` and `std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()`. The statistics are with "
    "the weights."
)
POINT = (
    "A diffusion model gets them as they are, and they are decoded as they are: there is no scaling and no shift. The "
    "decoder keeps them within -3 and 3 by a smooth function."
)
NOT_MEASURED = "Not measured yet: `pikavae evaluate` does it."


def one_line(text: object) -> str:
    """Turn a text from outside into one line of bounded length, free of Markdown and HTML."""
    line = " ".join(str(text).split())
    short = line if len(line) <= LENGTH else f"{line[: LENGTH - 1]}…"
    return short.translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|#"})


def source_name(source: str) -> str:
    """Return the name of a source of pictures, without the folders of a local path."""
    return source if source.startswith(HUB) else source.rstrip("/").rsplit("/", 1)[-1]


def _header(report: Report | None, config: Config, name: str, *, is_imported: bool) -> str:
    """Write the YAML header in the terms of Hugging Face's model cards."""
    data = config.data
    header: dict[str, Any] = {
        "license": "unknown",
        "library_name": "diffusers",
        "pipeline_tag": "image-to-image",
        "tags": ["autoencoder", "vae", class_of(config), "pikavae"],
    }
    if data.source.startswith(HUB) and not is_imported:
        header["datasets"] = [data.source.removeprefix(HUB)]
    if report is not None:
        metrics = [
            {"type": metric, "name": METRICS[metric].title, "value": round(value, 6)}
            for metric in HEADLINE
            if (value := report.metrics[metric]) is not None
        ]
        dataset = {"name": f"evaluation set {report.evaluation_set}", "type": f"pikavae/{report.evaluation_set}"}
        result = {"task": TASK, "dataset": dataset, "metrics": metrics}
        header["model-index"] = [{"name": " ".join(name.split())[:LENGTH], "results": [result]}] if metrics else []
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text.replace('license: unknown', 'license: unknown  # yours to fill in', 1)}---\n"


def _kind(config: Config) -> str:
    model = config.model
    if model.kind == "tiny":
        return (
            f"A tiny autoencoder of TAESD's kind (diffusers' `{TINY}`): one latent cell of {model.latent_channels} "
            f"numbers for {model.downsampling_factor} x {model.downsampling_factor} pixels, {model.channels[0]} "
            f"channels throughout, no distribution of latents. Any height and width that {model.downsampling_factor} "
            f"divides.{_pictures(config)}{NORM_WARNING if model.mid_block_norm else ''}"
        )
    maker = "FLUX.2" if model.latent_norm else "Stable Diffusion v1"
    channels = ", ".join(map(str, model.channels))
    if model.decoder_channels:
        channels += f" (in the decoder {', '.join(map(str, model.decoder_channels))})"
    return (
        f"A variational autoencoder of {maker}'s kind (diffusers' `{class_of(config)}`): one latent cell of "
        f"{model.latent_channels} numbers for {model.downsampling_factor} x {model.downsampling_factor} pixels, "
        f"channels {channels}. Any height and width that {model.downsampling_factor} divides.{_pictures(config)}"
        f"{_padding(config)}"
    )


def _pictures(config: Config) -> str:
    """Describe pictures that are not 8-bit RGB, which other programs take for granted; empty for those."""
    data = config.data
    if data.is_plain:
        return ""
    names = ", ".join(map(one_line, data.channel_names))
    text = f"\n\n**Its pictures are not 8-bit RGB.** Their channels are {names}."
    if data.channels == "rgba":
        text += " Colours are multiplied by alpha before they are encoded, and divided by it after they are decoded."
    if data.bit_depth != 8:
        text += f" Each was prepared with {data.bit_depth} bits."
    if data.range is not None:
        text += f" -1 and 1 stand for the values {data.range[0]:g} and {data.range[1]:g}."
    return text


NORM_WARNING = (
    "\n\n**Its blocks beside the latent have a norm,** as in FLUX.2's tiny autoencoder. diffusers does not know "
    "it: without the lines below, it leaves these weights out, with a warning, and spoils every picture."
)
"""Warns of the norms of `model.mid_block_norm`, which other programs do not know."""


def _padding(config: Config) -> str:
    """Warn of a padding that other programs do not know; empty if they do."""
    padding = config.model.padding
    if padding == "zeros":
        return ""
    return (
        f"\n\n**Its convolutions pad by `{padding}`.** diffusers and other programs pad by zeros, and do not read "
        f"`padding_mode` in `config.json`: without the lines below, pictures are spoilt at their borders."
    )


def _training(config: Config, training: Training | None, *, is_imported: bool) -> str:
    if is_imported:
        return "Made elsewhere, and imported: how it was trained is not known here."
    data = config.data
    source = one_line(source_name(data.source))
    if training is None:
        return (
            f"Trained by pikavae on the pictures of {source} at {data.image_size} px. How long is not known here: "
            f"`pikavae.yaml` beside the weights has what was asked for, and the training may have ended before."
        )
    pictures = "" if training.num_images is None else f"{training.num_images:,} "
    seen = f"{training.images_seen:,} pictures seen"
    if training.num_images:
        seen += f", {training.images_seen / training.num_images:,.1f} times each"
    length = "no step yet"
    if training.step:
        length = f"{training.step:,} steps of {training.images_seen // training.step:,} pictures ({seen})"
    if training.step != training.steps:
        length += f"; the training went on to step {training.steps:,}"
    used = f" It used {training.used}." if training.used else ""
    return (
        f"Trained by pikavae on the {pictures}training pictures of {source} at {data.image_size} px, {length}, from "
        f"{_start(config, training)}{_teacher(config)}; loss: {config.loss.reconstruction}; optimizer: "
        f"{config.optimizer.name}.{used} `pikavae.yaml` beside the weights has every setting."
        f"{_labels(training)}"
    )


def _labels(training: Training) -> str:
    """Return what people call the run, as a paragraph; empty if nothing is known."""
    if training.name is None:
        return ""
    tags = ", ".join(one_line(f"{name}={value}") for name, value in training.tags.items())
    parts = [
        f"Its run is called {one_line(training.name)}",
        one_line(training.note).rstrip("."),
        tags and f"tags: {tags}",
    ]
    return f"\n\n{'. '.join(part for part in parts if part)}."


def _start(config: Config, training: Training) -> str:
    if training.started_with is None:
        return "new weights"
    named = config.training.start
    return f"the weights {training.started_with}" if named is None else f"the weights of {one_line(source_name(named))}"


def _teacher(config: Config) -> str:
    named = config.training.teacher
    return "" if named is None else f", with the latents of {one_line(source_name(named))} to learn"


def _scores(report: Report) -> str:
    metrics = [
        f"| `{name}` | {shown_number(value)} | {one_line(FOLDERS.sub('', report.explain(name)))} |"
        for name, value in report.metrics.items()
    ]
    protocol = [
        f"- {one_line(name)}: {one_line(value)}"
        for name, value in report.protocol.items()
        if name not in report.metrics
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


def _about_latents(config: Config, scaling: Scaling | None, *, written: bool, came_with: Factors) -> str:
    if config.model.kind == "tiny":
        return POINT
    return NORMALISED if config.model.latent_norm else _latents(scaling, written=written, came_with=came_with)


def _latents(scaling: Scaling | None, *, written: bool, came_with: Factors) -> str:
    own = "".join(f", {name.replace('_', ' ')} {in_digits(value, 6)}" for name, value in came_with.items())
    if "latents_std" in came_with:
        own += "; by channel, a diffusion model gets `(latent - latents_mean) * scaling_factor / latents_std`"
    if scaling is None:
        return f"Their deviation was not measured: `config.json` has what the weights came with{own}."
    where = (
        "`config.json` has both."
        if written
        else f"`config.json` here has what the weights came with{own}; `pikavae export` writes what was measured, "
        "but where the latents are those of published weights, which keep theirs."
    )
    return (
        f"Scaling factor {scaling.scaling_factor:.6g}, shift factor {scaling.shift_factor:.6g}, measured on "
        f"{scaling.source} (posterior's mode). `(latent - shift_factor) * scaling_factor` has mean 0 and deviation 1. "
        f"{where} A trainer that knows no shift may leave it out."
    )


def scaling_of_report(report: Report) -> Scaling | None:
    """Return the scaling of a report's pictures; None if it could not be measured."""
    metrics = report.metrics
    return Scaling.of(
        metrics.get("scaling_factor"), metrics.get("shift_factor"), num_images=report.num_images, side="evaluation"
    )
