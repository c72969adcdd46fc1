"""Sizes that no model has are refused."""

import pytest

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.presets import load_config


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"decoder_channels": (4, 8)}, "only a model with model.latent_norm can have them"),
        ({"decoder_channels": (4,), "latent_norm": True}, "expected one for each of model.channels"),
        ({"decoder_channels": (8, 16), "latent_norm": True}, "which are the default; leave it out"),
        ({"decoder_channels": (4, 6), "latent_norm": True}, "does not divide the 6 of model.decoder_channels"),
        ({"decoder_channels": (8192, 8192), "latent_norm": True, "num_res_blocks": 64}, "billion weights"),
    ],
    ids=str,
)
def test_a_decoder_that_no_model_has_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        ModelConfig(channels=(8, 16), norm_groups=4, **fields)


def test_pictures_of_a_model_that_packs_its_latents_have_whole_packed_cells():
    load_config("demo", {"model.like": "flux2", "data.image_size": 48})
    with pytest.raises(UserError, match=r"data\.image_size 56 is not a multiple of the downsampling factor 16"):
        load_config("demo", {"model.like": "flux2", "data.image_size": 56})
