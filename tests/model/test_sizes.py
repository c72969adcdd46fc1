"""Weights of other sizes are refused with the flags that would take them."""

import pytest

from flows.command_line.arguments import read_arguments
from pikavae.config import FAMILIES, ModelConfig
from pikavae.errors import UserError
from pikavae.model.sizes import refuse_other_sizes, sizes_of
from pikavae.presets import load_config

SMALL = ModelConfig(
    channels=(8, 16), norm_groups=4, latent_norm=True, decoder_channels=(4, 8), quant_conv=False, mid_attention=False
)


def flags_for(config, required):
    """The flags that the message says, as words of a command line."""
    with pytest.raises(UserError) as caught:
        refuse_other_sizes(config, sizes_of(required), "vae")
    return str(caught.value).partition("; set ")[2].split()


def with_flags(words, before=None):
    """The sizes that a command has by flags, without or after others."""
    first = [word for name, value in (before or {}).items() for word in (f"--model.{name}", *words_of(value))]
    return read_arguments("run", ["finetune", *first, *words]).config.model


def words_of(value):
    return [str(one) for one in value] if isinstance(value, tuple) else [str(value).lower()]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sizes_of_a_family_are_set_by_its_name(family):
    published = ModelConfig.model_validate({"like": family})
    flags = flags_for(published, SMALL)
    assert flags[0] == "--model.like"
    assert with_flags(flags) == with_flags(["--model.like", family]) == published
    if family == "flux1":
        assert flags_for(published, ModelConfig()) == ["--model.like", "flux1"]


@pytest.mark.parametrize("required", [ModelConfig(), SMALL.model_copy(update={"decoder_channels": (12, 12)})])
def test_other_sizes_are_set_one_by_one(required):
    assert with_flags(flags_for(SMALL, required), sizes_of(required)) == SMALL
    plain = ModelConfig(channels=(8, 16), norm_groups=4)
    flags = flags_for(plain, SMALL)
    assert " ".join(flags).endswith("--model.latent-norm false --model.decoder-channels none")
    assert with_flags(flags, sizes_of(SMALL)) == plain


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
