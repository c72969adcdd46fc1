"""Compute LPIPS, the distance of two pictures in the features of VGG16.

Source: Zhang et al. 2018 (arXiv:1801.03924). VGG16's weights are those that torchvision publishes, from a local file:
nothing is downloaded here. The linear heads, version 0.1, come from torchmetrics' wheel.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from pikavae.features.published import VGG16, take_tensors

SLICES = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))  # up to relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
CHANNELS = (64, 128, 256, 512, 512)
NORM_EPS = 1e-8
SMALLEST_SIDE = 16
"""The least side in pixels: VGG16 halves the picture four times."""


class LPIPS(nn.Module):
    """Computes LPIPS (VGG16) of two batches of pictures, differentiable only with respect to the first.

    All weights are frozen, and everything is float32 also under autocast. A feature vector f is brought to unit length
    as f / sqrt(|f|^2 + 1e-8), which has a finite derivative at zero.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, weights: str | Path | None, field: str) -> None:
        """Read the weights.

        Args:
            weights: the file of torchvision's VGG16; without it, the one in torch's cache.
            field: the dotted name of the setting that names the file, for messages.

        Raises:
            UserError: there is no such file, or it does not hold VGG16's weights.
        """
        super().__init__()
        features = _vgg16_features("meta")
        names = {f"features.{name}": value.shape for name, value in features.state_dict().items()}
        tensors = take_tensors(VGG16.require(weights, field), names, VGG16.network, VGG16.remedy(field))
        features.load_state_dict(
            {name.removeprefix("features."): tensor for name, tensor in tensors.items()}, assign=True
        )
        heads = {f"lin{i}.model.1.weight": torch.Size((1, channels, 1, 1)) for i, channels in enumerate(CHANNELS)}
        tensors = take_tensors(_heads_file(), heads, "LPIPS' heads", "install torchmetrics again")
        self._assemble(features, list(tensors.values()))

    @classmethod
    def unloaded(cls) -> LPIPS:
        """Return the network without its weights, on the default device, to see what memory it needs."""
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network._assemble(_vgg16_features(None), [torch.empty(1, channels, 1, 1) for channels in CHANNELS])
        return network

    def _assemble(self, features: nn.Sequential, heads: list[Tensor]) -> None:
        self.slices = nn.ModuleList([features[start:end] for start, end in SLICES])
        self.heads = nn.ParameterList(heads)
        # ImageNet's mean and standard deviation, for pictures in [-1, 1]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, reconstructions: Tensor, images: Tensor) -> Tensor:
        """Return the distance of each pair: (B,) float32.

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
                with torch.no_grad():  # the pictures need no gradient
                    y = layers(y)
                difference = (_unit(x) - _unit(y)).square()
                distances.append((difference * head).sum(dim=1).mean(dim=(1, 2)))
            return torch.stack(distances).sum(dim=0)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + NORM_EPS).sqrt()


def _vgg16_features(device: str | None) -> nn.Sequential:
    """Return VGG16's convolutions on a device, or on the default one; on `meta` no random numbers are drawn."""
    from torchvision.models.vgg import cfgs, make_layers

    with torch.device(device) if device else nullcontext():
        features: nn.Sequential = make_layers(cfgs["D"], batch_norm=False)
    return features


def _heads_file() -> Path:
    package = find_spec("torchmetrics")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "functional/image/lpips_models/vgg.pth"
