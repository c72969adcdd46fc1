"""Defines the record of a set of latents: statistics of the train split, settings, and the hash of every file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from pikavae.workspace.records import Record

CODE = "code of the latents"


class LatentNumbers(Record):
    """Holds the statistics of the train split's latents."""

    scaling_factor: float
    shift: float
    std: float = 0.0
    channel_means: Sequence[float] = ()
    channel_stds: Sequence[float] = ()
    statistics: str = ""
    """Says of what these are the statistics."""
    published_scaling_factor: float | None = None
    published_shift_factor: float | None = None
    published_latents_mean: Sequence[float] | None = None
    published_latents_std: Sequence[float] | None = None
    """The factors that the model's weights were published with, which diffusion models for them use instead."""
    distance: Distance | None = None
    """How far the latents are from those in float32; None if they are in float32."""


class Distance(Record):
    """Says how far latents in half precision are from those of the same pictures in float32."""

    pictures: int
    """On how many pictures it was measured, spread evenly over the set."""
    largest: float
    """The largest absolute difference of any number of a latent."""
    rms: float
    """The root of the mean squared difference."""

    def describe(self, std: float) -> str:
        """Describe the distance beside the deviation `std` of the latents."""
        return (
            f"{self.rms:.2g} RMS and at most {self.largest:.2g} from float32, where the latents deviate by {std:.2g} "
            f"(on {self.pictures} pictures)"
        )


class LatentSettings(Record):
    """Holds everything that decides the shards' bytes; every shard carries it."""

    model: str = ""
    """The digest of the model's sizes and weights."""
    snapshot: str = ""
    """The model's name, for a person."""
    prepared_set: str = ""
    image_size: int = 0
    downsampling_factor: int = 0
    latent_shape: Sequence[int] = ()
    normalised: bool = False
    """If True, latents are packed in cells of 2x2 and normalised by the model's own statistics."""
    logvar: bool = False
    precision: str = "float32"
    """The format that the encoder computed in."""
    num_images: Mapping[str, int]
    """The number of rows by side."""
    batch_size: int = 0
    rows_per_shard: int = 0
    computed_on: str = ""
    torch: str = ""
    pikavae: str = ""
    code: str = Field(default="", validation_alias=CODE, serialization_alias=CODE)


class LatentRecord(LatentSettings, LatentNumbers):
    """Holds `latents.json`: the numbers, the settings, and the SHA-256 of each file by its path in the folder."""

    files: Mapping[str, str]
