"""A picture set in memory, and configurations that train in a second."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pikavae.config import Config, parse_config


@dataclass
class Pictures:
    """What training needs of a picture set: smooth random pictures, 8 bits a channel."""

    data: Tensor
    image_size: int = 16

    def __len__(self):
        return len(self.data)

    def batch(self, indices):
        return {"pixel_values": self.data[list(indices)].float() / 127.5 - 1.0}


@dataclass
class Prepared:
    train: Pictures
    validation: Pictures


@pytest.fixture(scope="session")
def prepared():
    noise = torch.rand(14, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, scale_factor=4, mode="bilinear")
    data = (smooth * 255).to(torch.uint8)
    return Prepared(Pictures(data[:10]), Pictures(data[10:]))


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
