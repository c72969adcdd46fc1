"""Declare sections `evaluation`, `registry`, `promotion` and `tracking`: what becomes of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from .section import NamesPath, Section

CHAMPIONS = "pikavae-production"
"""The registered model that holds the champions."""


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
