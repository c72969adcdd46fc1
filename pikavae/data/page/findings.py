"""Judges a prepared set in sentences, each with the number it rests on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from pikavae.data.page.facts import DuplicatePair, PictureFacts, SetFacts
from pikavae.data.page.numbers import Colours, kept_share, shorter_side
from pikavae.data.shards.files import MAX_TOKENS
from pikavae.html.text import PageFinding, count, percent, shortened, subject

FEW_PICTURES = 30
MUCH_SET_ASIDE = 0.01
MUCH_OF_ONE_COLOUR = 0.25
SAME_CAPTION = 0.1


def findings(facts: SetFacts, colours: Colours) -> list[PageFinding]:
    """Return the judgements; those that need attention come first."""
    used = [picture for picture in facts.pictures if picture.side != "dropped"]
    found = [
        *(PageFinding("check", warning) for warning in facts.warnings),
        *_sides(facts, used),
        *_likenesses(facts),
        *_sizes(used, facts.image_size, are_whole=facts.is_native),
        *_captions(used),
        *_colours(colours),
    ]
    return sorted(found, key=lambda finding: ("check", "note", "fine").index(finding.level))


def crosses(facts: SetFacts, pair: DuplicatePair) -> bool:
    """Return True if one picture of the pair is in train and the other in validation."""
    return {facts.pictures[pair.first].side, facts.pictures[pair.second].side} == {"train", "validation"}


def _sides(facts: SetFacts, used: Sequence[PictureFacts]) -> Iterator[PageFinding]:
    num_validation = sum(picture.side == "validation" for picture in used)
    if num_validation == 0:
        yield PageFinding("check", "No picture is held out for validation: nothing can judge the model.")
    elif num_validation == 1:
        yield PageFinding("check", "A single picture is held out for validation: its score says nothing about others.")
    else:
        yield PageFinding(
            "check" if num_validation < FEW_PICTURES else "note",
            f"{count(num_validation, 'picture')} ({percent(num_validation, len(used))}) are held out for validation: "
            f"the standard error of a mean score over them is {percent(1 / math.sqrt(num_validation))} of the "
            f"standard deviation between pictures (1/√n).",
        )
    if num_validation == len(used):
        yield PageFinding("check", "No picture is left to train on.")
    num_files = len(facts.pictures) + len(facts.set_aside)
    num_aside, num_dropped = len(facts.set_aside), len(facts.pictures) - len(used)
    if num_aside:
        yield PageFinding(
            "check" if num_aside > MUCH_SET_ASIDE * num_files else "note",
            f"{num_aside:,} of {count(num_files, 'file')} ({percent(num_aside, num_files)}) could not be used and "
            f"{'was' if num_aside == 1 else 'were'} set aside.",
        )
    else:
        yield PageFinding("fine", "Every file could be used: none was set aside.")
    if num_dropped:
        yield PageFinding(
            "note", f"{count(num_dropped, 'picture')} could be read but {_are(num_dropped)} on neither side (dropped)."
        )


def _likenesses(facts: SetFacts) -> Iterator[PageFinding]:
    num_across = sum(crosses(facts, pair) for pair in facts.near_duplicates)
    num_within = len(facts.near_duplicates) - num_across
    if num_across:
        yield PageFinding(
            "check",
            f"{count(num_across, 'pair')} of near-duplicates {'lies' if num_across == 1 else 'lie'} across train and "
            f"validation: the model is judged on pictures that it has all but seen.",
        )
    else:
        yield PageFinding("fine", "No pair of near-duplicates lies across train and validation.")
    if num_within:
        yield PageFinding(
            "note",
            f"{count(num_within, 'pair')} of near-duplicates {'lies' if num_within == 1 else 'lie'} within one side.",
        )
    if number := facts.num_exact_duplicates:
        yield PageFinding("note", f"{count(number, 'picture')} {_are(number)} an exact copy of another.")


def _sizes(used: Sequence[PictureFacts], image_size: int, *, are_whole: bool) -> Iterator[PageFinding]:
    num_small = sum(shorter_side(picture) < image_size for picture in used)
    if num_small:
        yield PageFinding(
            "check",
            f"{subject(num_small, len(used), 'picture', 'was', 'were')} scaled up to {image_size} px and so "
            f"{'holds' if num_small in {1, len(used)} else 'hold'} less detail than that size can show.",
        )
    else:
        yield PageFinding(
            "fine", f"Every picture has at least {image_size} px on its shorter side: none was scaled up."
        )
    num_halved = sum(kept_share(picture) <= 0.5 for picture in used)
    if num_halved and not are_whole:
        yield PageFinding(
            "note",
            f"{subject(num_halved, len(used), 'picture', 'is', 'are')} at least twice as long in one direction as in "
            f"the other: the centre square leaves half of that area or more out.",
        )


def _captions(used: Sequence[PictureFacts]) -> Iterator[PageFinding]:
    written = [picture for picture in used if picture.caption]
    num_missing = len(used) - len(written)
    if not written:
        yield PageFinding(
            "note", "No picture has a caption. The autoencoder needs none; a model conditioned on text does."
        )
        return
    num_cut = sum(picture.num_tokens > MAX_TOKENS for picture in written)
    if num_cut:
        yield PageFinding(
            "check",
            f"{subject(num_cut, len(written), 'caption', 'is', 'are')} cut at {MAX_TOKENS} tokens.",
        )
    else:
        yield PageFinding("fine", f"No caption is longer than {MAX_TOKENS} tokens: none was cut.")
    if num_missing:
        yield PageFinding("note", f"{subject(num_missing, len(used), 'picture', 'has', 'have')} no caption.")
    caption, number = min(Counter(p.caption for p in written).items(), key=lambda item: (-item[1], item[0]))
    if number > max(1, SAME_CAPTION * len(written)):
        yield PageFinding(
            "check",
            f"{subject(number, len(used), 'picture', 'has', 'have')} the same caption, “{shortened(caption, 60)}”.",
        )


def _colours(colours: Colours) -> Iterator[PageFinding]:
    if colours.colour_share > MUCH_OF_ONE_COLOUR:
        yield PageFinding(
            "note",
            f"{percent(colours.colour_share)} of the pixels are {colours.colour_name}: mean scores look high even "
            f"for a reconstruction of nothing but that colour, so compare them with the baselines.",
        )
    if colours.num_plain:
        yield PageFinding(
            "check",
            f"{count(colours.num_plain, 'picture')} of {colours.num_pictures:,} sampled {_are(colours.num_plain)} of "
            f"one single colour.",
        )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
