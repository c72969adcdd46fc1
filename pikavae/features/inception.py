"""Compute the features that FID and KID compare: those of FID's own Inception v3, in torch-fidelity's version.

Source: Szegedy et al. 2016 (arXiv:1512.00567) with the weights of 2015-12-05 that Heusel et al. 2017 (arXiv:1706.08500)
measured with. The network is torch-fidelity's, which gives the numbers of their code. Nothing is downloaded here.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor, nn

from pikavae.errors import UserError
from pikavae.features.published import INCEPTION, read_tensors

NUM_FEATURES = 2048


class InceptionFeatures(nn.Module):
    """Computes Inception v3's features after its last pooling. The weights are frozen."""

    def __init__(self, weights: str | Path | None, field: str) -> None:
        """Read the weights.

        Args:
            weights: the file that torch-fidelity publishes; without it, the one in torch's cache.
            field: the dotted name of the setting that names the file, for messages.

        Raises:
            UserError: there is no such file, or it does not hold this network's weights.
        """
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        super().__init__()
        path, remedy = INCEPTION.require(weights, field), INCEPTION.remedy(field)
        # The library would run code that the file pickles, so it gets a copy that holds only tensors.
        copy = BytesIO()
        torch.save(read_tensors(path, remedy), copy)
        copy.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):  # it draws random weights before it loads these
                network = FeatureExtractorInceptionV3("inception-v3", [str(NUM_FEATURES)], copy)
        except RuntimeError as error:
            said = " ".join(str(error).split()).partition(": ")[2][:200]
            raise UserError(f"{path}: not the weights of {INCEPTION.network}: {said}; {remedy}") from None
        self.network = network.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of pictures: (B, 2048) float32.

        Pictures are scaled to 299 x 299 as in TensorFlow 1, bilinear and without antialiasing.

        Args:
            images: (B, 3, H, W) uint8.
        """
        (features,) = self.network(images)  # (B, 2048)
        assert isinstance(features, Tensor)
        return features
