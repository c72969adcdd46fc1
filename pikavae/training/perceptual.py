"""LPIPS as a loss: how far two pictures are apart in the features of VGG16.

Source: Zhang et al. 2018 (arXiv:1801.03924). VGG16's weights are those that torchvision publishes, from a file on this
machine: nothing is downloaded here. The linear heads, version 0.1, are those that torchmetrics' wheel carries.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pikavae.errors import UserError

VGG16_NAME = "vgg16-397923af.pth"
VGG16_ADDRESS = f"https://download.pytorch.org/models/{VGG16_NAME}"
SLICES = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))  # up to relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
CHANNELS = (64, 128, 256, 512, 512)
NORM_EPS = 1e-8
# What torch.load raises on files that were cut short or altered, by where in its reader it happens
UNREADABLE = (
    OSError, EOFError, RuntimeError, pickle.UnpicklingError, struct.error,
    ValueError, LookupError, TypeError, AttributeError, AssertionError,
)  # fmt: skip


class LPIPS(nn.Module):
    """LPIPS (VGG16) of two batches of pictures, differentiable with respect to the first alone.

    All weights are frozen, and everything is float32 whatever autocast says. A feature vector f is brought to unit
    length as f / sqrt(|f|^2 + 1e-8), which has a finite derivative at zero.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str | Path | None = None) -> None:
        """Read the weights.

        Args:
            weights: the file of torchvision's VGG16 (`loss.perceptual_weights`); by default the one in torch's cache.

        Raises:
            UserError: no such file, or not VGG16's weights.
        """
        super().__init__()
        features = _vgg16_features()
        names = {f"features.{name}": value.shape for name, value in features.state_dict().items()}
        tensors = _read_tensors(
            vgg16_file(weights), names, f"name a whole copy of {VGG16_ADDRESS} in loss.perceptual_weights"
        )
        features.load_state_dict(
            {name.removeprefix("features."): tensor for name, tensor in tensors.items()}, assign=True
        )
        self.slices = nn.ModuleList([features[start:end] for start, end in SLICES])

        heads = {f"lin{i}.model.1.weight": torch.Size((1, channels, 1, 1)) for i, channels in enumerate(CHANNELS)}
        self.heads = nn.ParameterList(_read_tensors(_heads_file(), heads, "install torchmetrics again").values())
        # ImageNet's mean and standard deviation, for pictures in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, reconstructions: Tensor, images: Tensor) -> Tensor:
        """The mean over the batch: a float32 scalar.

        Args:
            reconstructions: (B, 3, H, W) of any floating dtype, about [-1, 1]; H and W at least 16.
            images: (B, 3, H, W) in [-1, 1].
        """
        with torch.autocast(images.device.type, enabled=False):
            x = (reconstructions.float() - self.shift) / self.scale
            y = (images.float() - self.shift) / self.scale
            distances = []
            for layers, head in zip(self.slices, self.heads, strict=True):
                x = layers(x)  # (B, C, h, w)
                with torch.no_grad():  # what the pictures are is given
                    y = layers(y)
                difference = (_unit(x) - _unit(y)).square()
                distances.append((difference * head).sum(dim=1).mean())
            return torch.stack(distances).sum()


def vgg16_file(weights: str | Path | None) -> Path:
    """The file that holds VGG16's weights: the one named, or torchvision's in torch's cache.

    Raises:
        UserError: it is not there.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"loss.perceptual_weights {weights}: no such file; {VGG16_ADDRESS} is the one to name")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / VGG16_NAME
    if not path.is_file():
        raise UserError(
            f"loss.perceptual_weight: {path} is missing; put {VGG16_ADDRESS} there, or name a copy in "
            f"loss.perceptual_weights"
        )
    return path


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + NORM_EPS).sqrt()


def _vgg16_features() -> nn.Sequential:
    """VGG16's convolutions without weights, so that no random number is drawn for them."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device("meta"):
        features: nn.Sequential = make_layers(cfgs["D"], batch_norm=False)
    return features


def _heads_file() -> Path:
    package = find_spec("torchmetrics")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "functional/image/lpips_models/vgg.pth"


def _read_tensors(path: Path, shapes: Mapping[str, torch.Size], remedy: str) -> dict[str, Tensor]:
    """The named tensors of a file of `torch.save`, float32, in the order of `shapes`; others are left.

    Raises:
        UserError: not such a file, or some tensor is missing or of another shape.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise UserError(f"{path}: cannot be read as weights saved by torch; {remedy}") from None
    items = tensors.items() if isinstance(tensors, Mapping) else ()
    found = {name: value for name, value in items if isinstance(value, Tensor)}
    complaints = [f"{name} is missing" for name in shapes if name not in found] + [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    if complaints:
        raise UserError(f"{path}: not the weights that LPIPS needs: {', '.join(complaints)}; {remedy}")
    return {name: found[name].float() for name in shapes}
