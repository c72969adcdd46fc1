"""The one configuration tree: flow parameter, command-line flags, YAML schema, tracked parameters, file in snapshots.

Declared once, here, and frozen. The defaults are those of the Stable Diffusion v1 autoencoder; `presets` reads what
differs from them.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Byte = Annotated[int, Field(ge=0, le=255)]

CHAMPIONS = "pikavae-production"
"""The registered model of the champions."""
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


Cadence = Annotated[int | str, AfterValidator(_check_cadence)]
"""How often: a number of optimizer steps, or a text such as `2 epochs` or `10 minutes`."""


class Section(BaseModel):
    """Base of every section: frozen, strict about names, documented by the strings under its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class DataConfig(Section):
    """Where the pictures come from and how they are prepared."""

    source: str = Field("sprites", min_length=1)
    """`sprites` (drawn by pikavae), `hub:ORG/NAME`, or a path: an image folder, .parquet or .arrow files (a glob)."""
    validation_source: str | None = None
    """A source of its own for the validation pictures; without it they are split off `source`."""
    split: str = "train"
    """The split of a hub data set that is read."""
    image_column: str | None = Field(None, min_length=1)
    """The column that holds the pictures, in hub data sets and Parquet or Arrow files.

    By default `image`, or else the only one that holds pictures."""
    caption_column: str | None = Field(None, min_length=1)
    """The column that holds the captions, there and in metadata files; pictures without one get an empty caption.

    By default `text`, `caption`, or else the only one that holds text other than names of files."""
    image_size: int = Field(512, ge=8, le=4096)
    """Pixels: the shorter side is scaled to this, then the centre square is cut out."""
    crop: Literal["center", "random", "buckets"] = "center"
    """`center`: the centre square. `random`: training sees another square each time, and validation the centre one.

    `buckets`: pictures keep nearly their aspect ratio, at about image_size squared pixels; a batch is of one shape."""
    flip: bool = False
    """Training sees each picture mirrored left to right in half of all cases."""
    background: tuple[Byte, Byte, Byte] = (255, 255, 255)
    """The RGB colour laid under transparent pictures."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """The share of the pictures that is held out, chosen by the hash of each picture's content."""
    near_duplicate_distance: int | None = Field(4, ge=0, le=10)
    """Pictures whose perceptual hashes differ in at most this many of 64 bits, and that look alike in small, are
    duplicates: they are kept on one side of the split. Without it only equal pictures are."""
    drop_duplicates: Literal["none", "exact", "near"] = "none"
    """Of equal pictures, or of all duplicates, use only the first by name."""
    max_pixels: int = Field(100_000_000, ge=1, le=1_000_000_000)
    """Larger pictures are set aside before they are decoded."""
    max_unreadable_fraction: float = Field(0.05, ge=0, le=1)
    """The share of pictures that may be set aside as unreadable before preparation stops."""
    tokenizer: str | None = None
    """A CLIP tokenizer: a folder, or a hub id with an optional subfolder (`ORG/NAME/tokenizer`).

    Without one, a small tokenizer of the same format is built from the captions."""
    workers: int | None = Field(None, ge=1, le=256)
    """Processes that prepare pictures; by default one for each core."""
    sprites_count: int = Field(720, ge=2, le=1_000_000)
    """How many sprites are drawn; only for the source `sprites`."""
    sprites_seed: int = Field(0, ge=0)
    """The seed that the sprites are drawn from; only for the source `sprites`."""


class ModelConfig(Section):
    """The autoencoder's sizes and initialisation. The downsampling factor is 2 to the number of levels less one."""

    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field((128, 256, 512, 512), min_length=1, max_length=7)
    """Channels of each resolution level, from the full resolution down."""
    num_res_blocks: int = Field(2, ge=1)
    """Residual blocks a level in the encoder; the decoder has one more."""
    latent_channels: int = Field(4, ge=1)
    """Channels of the latent."""
    norm_groups: int = Field(32, ge=1)
    """Groups of every GroupNorm; each level's channels must be a multiple."""
    mid_attention: bool = True
    """A self-attention block at the bottleneck."""
    resample_shortcuts: bool = False
    """Train with residual shortcuts around down- and upsampling; snapshots have them folded into the convolutions."""
    zero_init_residuals: bool = False
    """Start each residual block and the attention as the identity: their last layer begins at zero."""
    initial_logvar: float | None = Field(None, ge=-30, le=20)
    """Start the posterior's log-variance near this value (rows of `quant_conv` scaled by 0.1 and given this bias)."""

    @property
    def downsampling_factor(self) -> int:
        """Pixels along a side of the picture for one of the latent."""
        return int(2 ** (len(self.channels) - 1))

    @model_validator(mode="after")
    def _groups_divide_channels(self) -> Self:
        for channels in self.channels:
            if channels % self.norm_groups:
                raise ValueError(
                    f"model.norm_groups {self.norm_groups} does not divide the {channels} of model.channels"
                )
        return self


class LossConfig(Section):
    """What is minimised: the weighted sum of the terms below. A term of weight 0 is not computed, KL excepted."""

    reconstruction: Literal["mse", "l1", "charbonnier"] = "mse"
    """Squared, absolute or Charbonnier error, mean over all elements of the batch, on pictures in [-1, 1]; weight 1."""
    ms_ssim_weight: float = Field(0.0, ge=0)
    """Weight of 1 - MS-SSIM; sides must be 176 pixels or more."""
    perceptual_weight: float = Field(0.0, ge=0)
    """Weight of LPIPS (VGG16); sides must be 16 pixels or more."""
    perceptual_weights: str | None = Field(None, min_length=1)
    """The file of VGG16's weights as torchvision publishes them (`vgg16-397923af.pth`); by default torch's cache."""
    kl_weight: float = Field(1e-8, ge=0)
    """Weight of the KL to the standard normal: nats, sum over the latent's C, H and W, mean over the batch.

    Latent-diffusion's 1e-6 stands beside an error summed over the picture: beside this mean, 5e-12 at 256 px."""
    kl_warmup: float = Field(0.0, ge=0, le=1)
    """The share of the run over which the weight of the KL rises linearly from zero."""
    adversarial_weight: float = Field(0.0, ge=0)
    """Weight of the hinge loss against a patch discriminator, relative to the pictures' other terms: see below.

    Sides must be 24 pixels or more."""
    adversarial_start: float = Field(0.5, ge=0, lt=1)
    """The share of the run after which the discriminator begins to learn."""
    adversarial_warmup: float = Field(0.05, ge=0, lt=1)
    """The share of the run in which it learns alone, before the autoencoder sees it."""
    adversarial_max_weight: float = Field(10.0, gt=0)
    """Bound of the adaptive factor that gives both gradients at the decoder's last layer one length."""
    discriminator_learning_rate: float = Field(1e-4, gt=0)
    """Adam's learning rate for the discriminator."""
    equivariance: float = Field(0.0, ge=0, le=1)
    """The share of batches in which the latent is scaled and turned, and the decoder must give the picture so."""


class OptimizerConfig(Section):
    """How the weights move."""

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the hidden convolutions with AdamW for the rest."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate; of Muon's hidden weights when Muon is chosen."""
    fallback_learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the weights that Muon leaves to AdamW."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's decay rates of the two moments."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's term against division by zero."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's (Nesterov) momentum."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from zero."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up: the peak rate, or a cosine down to `final_fraction` of it."""
    final_fraction: float = Field(0.0, ge=0, le=1)
    """The cosine's end as a share of the peak."""
    max_grad_norm: float | None = Field(None, gt=0)
    """Gradients are scaled down to this global norm; without it they are left as they are."""


class TrainingConfig(Section):
    """How long, how large, how precise, and how often something is written."""

    steps: int = Field(1000, ge=1)
    """Optimizer steps in all."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the training pictures; when given, it sets the number of steps."""
    minutes: float | None = Field(None, gt=0)
    """Training time after which the run ends unless `steps` ended it; the schedule follows whichever is nearer."""
    batch_size: int = Field(1, ge=1)
    """Pictures in a forward pass, over all processes."""
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients are averaged into one optimizer step."""
    start: str | None = Field(None, min_length=1)
    """First weights: a snapshot or diffusers folder, a weights file, `hub:ORG/NAME`, a version, `champion`, `run:<id>`.

    Without them, new ones from the seed."""
    trainable: Literal["all", "decoder"] = "all"
    """`decoder`: encoder and latent stay as they are, so that diffusion models made for them go on working."""
    patience: int | None = Field(None, ge=1)
    """Checkpoints in a row without a better validation score after which the run ends."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the initial weights, the order of the pictures and the posterior's noise."""
    threads: int | None = Field(None, ge=1)
    """CPU threads; by default what torch finds. Weights are bitwise repeatable at a fixed number."""
    processes: int | None = Field(None, ge=1, le=1024)
    """Processes on this machine that share each batch; by default one for each GPU, and one where there is none."""
    restarts: int = Field(3, ge=0)
    """How often a training that was killed is started again by itself, as long as it has got further in between."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where training and evaluation run; `auto` takes a GPU when there is one."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Autocast format of the forward pass in training. Weights, losses, posterior and all measuring stay float32."""
    resident: bool | None = None
    """Keep the training pictures on the device as 8-bit; by default when they take at most a quarter of its memory.

    On the CPU no copy is made."""
    gradient_checkpointing: bool = False
    """Compute the residual blocks' activations again in the backward pass instead of keeping them: less memory."""
    compile: bool = False
    """Compile the model by torch.compile; the first steps take minutes."""
    channels_last: bool = False
    """Keep the pictures' channels innermost in memory."""
    ema_decay: float | None = Field(None, gt=0, lt=1)
    """Decay a step of the moving average of the weights, which snapshots then hold."""
    log_every: Cadence = 10
    """Steps between two points of the training curves; like the next three, also `2 epochs` or `10 minutes`."""
    preview_every: Cadence = 100
    """Steps between two reconstructions of the same validation pictures."""
    preview_images: int = Field(8, ge=1, le=64)
    """How many validation pictures a preview reconstructs."""
    validate_every: Cadence = 100
    """Steps between two measurements on the validation pictures."""
    checkpoint_every: Cadence = 100
    """Steps between two checkpoints; each is validated and kept as a snapshot as well."""
    keep_checkpoints: int = Field(3, ge=1)
    """How many of the latest checkpoints are kept; the best one is kept besides."""


class EvaluationConfig(Section):
    """How a model is measured."""

    primary_metric: Literal["psnr", "ssim"] = "psnr"
    """The metric that ranks models: mean over the validation pictures."""
    batch_size: int = Field(16, ge=1)
    """Pictures reconstructed at once."""
    panel_images: int = Field(8, ge=1, le=64)
    """Pictures shown in each panel of the report."""
    lpips_weights: str | None = Field(None, min_length=1)
    """For LPIPS: the file of VGG16's weights as torchvision publishes it; by default that in torch's cache, if any."""
    inception_weights: str | None = Field(None, min_length=1)
    """For rFID and KID: FID's Inception v3 as torch-fidelity publishes it; by default that in torch's cache, if any."""
    sizes: tuple[Annotated[int, Field(ge=16, le=4096)], ...] | None = None
    """Other sizes at which a few pictures are measured; by default half of data.image_size, and twice to 1024 px.

    An empty list leaves that out, and the comparison of tiles with the whole."""


class RegistryConfig(Section):
    """Where finished models are registered."""

    model_name: Annotated[str, AfterValidator(_check_candidates)] = Field(
        "pikavae", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200
    )
    """The registered model whose versions are the candidates."""


class PromotionConfig(Section):
    """What a version must reach to become champion, and who decides. Recorded with each promotion."""

    approval: Literal["manual", "automatic"] = "manual"
    """`manual`: a person completes each promotion by `pikavae approve`.

    `automatic`: what passes every gate is promoted at once; what some gate leaves open still needs a person."""
    psnr_floor: float | None = 19.49
    """The least PSNR in dB, mean over pictures, also for the first version; by default the original tutorial's bar."""
    ssim_floor: float | None = None
    """The least SSIM, mean over pictures."""
    worst_tenth_floor: float | None = None
    """The least PSNR in dB, mean over the worst tenth of the pictures."""
    min_gain: float = 0.0
    """By how much evaluation.primary_metric must be better than the champion's; below zero, what may be lost."""
    ssim_tolerance: float | None = Field(0.01, ge=0)
    """How much SSIM may be lost against the champion; without a number it is not looked at, as with the next ones."""
    ms_ssim_tolerance: float | None = Field(0.01, ge=0)
    """How much MS-SSIM may be lost; not looked at where no picture is large enough for it."""
    colour_shift_tolerance: float | None = Field(0.01, ge=0)
    """How much further red, green or blue may be off, on [-1, 1]."""
    flat_noise_tolerance: float | None = Field(0.005, ge=0)
    """How much noisier flat regions may be: deviation on [-1, 1]."""
    sharpness_tolerance: float | None = Field(0.1, ge=0)
    """How much further the share of high-frequency energy that is kept may be from 1."""
    worst_tenth_tolerance: float | None = Field(0.5, ge=0)
    """How many dB of PSNR the worst tenth of the pictures may lose against the champion's worst tenth."""
    half_precision: tuple[Literal["bf16", "fp16"], ...] = ("bf16", "fp16")
    """Half-precision formats in which the model must give what it gives in float32."""


class TrackingConfig(Section):
    """Where runs are recorded. The server or database itself is named by MLFLOW_TRACKING_URI."""

    experiment: str = Field("pikavae", min_length=1, max_length=200)
    """The MLflow experiment of the runs."""


class Config(Section):
    """Everything that decides what a run does."""

    data: DataConfig = DataConfig()
    """The pictures."""
    model: ModelConfig = ModelConfig()
    """The autoencoder."""
    loss: LossConfig = LossConfig()
    """What is minimised."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How the weights move."""
    training: TrainingConfig = TrainingConfig()
    """How the run goes."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How models are measured."""
    registry: RegistryConfig = RegistryConfig()
    """Where models are registered."""
    promotion: PromotionConfig = PromotionConfig()
    """What a version must reach to become champion."""
    tracking: TrackingConfig = TrackingConfig()
    """Where runs are recorded."""

    @model_validator(mode="after")
    def _size_fits_factor(self) -> Self:
        factor, size = self.model.downsampling_factor, self.data.image_size
        if size % factor:
            below = max(factor, size - size % factor)
            raise ValueError(
                f"data.image_size {size} is not a multiple of the downsampling factor {factor} "
                f"({len(self.model.channels)} levels in model.channels): use {below} or {below + factor}"
            )
        return self

    @model_validator(mode="after")
    def _buckets_fit_factor(self) -> Self:
        factor, size = self.model.downsampling_factor, self.data.image_size
        step = max(8, size // 8)
        if self.data.crop == "buckets" and step % factor:
            raise ValueError(
                f"data.crop buckets: sides are multiples of {step} pixels at data.image_size {size}, which the "
                f"downsampling factor {factor} ({len(self.model.channels)} levels in model.channels) does not divide: "
                f"use data.image_size {8 * factor * max(1, round(size / (8 * factor)))}"
            )
        return self

    def flat(self) -> dict[str, Any]:
        """Every field by its dotted name, e.g. `{"data.image_size": 64, ...}`, with JSON's types as values."""
        return {
            f"{section}.{field}": value
            for section, fields in self.model_dump(mode="json").items()
            for field, value in fields.items()
        }

    def to_yaml(self) -> str:
        """The whole tree as YAML; `presets.load_config` reads it back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def content_hash(value: object) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `value` as canonical JSON (sorted keys)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
