"""Weights of published networks by their names and shapes, with random numbers: the real ones are large."""

import math
from io import BytesIO
from pathlib import Path
from unittest import mock

import torch


def random_vgg16() -> dict[str, torch.Tensor]:
    """A state dict of all the names and shapes of torchvision's VGG16, the convolutions random, the classifier zero.

    The classifier's 120 million zeros are one number, expanded.
    """
    from torchvision.models import vgg16

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in vgg16(weights=None).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        if name.startswith("classifier"):
            state[name] = torch.zeros(1).expand(shape)
        else:
            state[name] = torch.randn(shape, generator=generator) * spread_of(shape)
    return state


def random_inception() -> dict[str, torch.Tensor]:
    """All the names and shapes of the file of FID's Inception v3, which was converted and counts no batches."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    nothing = BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        state = FeatureExtractorInceptionV3("any", ["2048"], nothing).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(tensor.shape, generator=generator) * spread_of(tensor.shape) if tensor.ndim > 1 else tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    }


def spread_of(shape: torch.Size) -> float:
    """A deviation with which features stay about as large from layer to layer; He et al. 2015."""
    return math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.05


def saved(state: dict[str, torch.Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
