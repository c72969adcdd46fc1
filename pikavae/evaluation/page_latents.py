"""The latents on the page of an evaluation: their numbers in words, and pictures of how they are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from pikavae.data.page_charts import Bar, Chart, draw
from pikavae.data.page_html import NAME_LENGTH, Html, count, picture_address, shortened, tag, together
from pikavae.evaluation.latent_view import NOISED_PICTURES, LatentView
from pikavae.evaluation.latents import ACTIVE_VARIANCE
from pikavae.evaluation.page_numbers import number
from pikavae.evaluation.page_tiles import SMALL_PICTURE
from pikavae.evaluation.panels import to_uint8
from pikavae.evaluation.report import Report
from pikavae.evaluation.shown import ShownPicture
from pikavae.evaluation.smoothness import POSTERIOR

COLOURS = ("red", "green", "blue")
YARDSTICK = 0.1
"""The noise whose effect is told in words."""


def latents_section(report: Report, view: LatentView, pictures: Sequence[ShownPicture], limit: int) -> Html:
    """The section's content.

    Args:
        report: the numbers.
        view: the pictures.
        pictures: those whose latents are viewed, in that order, and perhaps more.
        limit: bytes of each image, about.
    """
    pictures = pictures[: len(view.components.pictures)]
    names = [shortened(picture.caption or picture.name, NAME_LENGTH) for picture in pictures]
    parts = [
        ("Channels", _channels(report)),
        ("As colours", _colours(report, view, pictures, names, limit)),
        ("With noise on them", _noisy(report, view, names, limit)),
        ("Between two pictures", _walks(view, names, limit)),
        ("Noise alone", _noise(report, view, limit)),
    ]
    return together(_numbers(report), *(together(tag("h3", title), content) for title, content in parts))


def count_images(view: LatentView) -> int:
    """How many images the section shows."""
    examples = [] if view.smoothness is None else view.smoothness.examples
    return 2 * len(view.components.pictures) + len(examples) + sum(len(w.frames) for w in view.walks) + len(view.noise)


def _numbers(report: Report) -> Html:
    """What a diffusion model's maker needs to know, each number with what it means."""
    metrics = report.metrics
    channels = len(report.latents["channel_means"])
    rows = [
        (
            "KL, nats a picture",
            number(metrics["kl_nats_per_image"], 1),
            "how much more a posterior tells than the standard normal: the price of its latent; mean over the pictures",
        ),
        (
            "KL, nats a number of the latent",
            number(metrics["kl_nats_per_dimension"], 3),
            "the same, divided by how many numbers a latent has; near 0 where the KL weight has silenced the latent",
        ),
        (
            f"active channels, of {channels}",
            number(metrics["active_units"], 0),
            f"that tell pictures apart: their unit variance, which is over pictures, is above {ACTIVE_VARIANCE:g}",
        ),
        (
            "scaling factor",
            number(metrics["scaling_factor"], 5),
            "what a diffusion model multiplies the latents by, so that their deviation is 1",
        ),
        ("shift factor", number(metrics["shift_factor"], 5), "what it subtracts before, where it does: their mean"),
    ]
    body = [
        tag("tr", tag("th", name, scope="row"), tag("td", value), tag("td", words, class_="said"))
        for name, value, words in rows
    ]
    return _table(("number", "value", "what it is"), body, class_="latent-numbers")


def _channels(report: Report) -> Html:
    found = report.latents
    columns = zip(found["channel_means"], found["channel_stds"], found["unit_variances"], strict=True)
    body = [
        tag("tr", tag("th", str(channel), scope="row"), *(tag("td", number(value, 4)) for value in values))
        for channel, values in enumerate(columns)
    ]
    return _table(("channel", "mean", "deviation", "unit variance"), body)


def _colours(
    report: Report, view: LatentView, pictures: Sequence[ShownPicture], names: Sequence[str], limit: int
) -> Html:
    shares = report.latent_view["component_shares"]
    if not shares:
        return tag("p", "The latents of these pictures do not vary, or are not finite: there is nothing to show.")
    told = ", ".join(f"{share:.1%} ({colour})" for share, colour in zip(shares, COLOURS, strict=False))
    words = (
        f"Each picture beside its latent, a cell for each position. Colours are the principal components of the "
        f"channels over all of these pictures, each scaled by its own deviation; they hold {told} of the variance. "
        f"Where the drawing can be recognised, the latent keeps its places, as it should; speckles on plain ground are "
        f"noise that a diffusion model would have to learn."
    )
    tiles = [
        tag(
            "li",
            tag(
                "figure",
                tag(
                    "div",
                    _image(picture.original, f"{name}, original", limit),
                    _image(colours, f"{name}, latent as colours", limit),
                    class_="halves",
                ),
                tag("figcaption", tag("bdi", name)),
            ),
        )
        for picture, colours, name in zip(pictures, view.components.pictures, names, strict=True)
    ]
    return together(tag("p", words), tag("ul", *tiles, class_="tiles"))


def _noisy(report: Report, view: LatentView, names: Sequence[str], limit: int) -> Html:
    levels = report.latent_view["smoothness"]
    if view.smoothness is None:
        return tag("p", "The latents do not vary, or are not finite: there is no deviation to measure noise by.")
    words = (
        f"What a diffusion model draws is never quite a latent that the encoder would give. Here the latents of the "
        f"first {count(min(len(names), NOISED_PICTURES), 'picture')} get noise, a share of each channel's deviation. "
        "In a smooth decoder a small error stays small: the gain, which is the change of the picture for a change of "
        "the latent, is the same for little noise as for much, and PSNR falls by 20 dB for ten times the noise. In one "
        "that is not smooth, little noise has the higher gain: errors that no diffusion model avoids are seen as "
        "speckles and broken edges, which reconstructions do not show."
    )
    named = [(_noise_name(level), level) for level in levels]
    body = [
        tag(
            "tr",
            tag("th", name, scope="row"),
            tag("td", _percent(level["latent_change"])),
            tag("td", number(level["psnr"], 2)),
            tag("td", number(level["gain"], 3)),
        )
        for name, level in named
    ]
    table = _table(("noise", "latent change", "PSNR, dB", "gain"), body)
    captions = ["no noise", *(name for name, _ in named)]
    strip = zip(captions, view.smoothness.examples, strict=True)
    return together(
        tag("p", words),
        tag("p", _yardstick(report, levels)),
        tag("div", *_chart(levels), table, class_="figures"),
        _strip(((caption, f"{names[0]}, {caption}", image) for caption, image in strip), limit),
    )


def _yardstick(report: Report, levels: Sequence[Mapping[str, Any]]) -> str:
    """The effect of one level against the reconstructions' own error."""
    level = next(level for level in levels if level["noise"] == YARDSTICK)
    own, noisy = report.metrics["psnr"], level["psnr"]
    if own is None or noisy is None:
        return ""
    verdict = "less than" if noisy > own else "more than" if noisy < own else "as much as"
    return (
        f"Here noise of {_percent(YARDSTICK)} changes the picture {verdict} the autoencoder itself does: "
        f"{noisy:.2f} dB beside {own:.2f} dB."
    )


def _chart(levels: Sequence[Mapping[str, Any]]) -> list[Html]:
    """PSNR by noise, without the posterior's own; none where a number is missing."""
    steps = [level for level in levels if level["noise"] != POSTERIOR]
    if any(level["psnr"] is None for level in steps):
        return []
    bars = [
        Bar(start=place, end=place + 1, value=max(level["psnr"], 0.0), label=f"noise of {_noise_name(level)}")
        for place, level in enumerate(steps)
    ]
    chart = Chart(
        title="PSNR of the decoded pictures by the noise on their latents",
        bars=bars,
        ticks=[(place + 0.5, _noise_name(level)) for place, level in enumerate(steps)],
        axis="noise, of each channel's deviation",
        quantity="PSNR, dB",
    )
    return [tag("figure", draw(chart))]


def _walks(view: LatentView, names: Sequence[str], limit: int) -> Html:
    if not view.walks:
        return tag("p", "It takes two pictures of one size to show what lies between them.")
    words = (
        "The way from one picture's latent to another's; both ends are reconstructions. It is a straight line: an arc "
        "(slerp) keeps the norm that draws from a normal distribution have, and latents of pictures are no such draws. "
        "The latent has places, so what is between looks like a cross-fade, and is no picture of the data; a smooth "
        "decoder shows no jumps, and nothing that is in neither picture."
    )
    strips = []
    for walk in view.walks:
        shares = [place / (len(walk.frames) - 1) for place in range(len(walk.frames))]
        ends = f"from {names[walk.first]} to {names[walk.second]}"
        frames = zip(shares, walk.frames, strict=True)
        strips.append(
            _strip(((_percent(at), f"{ends}, {_percent(at)} of the way", frame) for at, frame in frames), limit)
        )
    return together(tag("p", words), *strips)


def _noise(report: Report, view: LatentView, limit: int) -> Html:
    if not view.noise:
        return tag("p", "The latents are not finite: there is no deviation to draw noise of.")
    mean, std = (number(report.metrics[name], 4) for name in ("latent_mean", "latent_std"))
    words = (
        f"Decoded noise: every number of the latent drawn for itself from a normal distribution of the latents' mean, "
        f"{mean}, and deviation, {std}. This is where a diffusion model begins, and it gives no pictures of the data: "
        f"in a picture's latent neighbours belong together, and here they do not. It takes a diffusion model to turn "
        f"one into the other; these textures only show what the decoder makes of latents far from its data."
    )
    images = ((f"noise {place}", f"decoded noise {place}", image) for place, image in enumerate(view.noise, 1))
    return together(tag("p", words), _strip(images, limit))


def _strip(images: Iterable[tuple[str, str, Tensor]], limit: int) -> Html:
    """Images in a row that wraps where it is narrow: caption, words for who cannot see it, (3, H, W)."""
    items = [
        tag("li", tag("figure", _image(image, words, limit), tag("figcaption", caption)))
        for caption, words, image in images
    ]
    return tag("ul", *items, class_="strip")


def _image(image: Tensor, words: str, limit: int) -> Html:
    """A picture (3, H, W) in about [-1, 1]; small ones are enlarged without smoothing."""
    pixels = to_uint8(image[None])[0].permute(1, 2, 0).numpy()
    kind = "pixelated" if max(image.shape[1:]) <= SMALL_PICTURE else None
    return tag("img", src=picture_address(pixels, limit), alt=words, class_=kind)


def _noise_name(level: Mapping[str, Any]) -> str:
    return "the posterior's own" if level["noise"] == POSTERIOR else _percent(level["noise"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def _table(head: Sequence[str], body: Sequence[Html], **attributes: str) -> Html:
    columns = tag("tr", *(tag("th", name, scope="col") for name in head))
    return tag("div", tag("table", tag("thead", columns), tag("tbody", *body), **attributes), class_="scroll")
