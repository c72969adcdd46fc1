"""What a page about a prepared set is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Side = Literal["train", "validation", "dropped"]


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """One picture that could be read."""

    name: str
    """Its name in the source."""
    side: Side
    """Where it went; `dropped` pictures are on neither side."""
    caption: str
    """Empty where there is none."""
    num_tokens: int
    """Tokens of the whole caption, the marks of start and end included, before any are cut."""
    width: int
    """Pixels of the file's picture, upright, before it was scaled."""
    height: int
    """See `width`."""
    changes: tuple[str, ...] = ()
    """What was done to it besides scaling, as a reader would say it: `turned upright`."""


@dataclass(frozen=True, slots=True)
class DuplicatePair:
    """Two pictures that look alike."""

    first: int
    """Index into `SetFacts.pictures`."""
    second: int
    """See `first`."""
    distance: int
    """Hamming distance of their perceptual hashes, in bits."""
    exact: bool = False
    """Whether their pixels are equal."""


@dataclass(frozen=True)
class SetFacts:
    """A prepared set."""

    title: str
    fingerprint: str
    source: str
    image_size: int
    """Pixels along a side of every prepared picture."""
    pictures: Sequence[PictureFacts]
    """At least one of them on a side."""
    set_aside: Sequence[tuple[str, str]]
    """(name, reason) of every file that could not be used."""
    near_duplicates: Sequence[DuplicatePair]
    """The pairs that were found, in any order."""
    num_exact_duplicates: int
    """Pictures whose pixels equal those of an earlier one."""
    notes: Mapping[str, int]
    """What happened to captions, and to how many."""
    settings: Mapping[str, str]
    """What the set was made with, by name."""
