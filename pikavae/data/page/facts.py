"""Declares the facts that the page about a prepared set is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pikavae.data.pictures.form import RGB

Side = Literal["train", "validation", "dropped"]


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """Describes one readable picture."""

    name: str
    """Its name in the source."""
    side: Side
    """The side it is on; `dropped` pictures are on neither."""
    caption: str
    """The caption; empty if there is none."""
    num_tokens: int
    """Tokens of the whole caption before truncation, with the marks of start and end."""
    width: int
    """Width of the upright source picture before scaling, in pixels."""
    height: int
    """Height of the upright source picture before scaling, in pixels."""
    changes: tuple[str, ...] = ()
    """What was done to it besides scaling, in plain words: `turned upright`."""


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Names two pictures that look alike."""

    first: int
    """Index of one picture in `SetFacts.pictures`."""
    second: int
    """Index of the other picture in `SetFacts.pictures`."""
    distance: int
    """Hamming distance of their perceptual hashes, in bits."""
    exact: bool = False
    """True if their pixels are equal."""


@dataclass(frozen=True)
class SetFacts:
    """Describes a prepared set."""

    title: str
    fingerprint: str
    source: str
    image_size: int
    """Pixels along a side of every prepared picture."""
    pictures: Sequence[PictureFacts]
    """The readable pictures; at least one is on a side."""
    set_aside: Sequence[tuple[str, str]]
    """(name, reason) of every file that could not be used."""
    near_duplicates: Sequence[DuplicatePair]
    """The pairs of duplicates that were found, in any order."""
    num_exact_duplicates: int
    """Pictures whose pixels equal those of an earlier one."""
    notes: Mapping[str, int]
    """What was done to captions, with the number of captions."""
    settings: Mapping[str, str]
    """The settings that made the set, by name."""
    channels: Sequence[str] = RGB
    """The names of a picture's channels."""
    bit_depth: int = 8
    """The bits of each channel."""
    colours: str = ""
    """How pictures are shown, as a sentence; empty for RGB."""
    warnings: Sequence[str] = ()
    """The source's warnings: what to know before training on it."""

    @property
    def is_native(self) -> bool:
        """Return True if pictures are stored whole, at their own resolution."""
        return self.settings.get("data.crop") == "native"
