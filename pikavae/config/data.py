"""Declare section `data`: where the pictures come from, and how they are prepared."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from .section import NamesPath, Section

Byte = Annotated[int, Field(ge=0, le=255)]
MAX_CHANNELS = 64
CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,39}")
CHANNELS = {"rgb": ("red", "green", "blue"), "grey": ("grey",), "rgba": ("red", "green", "blue", "alpha")}
"""What each word of `data.channels` stands for: the names of a picture's channels, in order."""


class DataConfig(Section):
    """Where the pictures come from and how they are prepared."""

    source: Annotated[str, NamesPath(unless="sprites|hub:.*")] = Field("sprites", min_length=1)
    """`sprites` (drawn by pikavae), `hub:ORG/NAME[@REVISION]`, or a path: a folder of pictures, or files (a glob).

    Files may be Parquet, Arrow, .tar (WebDataset) or .zip."""
    validation_source: Annotated[str | None, NamesPath(unless="sprites|hub:.*")] = Field(None, min_length=1)
    """A separate source of the validation pictures; without it they are split off `source`."""
    hub_config: str | None = Field(None, min_length=1)
    """The configuration (subset) of a hub data set that has several."""
    split: str = "train"
    """The split to read from a hub data set, or from a folder that `datasets` saved with several."""
    image_column: str | None = Field(None, min_length=1)
    """The column that holds the pictures, in hub data sets and Parquet or Arrow files.

    By default `image`, or else the only one that holds pictures."""
    caption_column: str | None = Field(None, min_length=1)
    """The column that holds the captions, in data sets and metadata files; pictures without one get an empty caption.

    By default `text`, `caption`, or else the only one that holds text other than names of files."""
    image_size: int = Field(512, ge=8, le=4096)
    """Pixels: the shorter side is scaled to this, then the centre square is cut out."""
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Files and folders of the source to ignore, such as masks: `*_mask.png`, `masks`, `train/**/depth_*`.

    A pattern without `/` names a file or folder at any depth; with `/`, a path from the source's folder. `**` spans
    folders."""
    links_into: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], NamesPath()] = ()
    """Folders outside the source that its links may lead into; other links are not followed."""
    crop: Literal["center", "random", "buckets", "native"] = "center"
    """`center`: the centre square. `random`: training sees a different square each time, validation the centre one.

    `buckets`: pictures nearly keep their aspect ratio, at about image_size squared pixels; a batch has one shape.
    `native`: as `random`, but the square is cut out of the picture at its own resolution, which is stored whole."""
    flip: bool = False
    """Mirror each picture left to right in half of all cases in training."""
    channels: Literal["rgb", "grey", "rgba"] | tuple[str, ...] = "rgb"
    """`rgb`, `grey`, or `rgba` (colours multiplied by alpha); or the names of a picture's channels, in order.

    Pictures with named channels are .npy or .tif files, or others with as many channels."""
    bit_depth: int = Field(8, ge=8, le=16, multiple_of=8)
    """8 or 16: the bits in which each channel is stored. With 16, deeper pictures than 8 bits keep 16."""
    range: tuple[float, float] | None = None
    """The values that become -1 and 1; by default the range of the picture's integers, such as 0 to 255.

    Pictures of floating-point numbers need it. Values beyond it are clipped, and counted on the page."""
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    """The RGB colour behind transparent pictures, if data.channels has no alpha."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """The share of pictures that is held out for validation, chosen by the hash of each picture's content."""
    near_duplicate_distance: int | None = Field(4, ge=0, le=10)
    """Pictures that look alike when small, and whose perceptual hashes differ in at most this many of 64 bits, are
    duplicates: they stay on one side of the split. Without a number, only equal pictures are."""
    drop_duplicates: Literal["none", "exact", "near"] = "none"
    """Use only the first by name of equal pictures (`exact`), or of all duplicates (`near`)."""
    repeats: Literal["none", "kohya"] = "none"
    """`kohya`: an epoch shows training pictures in a folder named like `42_name` 42 times, and validation ones once.

    By default an epoch shows each picture once, whatever its folder's name."""
    max_pixels: int = Field(100_000_000, ge=1, le=1_000_000_000)
    """Larger pictures are set aside before they are decoded. Decoding takes 4 to 16 bytes of memory a pixel."""
    max_unreadable_fraction: float = Field(0.05, ge=0, le=1)
    """The share of pictures that may be missing before preparation stops.

    Pictures that cannot be read, files of unknown formats, links that are not followed, and rows of metadata that name
    no picture count as missing."""
    tokenizer: Annotated[str | None, NamesPath(if_there=True)] = Field(None, min_length=1)
    """A CLIP tokenizer: a folder, or a hub id with an optional subfolder (`ORG/NAME/tokenizer`).

    Without one, a small tokenizer of the same format is built from the captions."""
    workers: int | None = Field(None, ge=1, le=256)
    """The number of processes that prepare pictures; by default one for each core."""
    sprites_count: int = Field(720, ge=2, le=1_000_000)
    """How many sprites are drawn; only for the source `sprites`."""
    sprites_seed: int = Field(0, ge=0)
    """The seed that the sprites are drawn from; only for the source `sprites`."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Return the names of a picture's channels, in order."""
        return CHANNELS[self.channels] if isinstance(self.channels, str) else self.channels

    @property
    def is_plain(self) -> bool:
        """Return True for 8-bit RGB pictures, the default."""
        return self.channels == "rgb" and self.bit_depth == 8 and self.range is None

    @field_validator("channels", mode="before")
    @classmethod
    def _word_of_channels(cls, given: Any) -> Any:
        """Take a word in a list, and the names that a word stands for, as that word."""
        if not isinstance(given, list | tuple):
            if not isinstance(given, str) or given not in CHANNELS:
                raise ValueError("expected rgb, grey, rgba, or a list of names such as [height, slope]")
            return given
        if not 1 <= len(given) <= MAX_CHANNELS:
            raise ValueError(f"expected 1 to {MAX_CHANNELS} names of channels, not {len(given)}")
        for name in given:
            if not isinstance(name, str) or not CHANNEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a channel: up to 40 letters, digits, blanks and _ . + -")
        if len(given) == 1 and given[0] in CHANNELS:
            return given[0]
        return next((word for word, names in CHANNELS.items() if names == tuple(given)), given)

    @model_validator(mode="after")
    def _channels_are_usable(self) -> Self:
        names = self.channel_names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"data.channels {' '.join(names)}: {twice[0]!r} is named twice; each has its own name")
        if self.range is not None and not self.range[0] < self.range[1]:
            low, high = self.range
            raise ValueError(f"data.range {low:g} {high:g}: expected the lower value first, such as {high:g} {low:g}")
        return self


def channels_for(count: int) -> str | tuple[str, ...]:
    """Return `data.channels` for a model that is known only to read pictures of this many channels."""
    words = {len(names): word for word, names in CHANNELS.items()}
    return words.get(count) or tuple(f"channel {number + 1}" for number in range(count))
