"""Declare the configuration: flow parameter, command-line flags, YAML schema, tracked parameters, file in snapshots.

It is declared only here, and frozen. The defaults are those of the Stable Diffusion v1 autoencoder; `presets` reads
what differs from them.
"""

from .content import content_hash
from .data import CHANNELS, DataConfig, channels_for
from .families import FAMILIES, NOT_IN_TINY
from .model import FOLLOWING, ModelConfig, why_size_does_not_fit
from .results import CHAMPIONS, EvaluationConfig, PromotionConfig, RegistryConfig, TrackingConfig
from .section import MODEL, NamesPath, Section
from .training import EARLIER_SWITCH, Cadence, LossConfig, OptimizerConfig, TrainingConfig
from .whole import Config

__all__ = [
    "CHAMPIONS",
    "CHANNELS",
    "EARLIER_SWITCH",
    "FAMILIES",
    "FOLLOWING",
    "MODEL",
    "NOT_IN_TINY",
    "Cadence",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "LossConfig",
    "ModelConfig",
    "NamesPath",
    "OptimizerConfig",
    "PromotionConfig",
    "RegistryConfig",
    "Section",
    "TrackingConfig",
    "TrainingConfig",
    "channels_for",
    "content_hash",
    "why_size_does_not_fit",
]
