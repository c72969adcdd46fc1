"""Declare sections `loss`, `optimizer` and `training`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from .section import MODEL, NamesPath, Section

CADENCE = re.compile(r"([1-9]\d*(\.\d+)?|0\.\d*[1-9]\d*) (epochs?|minutes?)")


def _check_cadence(value: int | str) -> int | str:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if value < 1 if isinstance(value, int) else not CADENCE.fullmatch(value):
        raise ValueError("expected a number of steps from 1, or a text such as `2 epochs` or `10 minutes`")
    return value


Cadence = Annotated[int | str, AfterValidator(_check_cadence)]
"""How often something happens: a number of optimizer steps, or a text such as `2 epochs` or `10 minutes`."""


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
