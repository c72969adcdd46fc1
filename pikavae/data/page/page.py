"""Makes a page about a prepared set, which shows what is in it. `page.html` holds its words.

The page is one HTML file. It uses no network and can be read without its script, so it opens in the sandboxed viewer of
an experiment tracker as well as from a disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from pikavae.data.page.facts import DuplicatePair, SetFacts, Side
from pikavae.data.page.findings import crosses, findings
from pikavae.data.page.numbers import (
    COLOUR_SAMPLE,
    GRID_SIDE,
    evenly,
    kept_share,
    measure_channels,
    measure_colours,
    ratio_chart,
    share_chart,
    shorter_side,
    size_chart,
    token_chart,
)
from pikavae.data.page.word_counts import count_words
from pikavae.data.pictures.form import Pixels
from pikavae.data.shards.files import MAX_TOKENS
from pikavae.html.images import thumbnail
from pikavae.html.render import render
from pikavae.html.text import shortened

TEMPLATE = Path(__file__).with_name("page.html")
CONTACT_PICTURES = 96
CONTACT_VALIDATION = 24
"""The most validation pictures on the contact sheet, unless there are too few others."""
MOST_NAMES = 200
MOST_REASONS = 40
MOST_WORDS = 30
REASON_LENGTH = 160


class DataPage(NamedTuple):
    """Holds a page: `document` is one HTML file, `warnings` are its sentences that need attention."""

    document: str
    warnings: list[str]


def data_page(
    facts: SetFacts,
    pixels: Callable[[int], np.ndarray],
    *,
    over_white: Callable[[int], np.ndarray] | None = None,
    stored: Callable[[int], Pixels] | None = None,
) -> DataPage:
    """Make the page, one HTML document of less than three megabytes. The same facts give the same page.

    Args:
        facts: the set.
        pixels: maps an index into `facts.pictures` to the prepared picture, (H, W, 3) uint8. It is called for a sample
            of at most 2,000 pictures and for those shown; for a dropped one only if a pair that is shown has it.
        over_white: the same, over white in place of a checkerboard, to measure colours; by default `pixels`.
        stored: the same as (H, W, C) of the stored type, to measure channels; None for RGB, whose channels
            are measured with the colours.

    Raises:
        ValueError: no picture is on a side.
    """
    used = [picture for picture in facts.pictures if picture.side != "dropped"]
    if not used:
        raise ValueError("a page needs at least one picture for training or validation")
    sides: dict[Side, list[int]] = {"train": [], "validation": [], "dropped": []}
    for i, picture in enumerate(facts.pictures):
        sides[picture.side].append(i)
    sample = evenly([*sides["train"], *sides["validation"]], COLOUR_SAMPLE)
    colours = measure_colours(sample, over_white or pixels)
    channels = [] if stored is None else measure_channels(sample, stored, facts.channels)
    judged = findings(facts, colours)
    captioned = [picture for picture in used if picture.caption]
    charts = {
        "sizes": size_chart(used, facts.image_size),
        "ratios": ratio_chart(used),
        "brightness": share_chart(colours.brightness, "Histogram of brightness", "brightness (luma)"),
        "saturation": share_chart(colours.saturation, "Histogram of saturation", "saturation (HSV)"),
        "tokens": token_chart(captioned),
    }
    document = render(
        TEMPLATE,
        facts=facts,
        used=used,
        sides=sides,
        findings=judged,
        charts=charts,
        contact_sheet=_contact_sheet(sides),
        image=lambda index: thumbnail(pixels(index)),
        shorter_sides=sorted(map(shorter_side, used)),
        num_small=sum(shorter_side(picture) < facts.image_size for picture in used),
        num_square=sum(picture.width == picture.height for picture in used),
        kept_share=sum(map(kept_share, used)) / len(used),
        spread=_spread,
        colours=colours,
        channels=channels,
        grid_side=GRID_SIDE,
        lengths=sorted(picture.num_tokens for picture in captioned),
        num_distinct=len({picture.caption for picture in captioned}),
        num_cut=sum(picture.num_tokens > MAX_TOKENS for picture in captioned),
        words=count_words(picture.caption for picture in captioned)[:MOST_WORDS],
        notes=_largest_first(facts.notes),
        pairs=_across_first(facts),
        num_across=sum(crosses(facts, pair) for pair in facts.near_duplicates),
        crosses=crosses,
        set_aside=_by_reason(facts.set_aside),
        changes=_largest_first(Counter(change for picture in used for change in picture.changes)),
    )
    return DataPage(document, [finding.text for finding in judged if finding.level == "check"])


def _contact_sheet(sides: Mapping[Side, Sequence[int]]) -> dict[Side, list[int]]:
    """Choose up to 96 pictures to show, by their indices."""
    train = evenly(sides["train"], CONTACT_PICTURES - min(CONTACT_VALIDATION, len(sides["validation"])))
    return {"train": train, "validation": evenly(sides["validation"], CONTACT_PICTURES - len(train))}


def _across_first(facts: SetFacts) -> list[DuplicatePair]:
    """Sort the pairs: those across train and validation come first, and the nearest of them."""
    return sorted(
        facts.near_duplicates,
        key=lambda pair: (not crosses(facts, pair), not pair.exact, pair.distance, pair.first, pair.second),
    )


def _by_reason(set_aside: Sequence[tuple[str, str]]) -> list[tuple[str, list[str], int]]:
    """Group files by reason, the most frequent first: the reason, the names to show, how many there are."""
    names: dict[str, list[str]] = {}
    for name, reason in set_aside:
        names.setdefault(shortened(reason, REASON_LENGTH), []).append(name)
    room, groups = MOST_NAMES, []
    for reason, files in sorted(names.items(), key=lambda item: (-len(item[1]), item[0]))[:MOST_REASONS]:
        groups.append((reason, files[:room], len(files)))
        room -= len(files[:room])
    return groups


def _largest_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _spread(ordered: Sequence[int], unit: str) -> str:
    """Describe the range and the median of sorted numbers."""
    if ordered[0] == ordered[-1]:
        return f"always {ordered[0]:,} {unit}"
    return f"from {ordered[0]:,} to {ordered[-1]:,} {unit}, the median is {median(ordered):,g}"
