"""Name what several commands take: models, pictures, and the settings that go with them."""

from __future__ import annotations

from flows.terminal.command import Positional

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
"""Settings that find a model: its registered model, and the groups that a weights file does not state."""
SIZES = (
    "model.like",
    "model.kind",
    "model.channels",
    "model.num_res_blocks",
    "model.latent_channels",
    "model.image_channels",
    "model.norm_groups",
    "model.mid_attention",
    "model.quant_conv",
    "model.mid_block_norm",
    "model.latent_norm",
    "model.decoder_channels",
)
"""Settings that must match the sizes of published weights."""
MEASURED = ("data", "evaluation", "model.channels", *COMPUTE, *NAMED)
"""Settings that say on which pictures a model is measured, and how. Their size must fit the model's levels."""
IMPORTED = ("registry", "tracking", "data.image_size", *SIZES)
"""Settings that say where an imported model goes, and the sizes that a weights file does not state."""
