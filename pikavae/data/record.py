"""Defines the record of a prepared set: what was done to every picture, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from pikavae.data.pictures.form import RGB, PixelForm
from pikavae.workspace.records import Record

RECORD_NAME = "record.json"


class NotUsed(Record):
    """Names something that is not a picture of the set, and the reason."""

    name: str
    reason: str
    kind: str | None = None
    """Of what was set aside: what it is, in words that follow a number."""


class CaptionCounts(Record):
    """Counts what was done to the captions of the pictures used."""

    missing: int = 0
    """Captions that are not there, or empty."""
    truncated: int = 0
    notes: Mapping[str, int] = {}
    """How many captions have each note of `captions.clean`."""


class MissingCounts(Record):
    """Counts the pictures that the set does not have, and why."""

    num_quarantined: int
    unreadable: Mapping[str, int]
    """How many pictures do not decode, by the reason."""
    num_left_out: int
    left_out: Mapping[str, int]
    """How many files were left out, by their kind."""


class SetRecord(Record):
    """Holds the record of a prepared set, which is written last and so marks the set as whole.

    `files` has the size of every file by its path in the set's folder, and `sha256` the hash. Sets of earlier versions
    have fewer fields; what opening a set needs has no default.
    """

    fingerprint: str
    image_size: int
    crop: str
    shards: Sequence[str]
    """The file names of the shards, in the order of their numbers in the index."""
    channels: Sequence[str] = RGB
    """The names of a picture's channels, in order."""
    bit_depth: int = 8
    """The bits in which each channel is stored."""
    value_range: Sequence[float] | None = None
    """The values of a source that are stored as the least and the largest number; None for those of its type."""
    num_images: int = 0
    num_train: int = 0
    num_repeated: int = 0
    """Rows of the index beyond the first of each picture."""
    num_validation: int = 0
    num_leaked: int = 0
    num_bridging: int = 0
    num_dropped: int = 0
    num_exact_duplicates: int = 0
    num_near_duplicates: int = 0
    unused: Sequence[NotUsed] = ()
    """Readable pictures that are on neither side."""
    captions: CaptionCounts = CaptionCounts()
    num_quarantined: int = 0
    quarantined: Sequence[NotUsed] = ()
    """Pictures that do not decode."""
    num_left_out: int | None = None
    left_out: Mapping[str, int] | None = None
    """How many files were left out, by their kind."""
    set_aside: Sequence[NotUsed] = ()
    """What the sources found and did not use."""
    columns: Mapping[str, Mapping[str, str | None]] = {}
    """The columns of pictures and captions, by source."""
    captions_from: Mapping[str, Mapping[str, int]] = {}
    """The number of captioned pictures by origin of the caption, by source."""
    warnings: Sequence[str] = ()
    files: Mapping[str, int]
    sha256: Mapping[str, str] | None = None
    ignored: Mapping[str, Mapping[str, int]] = Field(default={}, exclude=True)
    """The files that are ignored now, by kind and source; not in the file, because they do not make another set."""

    @property
    def form(self) -> PixelForm:
        """The form of the stored pixels."""
        low_high = None if self.value_range is None else (self.value_range[0], self.value_range[1])
        return PixelForm(tuple(self.channels), self.bit_depth, low_high)

    @property
    def counts(self) -> dict[str, int]:
        """The counts in the record, by name."""
        names = (name for name in type(self).model_fields if name.startswith("num_") and name in self.model_fields_set)
        return {name: getattr(self, name) for name in names}
