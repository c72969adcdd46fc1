"""Name what several commands take: models, pictures, and the settings that go with them."""

from __future__ import annotations

from flows.command import Positional

MODEL_FORMS = (
    "a version number, champion, previous, run:<id>[@step or @best], a folder or file of weights, or hub:ORG/NAME"
)
MODEL = Positional("MODEL", MODEL_FORMS, f"name a model: {MODEL_FORMS}")
PICTURES = "PICTURE|FOLDER..."
PICTURES_HELP = "picture files of any size, or folders of them"
TWO_PICTURES = "name two picture files of one size after the model"
MODEL_AND_TARGET = "name a model and a new folder or file, `pikavae export MODEL DIR` or FILE.safetensors"

COMPUTE = ("training.device", "training.threads")
NAMED = ("registry.model_name", "model.norm_groups")
"""What finds a model: the registered model of the versions, and what a file of weights does not state."""
SIZES = (
    "model.like",
    "model.kind",
    "model.channels",
    "model.num_res_blocks",
    "model.latent_channels",
    "model.norm_groups",
    "model.mid_attention",
    "model.quant_conv",
    "model.latent_norm",
    "model.decoder_channels",
)
"""The sizes that weights of other makers must have."""
MEASURED = ("data", "evaluation", "model.channels", *COMPUTE, *NAMED)
"""What pictures a model is measured on, and how; a picture's size must fit the model's levels."""
IMPORTED = ("registry", "tracking", "data.image_size", *SIZES)
"""Where an imported model goes, and what a file of weights does not state."""
