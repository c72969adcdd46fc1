"""A small prepared set, and configurations that train in a second."""

import pytest
import torch

from pikavae.config import Config
from pikavae.presets import parse_config
from tests.support.prepared_sets import make_prepared, random_pictures


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """Ten smooth random pictures to train on, and four to validate."""
    noise = torch.rand(14, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, scale_factor=4, mode="bilinear")
    pictures = list((smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy())
    return make_prepared(tmp_path_factory.mktemp("prepared") / "set", pictures[:10], pictures[10:], image_size=16)


@pytest.fixture(scope="session")
def larger(tmp_path_factory):
    """Six pictures of 32 px to train on, and two to validate."""
    drawn = random_pictures(8, (32, 32))
    return make_prepared(tmp_path_factory.mktemp("larger") / "set", drawn[:6], drawn[6:], image_size=32)


def make_config(**overrides) -> Config:
    tree = {
        "data": {"image_size": 16},
        "model": {"channels": [8, 8], "num_res_blocks": 1, "norm_groups": 4},
        "optimizer": {"learning_rate": 1e-3},
        "training": {
            "steps": 6,
            "batch_size": 2,
            "threads": 1,
            "log_every": 1,
            "preview_every": 3,
            "validate_every": 2,
            "checkpoint_every": 2,
        },
    }
    return parse_config(tree, overrides=overrides)


@pytest.fixture
def config():
    return make_config()
