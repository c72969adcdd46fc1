"""Declare section `model`: the autoencoder's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from .data import MAX_CHANNELS
from .families import FAMILIES, MAX_WEIGHTS, NOT_IN_TINY, ONLY_IN_KL
from .section import Section

FOLLOWING = frozenset({"image_channels"})
"""Fields of section `model` that follow from another section: no form shows them."""


def _without_fields(schema: dict[str, Any]) -> None:
    for name in {"like", *FOLLOWING}:
        schema["properties"].pop(name)
    # Prefect checks stored configurations by the schema, and they have all fields. Other names are refused on reading.
    del schema["additionalProperties"]


class ModelConfig(Section):
    """The autoencoder's sizes and initialisation. The downsampling factor is 2 to the power of the levels minus one."""

    # A form fills in every size, and sizes that are given win: there, a family would do nothing, and a number of
    # channels could contradict the data's.
    model_config = ConfigDict(json_schema_extra=_without_fields)

    like: Literal["sd1", "sdxl", "sd3", "flux1", "flux2", "taesd", "taef2"] | None = Field(None, exclude=True)
    """Take the sizes of a published family; other sizes that are set too take precedence."""
    kind: Literal["kl", "tiny"] = "kl"
    """`kl`: Stable Diffusion's autoencoder. `tiny`: TAESD's, of convolutions and ReLU alone, for previews.

    A tiny one has no norms, no attention and no distribution of latents: model.norm_groups, model.mid_attention,
    model.quant_conv and the KL do not apply to it."""
    channels: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = Field((128, 256, 512, 512), min_length=1, max_length=7)
    """The channels of each resolution level, from the full resolution down."""
    num_res_blocks: int = Field(2, ge=1, le=64)
    """The residual blocks of each level of the encoder; the decoder has one more.

    In a tiny model both have these, and one at the full resolution."""
    latent_channels: int = Field(4, ge=1, le=4096)
    """The number of channels of the latent."""
    image_channels: int = Field(3, ge=1, le=MAX_CHANNELS)
    """The number of channels of a picture, which follows from data.channels."""
    norm_groups: int = Field(32, ge=1, le=8192)
    """The groups of every GroupNorm; each level's channels must be a multiple of them."""
    mid_attention: bool = True
    """Use a self-attention block at the bottleneck."""
    quant_conv: bool = True
    """Use a 1x1 convolution before and after the latent, as Stable Diffusion, SDXL and FLUX.2 do; not SD3, FLUX.1."""
    mid_block_norm: bool = False
    """Use a GroupNorm in the residual blocks beside the latent, as `taef2` does, FLUX.2's tiny autoencoder.

    Only a tiny model can have it. diffusers and files of TAESD's earlier models know no such norm."""
    latent_norm: bool = False
    """Keep running statistics of the latents, packed in cells of 2x2, as FLUX.2 does; `encode` normalises by them."""
    decoder_channels: tuple[Annotated[int, Field(ge=1, le=8192)], ...] | None = Field(None, min_length=1, max_length=7)
    """The decoder's channels of each level, if they are not `channels`; only diffusers' model for FLUX.2 has this."""
    padding: Literal["zeros", "reflect", "replicate", "circular"] = "zeros"
    """What convolutions read beyond a border: `zeros`, as in published autoencoders; the map, by `reflect` or
    `replicate`; or by `circular` its other side, for textures without seams. Other programs know `zeros` alone."""
    resample_shortcuts: bool = False
    """Train with residual shortcuts around down- and upsampling; snapshots have them folded into the convolutions."""
    zero_init_residuals: bool = False
    """Start each residual block and the attention as the identity: their last layer begins at zero."""
    initial_logvar: float | None = Field(None, ge=-30, le=20)
    """Start the posterior's log-variance near this value (rows of `quant_conv` scaled by 0.1 and given this bias).

    Without `quant_conv`, they are the rows of the encoder's last convolution."""

    @property
    def downsampling_factor(self) -> int:
        """Return how many pixels along a side of the picture one cell of the latent covers."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def size_step(self) -> int:
        """Return what divides the sides of pictures to train on: one cell, or with `latent_norm` a packed cell."""
        return self.downsampling_factor * (2 if self.latent_norm else 1)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Return the decoder's channels of each level, from the full resolution down."""
        return self.decoder_channels or self.channels

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_family(cls, given: Any) -> Any:
        """Replace `like` by the sizes that it names, so that no key and no file has it.

        A tiny model has one value for each size that does not apply, whatever a form or a preset filled in.
        """
        if not isinstance(given, Mapping):
            return given
        if isinstance(family := given.get("like"), str) and family in FAMILIES:
            given = {**FAMILIES[family], **{name: value for name, value in given.items() if name != "like"}}
        return {**given, **NOT_IN_TINY} if given.get("kind") == "tiny" else given

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Self:
        if self.mid_block_norm and (self.kind == "kl" or len(self.channels) == 1):
            raise ValueError(
                f"model.mid_block_norm true: only a tiny autoencoder (model.kind) of two or more levels has it, and "
                f"this one is of kind {self.kind} with model.channels {self.channels}; leave it out (false)"
            )
        if self.kind == "kl":
            return self
        for name in ONLY_IN_KL:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(
                    f"model.{name} {value}: a tiny autoencoder has none; leave it out ({default}), or set model.kind kl"
                )
        if len(set(self.channels)) > 1:
            one = " ".join(["64"] * len(self.channels))
            raise ValueError(
                f"model.channels {self.channels}: a tiny autoencoder (model.kind) has one width throughout, such as "
                f"{one}"
            )
        return self

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        for name in ("channels", "decoder_channels"):
            for channels in getattr(self, name) or ():
                if channels % self.norm_groups:
                    raise ValueError(
                        f"model.norm_groups {self.norm_groups} does not divide the {channels} of model.{name}"
                    )
        return self

    @model_validator(mode="after")
    def _decoder_mirrors_encoder(self) -> Self:
        if self.decoder_channels is None:
            return self
        stated = f"model.decoder_channels {self.decoder_channels}"
        if not self.latent_norm:
            raise ValueError(f"{stated}: only a model with model.latent_norm can have them, as FLUX.2's does")
        if len(self.decoder_channels) != len(self.channels):
            raise ValueError(f"{stated}: expected one for each of model.channels {self.channels}")
        if self.decoder_channels == self.channels:
            raise ValueError(f"{stated}: those of model.channels, which are the default; leave it out")
        return self

    @model_validator(mode="after")
    def _can_be_held(self) -> Self:
        # Two 3x3 convolutions in each residual block, and one to change the size, in encoder and decoder
        widths = (max(pair) for pair in zip(self.channels, self.decoder_widths, strict=True))
        weights = 36 * (self.num_res_blocks + 1) * sum(channels**2 for channels in widths)
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"model.channels {self.channels} with model.num_res_blocks {self.num_res_blocks} make about "
                f"{weights / 1e9:.1f} billion weights, and {MAX_WEIGHTS / 1e9:.1f} are the most: use fewer"
            )
        return self


def why_size_does_not_fit(image_size: int, factor: int) -> str | None:
    """Return why a model of this downsampling factor cannot take pictures of this size; None if it can."""
    if image_size % factor == 0:
        return None
    below = max(factor, image_size - image_size % factor)
    return (
        f"data.image_size {image_size} is not a multiple of the downsampling factor {factor}: use {below} or "
        f"{below + factor} (model.channels decides the factor, and model.latent_norm doubles it)"
    )
