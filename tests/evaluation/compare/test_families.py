"""The family whose sizes a model has, and what tells families of the same sizes apart."""

import pytest

from pikavae.config import FAMILIES, ModelConfig
from pikavae.evaluation.compare.families import SCALING_OF, family_of
from pikavae.model.sizes import SCALING


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_named_by_its_sizes_and_its_factors(name):
    factors = {key: value for key, value in zip(SCALING, SCALING_OF.get(name, (None, None)), strict=True) if value}
    assert family_of(ModelConfig(like=name), factors) == name


@pytest.mark.parametrize(
    ("name", "factors", "expected"),
    [
        ("sd1", {}, "sd1 or sdxl"),
        ("sd1", {"scaling_factor": 0.9}, "sd1 or sdxl"),
        ("sd1", {"scaling_factor": 0.13025, "shift_factor": 0.0}, "sdxl"),
        ("flux1", {}, "sd3 or flux1"),
        ("flux1", {"scaling_factor": 0.3611}, "sd3 or flux1"),
        ("flux2", {"scaling_factor": 0.9}, "flux2"),
    ],
)
def test_factors_that_decide_nothing_leave_all_families_of_the_sizes(name, factors, expected):
    assert family_of(ModelConfig(like=name), factors) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"like": "taesd", "latent_channels": 16}, "taesd"),
        ({"like": "taesd", "channels": (32, 32, 32, 32)}, "own"),
        ({"like": "flux1", "latent_channels": 8}, "own"),
        ({"like": "sd1", "padding": "reflect"}, "sd1 or sdxl"),
    ],
)
def test_other_sizes_are_nobodys(sizes, expected):
    assert family_of(ModelConfig(**sizes), {}) == expected
