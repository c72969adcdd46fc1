"""Declare the configuration: flow parameter, command-line flags, YAML schema, tracked parameters, file in snapshots.

It is declared only here, and frozen. The defaults are those of the Stable Diffusion v1 autoencoder; `presets` reads
what differs from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

Byte = Annotated[int, Field(ge=0, le=255)]
MAX_CHANNELS = 64
CHANNEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,39}")
CHANNELS = {"rgb": ("red", "green", "blue"), "grey": ("grey",), "rgba": ("red", "green", "blue", "alpha")}
"""The names of the channels, for each word that `data.channels` takes."""

CHAMPIONS = "pikavae-production"
"""The registered model that holds the champions."""
CADENCE = re.compile(r"([1-9]\d*(\.\d+)?|0\.\d*[1-9]\d*) (epochs?|minutes?)")


def _check_cadence(value: int | str) -> int | str:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value < 1 if isinstance(value, int) else not CADENCE.fullmatch(value):
        raise ValueError("expected a number of steps from 1, or a text such as `2 epochs` or `10 minutes`")
    return value


def _check_candidates(name: str) -> str:
    if name == CHAMPIONS:
        raise ValueError("this is where promoted versions go; name the candidates'")
    return name


def _check_experiment(name: str) -> str:
    if name == CHAMPIONS:
        raise ValueError("this experiment holds the files of what is in production; choose another name")
    if not name.isprintable() or name != name.strip():
        raise ValueError("it has blanks around it, a line break or another character that is not shown")
    return name


Cadence = Annotated[int | str, AfterValidator(_check_cadence)]
"""How often something happens: a number of optimizer steps, or a text such as `2 epochs` or `10 minutes`."""


@dataclass(frozen=True)
class NamesPath:
    """Marks a setting that may name a file, a folder or a pattern of files on this machine.

    Attributes:
        unless: a regular expression of the values that name something else, such as a data set of the hub.
        if_there: True if a value is a path only if the path exists, since a name on the hub looks the same.
    """

    unless: str = "(?!)"
    if_there: bool = False

    def path(self, value: str, folder: Path) -> Path | None:
        """Return the absolute path that a value names, seen from a folder; None if it names something else."""
        if re.fullmatch(self.unless, value):
            return None
        path = folder / os.path.expanduser(value)  # noqa: PTH111 - pathlib's fails if `~name` is not a user
        return path if not self.if_there or value.startswith(("/", ".", "~")) or path.exists() else None

    def is_relative(self, value: str) -> bool:
        """Return True if a value names a path whose meaning depends on the current folder."""
        return self.path(value, Path.cwd()) is not None and not value.startswith(("/", "~"))


MODEL = NamesPath(unless=r"hub:.*|run:.*|champion|previous|\d+")
"""The mark of a setting that names a model, perhaps by its path."""


class Section(BaseModel):
    """Makes every section frozen, strict about names, and documented by the strings under its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


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


MAX_WEIGHTS = 2**32
"""The largest number of a model's weights, about: 16 GiB in float32, fifty times Stable Diffusion's autoencoder."""


_STABLE_DIFFUSION: dict[str, Any] = {
    "kind": "kl",
    "channels": (128, 256, 512, 512),
    "num_res_blocks": 2,
    "latent_channels": 4,
    "norm_groups": 32,
    "mid_attention": True,
    "quant_conv": True,
    "latent_norm": False,
    "decoder_channels": None,
}
NOT_IN_TINY: dict[str, Any] = {"norm_groups": 1, "mid_attention": False, "quant_conv": False}
"""Sizes of a model of kind `kl` that a tiny one does not have, with the values that it states for them."""
_ONLY_IN_KL = (
    "latent_norm",
    "decoder_channels",
    "padding",
    "resample_shortcuts",
    "zero_init_residuals",
    "initial_logvar",
)
_SIXTEEN_CHANNELS = _STABLE_DIFFUSION | {"latent_channels": 16, "quant_conv": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "sd1": _STABLE_DIFFUSION,
    "sdxl": _STABLE_DIFFUSION,
    "sd3": _SIXTEEN_CHANNELS,
    "flux1": _SIXTEEN_CHANNELS,
    "flux2": _STABLE_DIFFUSION | {"latent_channels": 32, "latent_norm": True},
    "taesd": _STABLE_DIFFUSION | {"kind": "tiny", "channels": (64, 64, 64, 64), "num_res_blocks": 3, **NOT_IN_TINY},
}
"""The sizes of published autoencoders, fields of section `model`, by the name of their family."""


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

    like: Literal["sd1", "sdxl", "sd3", "flux1", "flux2", "taesd"] | None = Field(None, exclude=True)
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
        if self.kind == "kl":
            return self
        for name in _ONLY_IN_KL:
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


class LossConfig(Section):
    """What training minimises: a weighted sum of terms. A term of weight 0 is not computed, except the KL."""

    reconstruction: Literal["mse", "l1", "charbonnier"] = "mse"
    """The squared, absolute or Charbonnier error, mean over all elements of the batch, on [-1, 1]; its weight is 1."""
    ms_ssim_weight: float = Field(0.0, ge=0)
    """Weight of 1 - MS-SSIM; sides must be 176 pixels or more."""
    perceptual_weight: float = Field(0.0, ge=0)
    """Weight of LPIPS (VGG16); sides must be 16 pixels or more."""
    perceptual_weights: Annotated[str | None, NamesPath()] = Field(None, min_length=1)
    """The file of VGG16's weights as torchvision publishes them (`vgg16-397923af.pth`); by default torch's cache."""
    kl_weight: float = Field(1e-8, ge=0)
    """Weight of the KL to the standard normal: nats, sum over the latent's C, H and W, mean over the batch.

    Latent-diffusion's 1e-6 belongs to an error summed over the picture: with this mean, it is 5e-12 at 256 px."""
    kl_warmup: float = Field(0.0, ge=0, le=1)
    """The share of the run over which the weight of the KL rises linearly from zero."""
    adversarial_weight: float = Field(0.0, ge=0)
    """Weight of the hinge loss against a patch discriminator, relative to the reconstruction terms.

    It multiplies an adaptive factor. Sides must be 24 pixels or more."""
    adversarial_start: float = Field(0.5, ge=0, lt=1)
    """The share of the run after which the discriminator begins to learn."""
    adversarial_warmup: float = Field(0.05, ge=0, lt=1)
    """The share of the run in which the discriminator learns alone, before the autoencoder sees it."""
    adversarial_max_weight: float = Field(10.0, gt=0)
    """Bound of the adaptive factor that makes both gradients at the decoder's last layer equally long."""
    discriminator_learning_rate: float = Field(1e-4, gt=0)
    """Adam's learning rate for the discriminator."""
    latent_weight: float = Field(1.0, gt=0)
    """Weight of the squared error of a tiny encoder's latents against those of `training.teacher`."""
    equivariance: float = Field(0.0, ge=0, le=1)
    """The share of batches with scaled and turned latents, which the decoder must turn into pictures changed alike."""


class OptimizerConfig(Section):
    """How the weights are updated."""

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the hidden convolutions with AdamW for the rest."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate; with Muon, that of the hidden weights."""
    fallback_learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the weights that Muon leaves to AdamW."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's term that prevents division by zero."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's (Nesterov) momentum."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up: the peak rate, or a cosine down to `final_fraction` of it."""
    final_fraction: float = Field(0.0, ge=0, le=1)
    """The last learning rate of the cosine, as a share of the peak."""
    schedule_steps: int | None = Field(None, ge=1)
    """Steps over which the cosine falls and to which shares of the run refer; by default those of the training.

    With more than `training.steps`, the finished training can later be extended up to this many."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradients are scaled down to this global norm; without it they are unchanged."""


EARLIER_SWITCH = "gradient_checkpointing"
"""A field of section `training` before `activations`; configurations of earlier versions have it."""


class TrainingConfig(Section):
    """How long, how large, how precise, and how often something is written."""

    steps: int = Field(1000, ge=1)
    """Optimizer steps in all."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the training pictures; if given, it sets the number of steps."""
    minutes: float | None = Field(None, gt=0)
    """Training time after which the run ends, if its steps did not end it; the schedule follows whichever is nearer."""
    batch_size: int = Field(1, ge=1)
    """Pictures in a forward pass, over all processes."""
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients are averaged into one optimizer step."""
    start: Annotated[str | None, MODEL] = Field(None, min_length=1)
    """First weights: a snapshot or diffusers folder, a weights file, `hub:ORG/NAME`, a version, `champion`, `run:<id>`.

    By default, new weights from the seed."""
    grow_latents: bool = False
    """Let the weights of `training.start` have fewer latent channels than `model.latent_channels`.

    The new ones change no picture at first. Their log-variance begins at `model.initial_logvar`, or -6."""
    teacher: Annotated[str | None, MODEL] = Field(None, min_length=1)
    """A trained autoencoder whose latents a tiny one (model.kind) learns, to decode them for previews.

    It is named as `training.start` names weights. The decoder learns the pictures from the teacher's latents, and the
    encoder the latents."""
    trainable: Literal["all", "decoder"] = "all"
    """`all` weights, or only the `decoder`: the latent then stays the same, and diffusion models for it still work."""
    patience: int | None = Field(None, ge=1)
    """The run ends after this many checkpoints in a row without a better validation score."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights, the order of the pictures and the posterior's noise."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; by default OMP_NUM_THREADS, or as many as there are CPUs that other work leaves free.

    With one number, weights are repeatable bit for bit. A training that resumes keeps the number that it began with."""
    processes: int | None = Field(None, ge=1, le=1024)
    """Processes on this machine that share each batch; by default one for each GPU, or one without a GPU."""
    restarts: int = Field(3, ge=0)
    """How often a killed training is restarted automatically, if it made progress since the last start."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where training and evaluation run; `auto` takes a GPU if there is one."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Autocast format of the forward pass in training. Weights, losses, posterior and evaluation remain float32.

    `auto` is bf16 on cards with units for it, and float32 elsewhere."""
    resident: bool | None = None
    """Keep the training pictures on the device as 8-bit; by default if they take at most a quarter of its memory.

    On the CPU no copy is made."""
    activations: Literal["auto", "keep", "recompute", "checkpoint"] = "auto"
    """What the backward pass needs: `keep` it all, `recompute` the large norms, or `checkpoint` to recompute layers.

    `auto` takes the first of these, the fastest, that fits into the free memory by estimate."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the residual blocks with torch.compile, which takes up to a minute; `auto`: on CUDA, if the rest of the
    run pays for it."""
    channels_last: bool | None = None
    """Store pictures in memory with the channels innermost; by default on CUDA, where every layer keeps them so."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay per step of the moving average of the weights, which snapshots then hold; without a number it is off."""
    log_every: Cadence = 10
    """Steps between two points of the training curves; or a text such as `2 epochs` or `10 minutes`."""
    preview_every: Cadence = 100
    """Steps between two previews of the same validation pictures; or a text such as `2 epochs` or `10 minutes`."""
    preview_images: int = Field(8, ge=1, le=64)
    """How many validation pictures a preview reconstructs."""
    validate_every: Cadence = 500
    """Steps between two measurements on the validation pictures; or a text such as `2 epochs` or `10 minutes`."""
    checkpoint_every: Cadence = 500
    """Steps between two checkpoints, or a text such as `2 epochs`; each is validated and has a snapshot."""
    keep_checkpoints: int = Field(3, ge=1)
    """How many of the latest checkpoints keep their snapshot; the best one always keeps it."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier(cls, fields: Any) -> Any:
        """Read `gradient_checkpointing`, a switch of earlier versions."""
        if not isinstance(fields, Mapping) or EARLIER_SWITCH not in fields:
            return fields
        others = {name: value for name, value in fields.items() if name != EARLIER_SWITCH}
        if not isinstance(switch := fields[EARLIER_SWITCH], bool):
            raise ValueError(f"training.{EARLIER_SWITCH} {switch!r}: use training.activations, which replaces it")
        return {"activations": "checkpoint" if switch else "auto", **others}


class EvaluationConfig(Section):
    """How a model is measured."""

    primary_metric: Literal["psnr", "ssim"] = "psnr"
    """The metric that ranks models, as the mean over the validation pictures."""
    batch_size: int = Field(16, ge=1)
    """Pictures reconstructed at once."""
    panel_images: int = Field(8, ge=1, le=64)
    """Pictures shown in each panel of the report."""
    lpips_weights: Annotated[str | None, NamesPath()] = Field(None, min_length=1)
    """The file of VGG16's weights for LPIPS, as torchvision publishes it; by default that in torch's cache, if any."""
    inception_weights: Annotated[str | None, NamesPath()] = Field(None, min_length=1)
    """The file of FID's Inception v3 for rFID and KID, of torch-fidelity; by default that in torch's cache, if any."""
    sizes: tuple[Annotated[int, Field(ge=16, le=4096)], ...] | None = None
    """Other sizes at which a few pictures are measured; by default half of data.image_size, and twice to 1024 px.

    With an empty list, neither they nor the comparison of tiles with the whole are measured."""
    whole_pictures: int = Field(4, ge=0, le=1024)
    """With data.crop native: how many whole pictures are measured in tiles, besides the centre square of each."""


class RegistryConfig(Section):
    """Where finished models are registered."""

    model_name: Annotated[str, AfterValidator(_check_candidates)] = Field(
        "pikavae", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200
    )
    """The registered model in MLflow whose versions are the candidates."""


class PromotionConfig(Section):
    """What a version must reach to become champion, and who decides. It is recorded with each promotion."""

    approval: Literal["manual", "automatic"] = "manual"
    """`manual`: a person completes each promotion by `pikavae approve`.

    `automatic`: a version that passes every gate is promoted at once; one that a gate holds still needs a person."""
    psnr_floor: float | None = 19.49
    """The least PSNR in dB, mean over pictures, also for the first version; by default the original tutorial's bar."""
    ssim_floor: float | None = None
    """The least SSIM, mean over pictures."""
    worst_tenth_floor: float | None = None
    """The least PSNR in dB, mean over the worst tenth of the pictures."""
    min_gain: float = 0.0
    """How much better evaluation.primary_metric must be than the champion's; a negative value allows it to be worse."""
    ssim_tolerance: float | None = Field(0.01, ge=0)
    """How much lower SSIM may be than the champion's; without a number it is not checked."""
    ms_ssim_tolerance: float | None = Field(0.01, ge=0)
    """How much lower MS-SSIM may be than the champion's; it is not checked if no picture is large enough."""
    colour_shift_tolerance: float | None = Field(0.01, ge=0)
    """How much larger than the champion's the error of mean red, green or blue may be, on [-1, 1]."""
    flat_noise_tolerance: float | None = Field(0.005, ge=0)
    """How much noisier than the champion's flat regions may be: standard deviation on [-1, 1]."""
    sharpness_tolerance: float | None = Field(0.1, ge=0)
    """How much further than the champion's the kept share of high-frequency energy may be from 1."""
    worst_tenth_tolerance: float | None = Field(0.5, ge=0)
    """How many dB lower the PSNR of the worst tenth of the pictures may be than the champion's."""
    half_precision: tuple[Literal["bf16", "fp16"], ...] = ("bf16", "fp16")
    """Half-precision formats in which the model must give the same result as in float32."""


class TrackingConfig(Section):
    """Where runs are recorded. MLFLOW_TRACKING_URI names the server or database."""

    experiment: Annotated[str, AfterValidator(_check_experiment)] = Field("pikavae", min_length=1, max_length=200)
    """The MLflow experiment of the runs."""


class Config(Section):
    """Everything that decides what a run does."""

    data: DataConfig = DataConfig()
    """The pictures."""
    model: ModelConfig = ModelConfig()
    """The autoencoder."""
    loss: LossConfig = LossConfig()
    """What training minimises."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights are updated."""
    training: TrainingConfig = TrainingConfig()
    """How long and how precisely the run trains, and how often it writes."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How models are measured."""
    registry: RegistryConfig = RegistryConfig()
    """Where models are registered."""
    promotion: PromotionConfig = PromotionConfig()
    """What a version must reach to become champion."""
    tracking: TrackingConfig = TrackingConfig()
    """Where runs are recorded."""

    @model_validator(mode="before")
    @classmethod
    def _channels_of_data(cls, given: Any) -> Any:
        """Give the model as many channels as the pictures have, unless its number is given."""
        if not isinstance(given, Mapping) or isinstance(given.get("model", {}), ModelConfig):
            return given
        data, model = given.get("data", {}), given.get("model", {})
        if isinstance(data, Mapping) and "channels" in data and isinstance(model, Mapping):
            with suppress(ValueError):  # it is reported with the field's name
                count = len(DataConfig(channels=data["channels"]).channel_names)
                given = {**given, "model": {"image_channels": count, **model}}
        elif isinstance(data, DataConfig) and isinstance(model, Mapping):
            given = {**given, "model": {"image_channels": len(data.channel_names), **model}}
        return given

    @model_validator(mode="after")
    def _channels_agree(self) -> Self:
        names, count = self.data.channel_names, self.model.image_channels
        if len(names) != count:
            raise ValueError(
                f"model.image_channels {count}: the pictures have {len(names)} (data.channels {' '.join(names)}); "
                f"leave model.image_channels out, it follows from data.channels"
            )
        if self.loss.perceptual_weight > 0 and names not in CHANNELS.values():
            raise ValueError(
                f"loss.perceptual_weight {self.loss.perceptual_weight:g}: LPIPS sees colours, and data.channels has "
                f"{' '.join(names)}; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _size_fits_factor(self) -> Self:
        if reason := why_size_does_not_fit(self.data.image_size, self.model.size_step):
            raise ValueError(reason)
        return self

    @model_validator(mode="after")
    def _can_grow_latents(self) -> Self:
        training = self.training
        if training.grow_latents and training.start is None:
            raise ValueError("training.grow_latents adds channels to trained weights: name them by training.start")
        if training.grow_latents and training.trainable == "decoder":
            raise ValueError(
                "training.grow_latents adds channels that the encoder must learn to fill: set training.trainable all"
            )
        return self

    @model_validator(mode="after")
    def _is_for_a_tiny_model(self) -> Self:
        is_tiny, training = self.model.kind == "tiny", self.training
        if training.teacher is not None and not is_tiny:
            raise ValueError(
                f"training.teacher {training.teacher!r}: it teaches a tiny autoencoder, and model.kind is kl; set "
                f"model.like taesd, or name the weights to begin with in training.start"
            )
        if training.grow_latents and is_tiny:
            raise ValueError("training.grow_latents: a tiny autoencoder cannot grow; leave it out")
        return self

    @model_validator(mode="after")
    def _buckets_fit_factor(self) -> Self:
        factor, size = self.model.size_step, self.data.image_size
        step = max(8, size // 8)
        if self.data.crop == "buckets" and step % factor:
            raise ValueError(
                f"data.crop buckets: sides are multiples of {step} pixels at data.image_size {size}, which the "
                f"downsampling factor {factor} ({len(self.model.channels)} levels in model.channels) does not divide: "
                f"use data.image_size {8 * factor * max(1, round(size / (8 * factor)))}"
            )
        return self

    @model_validator(mode="after")
    def _rate_lasts(self) -> Self:
        optimizer, training = self.optimizer, self.training
        falls_to_zero = optimizer.schedule == "cosine" and optimizer.final_fraction == 0
        is_by_steps, end = not (training.epochs or training.minutes), optimizer.schedule_steps or training.steps
        if falls_to_zero and is_by_steps and end < training.steps:
            raise ValueError(
                f"optimizer.schedule_steps {end}: the learning rate would be 0 from there to training.steps "
                f"{training.steps}: use {training.steps} or more, or an optimizer.final_fraction above 0"
            )
        return self

    def shares(self) -> list[str]:
        """Return the dotted names of the settings in use that are shares of the schedule."""
        loss, seen = self.loss, self.loss.adversarial_weight > 0
        used = {
            "optimizer.schedule": self.optimizer.schedule == "cosine",
            "loss.kl_warmup": self.model.kind == "kl" and loss.kl_weight > 0 and loss.kl_warmup > 0,
            "loss.adversarial_start": seen and loss.adversarial_start > 0,
            "loss.adversarial_warmup": seen and loss.adversarial_warmup > 0,
        }
        return [name for name, is_used in used.items() if is_used]

    def flat(self) -> dict[str, Any]:
        """Return every field by its dotted name, e.g. `{"data.image_size": 64, ...}`, with JSON's types as values."""
        return {
            f"{section}.{field}": value
            for section, fields in self.model_dump(mode="json").items()
            for field, value in fields.items()
        }

    def named_paths(self, folder: Path) -> dict[str, Path]:
        """Return the absolute path, seen from a folder, of each setting that names one, by its dotted name.

        Each element of a list has its own name, such as `data.links_into.0`.
        """
        return {
            dotted: path
            for dotted, value, mark in self._settings_of_paths()
            if (path := mark.path(value, folder)) is not None
        }

    def relative_paths(self) -> dict[str, str]:
        """Return the value of each setting that names a relative path, by its dotted name."""
        return {dotted: value for dotted, value, mark in self._settings_of_paths() if mark.is_relative(value)}

    def _settings_of_paths(self) -> Iterator[tuple[str, str, NamesPath]]:
        """Yield name, value and mark of each setting that may name a path, and of each element of such a list."""
        for name, section in self:
            for field, info in type(section).model_fields.items():
                value = getattr(section, field)
                for mark in info.metadata:
                    if isinstance(mark, NamesPath) and value is not None:
                        elements = {f".{place}": text for place, text in enumerate(value)}
                        named = elements if isinstance(value, tuple) else {"": value}
                        yield from ((f"{name}.{field}{place}", text, mark) for place, text in named.items())

    def seen_from(self, folder: Path) -> Config:
        """Return the same configuration with every path absolute: it then means the same in any folder."""
        tree = self.model_dump(mode="json")
        for dotted, path in self.named_paths(folder).items():
            section, field, *place = dotted.split(".")
            if place:
                tree[section][field][int(place[0])] = str(path)
            else:
                tree[section][field] = str(path)
        return Config.model_validate(tree)

    def to_yaml(self) -> str:
        """Return the whole tree as YAML; `presets.load_config` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def channels_for(count: int) -> str | tuple[str, ...]:
    """Return `data.channels` for a model that is known only to read pictures of this many channels."""
    words = {len(names): word for word, names in CHANNELS.items()}
    return words.get(count) or tuple(f"channel {number + 1}" for number in range(count))


def why_size_does_not_fit(image_size: int, factor: int) -> str | None:
    """Return why a model of this downsampling factor cannot take pictures of this size; None if it can."""
    if image_size % factor == 0:
        return None
    below = max(factor, image_size - image_size % factor)
    return (
        f"data.image_size {image_size} is not a multiple of the downsampling factor {factor}: use {below} or "
        f"{below + factor} (model.channels decides the factor, and model.latent_norm doubles it)"
    )


def content_hash(value: object) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of `value` as canonical JSON (sorted keys)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
