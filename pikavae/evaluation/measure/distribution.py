"""Measures rFID and KID: how far the reconstructions, as a set, are from the originals in features of Inception v3.

FID (Heusel et al. 2017, arXiv:1706.08500) is biased, more with fewer pictures and differently for each model
(Chong & Forsyth 2020, arXiv:1911.07023). With no more pictures than features, the covariances are also singular, and
no FID is reported. KID (Binkowski et al. 2018, arXiv:1801.01401) is unbiased for any number of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pikavae.config import CHANNELS
from pikavae.data.pictures.form import RGB
from pikavae.data.prepared.shown import as_rgb, describe_rgb, why_no_rgb
from pikavae.evaluation.measure.measurement import Measured, MeasuredBatch
from pikavae.evaluation.report.panels import to_uint8
from pikavae.features.inception import NUM_FEATURES, InceptionFeatures
from pikavae.features.published import INCEPTION, INCEPTION_FIELD

Features = NDArray[np.float64]

METRICS = ("rfid", "kid", "kid_deviation")
SUBSETS = 100
MOST_IN_SUBSET = 1000
FEWEST_FOR_KID = 4
"""The fewest pictures for KID: half of them must make a pair of pairs."""
SEED = 0


def frechet_distance(originals: Features, reconstructions: Features) -> float:
    """Compute FID by torch-fidelity: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of means and sample covariances.

    Args:
        originals: (N, D).
        reconstructions: (N, D).
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = (fid_features_to_statistics(torch.from_numpy(one)) for one in (originals, reconstructions))
    return max(0.0, float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]))  # may round below 0


def kernel_distance(originals: Features, reconstructions: Features) -> float:
    """Compute KID: the squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, without bias.

    A reconstruction depends on its original, so no picture is compared with its own reconstruction. This averages
    k(x, x') + k(y, y') - k(x, y') - k(x', y) over different pairs (x, y) and (x', y'). It is the U-statistic of Gretton
    et al. 2012 (JMLR 13), equation 4. The customary estimate compares all x with all y. It has the same mean if the two
    sets are independent. Here it would be too low, by how much nearer a picture is to its own reconstruction than to
    another's, over N / 2.

    Args:
        originals: (N, D), N at least 2.
        reconstructions: (N, D), in the same order.
    """
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    settings = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    of_originals, between, of_reconstructions = (
        kernel_poly(x, y, **settings)
        for x, y in ((originals, originals), (originals, reconstructions), (reconstructions, reconstructions))
    )
    return float(mmd2(of_originals, between, of_reconstructions, mmd_est="u-statistic"))


def kernel_distances(originals: Features, reconstructions: Features) -> NDArray[np.float64]:
    """Compute KID of 100 subsets drawn by a seeded generator: (100,). Arguments are those of `kernel_distance`."""
    generator, count = np.random.default_rng(SEED), len(originals)
    chosen = (generator.choice(count, subset_size(count), replace=False) for _ in range(SUBSETS))
    return np.array([kernel_distance(originals[subset], reconstructions[subset]) for subset in chosen])


def subset_size(num_images: int) -> int:
    """Return the pictures in a subset: the customary 1,000, or half of a set that is smaller than two such subsets."""
    return min(MOST_IN_SUBSET, num_images // 2)


def distances(originals: Features, reconstructions: Features) -> Measured:
    """Compute rFID and KID of features (N, D), as far as N pictures allow."""
    metrics = dict.fromkeys(METRICS, math.nan)
    reasons, (count, size) = {}, originals.shape
    if count > size:
        metrics["rfid"] = frechet_distance(originals, reconstructions)
    else:
        reasons["rfid"] = (
            f"needs more pictures than the {size:,} features, or their covariance is singular; the set has {count:,}: "
            f"KID is for small sets"
        )
    if count >= FEWEST_FOR_KID:
        each = kernel_distances(originals, reconstructions)
        metrics |= {"kid": float(each.mean()), "kid_deviation": float(each.std())}
    else:
        few = f"needs at least {FEWEST_FOR_KID} pictures; the set has {count}"
        reasons |= {"kid": few, "kid_deviation": few}
    return Measured(metrics=metrics, reasons=reasons)


class Distribution:
    """Measures rFID and KID with Inception's weights, or reports what is missing without them.

    Both sets' features are kept until the end: 16 KiB per picture.
    """

    def __init__(
        self, num_images: int, weights: str | None, device: torch.device, channels: Sequence[str] = RGB
    ) -> None:
        """Read the weights, unless the pictures' channels are no colours.

        Args:
            num_images: the number of pictures in the set.
            weights: the file that `evaluation.inception_weights` names; if None, the file in torch's cache.
            device: where to compute the features.
            channels: the names of a picture's channels.

        Raises:
            UserError: the named file is missing, or a file holds something else.
        """
        is_defined, self._seen = tuple(channels) in CHANNELS.values(), describe_rgb(channels)
        self._why_not = INCEPTION.absence(INCEPTION_FIELD) if is_defined else why_no_rgb(channels)
        path = INCEPTION.find(weights, INCEPTION_FIELD) if is_defined else None
        self._device = device
        self._network = InceptionFeatures(path, INCEPTION_FIELD).to(device) if path else None
        self._described = INCEPTION.describe(path) if path else ""
        self._features = torch.full((2, num_images if path else 0, NUM_FEATURES), math.nan)

    def update(self, batch: MeasuredBatch) -> None:
        """Take in a batch."""
        if self._network is None:
            return
        made, truth = (
            as_rgb(images, batch.channels) for images in (batch.reconstructions.clamp(-1.0, 1.0), batch.images)
        )
        assert made is not None, batch.channels
        assert truth is not None, batch.channels
        both = torch.stack([to_uint8(truth), to_uint8(made)], dim=1).to(self._device)
        # One pair at a time: the batch's size then decides neither the numbers nor the memory.
        for index, pair, error in zip(batch.indices, both, batch.mse, strict=True):
            if not error.isnan():
                self._features[:, index] = self._network(pair).cpu()

    def result(self) -> Measured:
        """Return the distances, or the reason why there are none, such as a reconstruction that is not finite."""
        if self._network is None:
            return Measured(metrics=dict.fromkeys(METRICS, math.nan), reasons=dict.fromkeys(METRICS, self._why_not))
        found = Measured(metrics=dict.fromkeys(METRICS, math.nan))
        if not self._features.isnan().any():
            found = distances(*self._features.double().numpy())
        return replace(found, protocol=self._protocol())

    def _protocol(self) -> dict[str, str]:
        count = self._features.shape[1]
        return {
            "rfid": f"Heusel et al. 2017 by torch-fidelity, {self._described}, {NUM_FEATURES} features after the last "
            f"pooling, pictures rounded to 8 bits, bilinear to 299 x 299 without antialiasing (as TensorFlow 1)"
            + (f", {self._seen}" if self._seen else ""),
            "kid": f"Binkowski et al. 2018, kernel (x.y / {NUM_FEATURES} + 1)^3 on the same features; U-statistic over "
            f"different pictures, mean of {SUBSETS} subsets of {subset_size(count):,} (seed {SEED})",
            "kid_deviation": "standard deviation of KID over the subsets",
        }
