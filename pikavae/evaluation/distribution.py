"""rFID and KID: how far the reconstructions, as a set, are from the originals in the features of Inception v3.

FID (Heusel et al. 2017, arXiv:1706.08500) is biased, the more the fewer pictures and differently for each model
(Chong & Forsyth 2020, arXiv:1911.07023); with no more pictures than features the covariances are singular besides, and
then none is given. KID (Binkowski et al. 2018, arXiv:1801.01401) is unbiased for any number of pictures.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from pikavae.evaluation.measurement import Batch, Findings
from pikavae.evaluation.panels import to_uint8
from pikavae.features.inception import NUM_FEATURES, InceptionFeatures
from pikavae.features.weights import INCEPTION, INCEPTION_FIELD

Features = NDArray[np.float64]

METRICS = ("rfid", "kid", "kid_deviation")
SUBSETS = 100
MOST_IN_SUBSET = 1000
FEWEST_FOR_KID = 4
"""Pictures: half of them must make a pair of pairs."""
SEED = 0


def frechet_distance(originals: Features, reconstructions: Features) -> float:
    """FID: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) of means and sample covariances, by torch-fidelity.

    Args:
        originals: (N, D).
        reconstructions: (N, D).
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = (fid_features_to_statistics(torch.from_numpy(one)) for one in (originals, reconstructions))
    return max(0.0, float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]))  # but for rounding


def kernel_distance(originals: Features, reconstructions: Features) -> float:
    """KID: the squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, without bias.

    A reconstruction depends on its original, so that no picture is compared with its own reconstruction: what is
    averaged is k(x, x') + k(y, y') - k(x, y') - k(x', y) over different pairs (x, y) and (x', y'), the U-statistic of
    Gretton et al. 2012 (JMLR 13), equation 4. Where the two sets are independent the customary estimate, which compares
    all x with all y, has the same mean; here it would be too low, by what a picture is nearer to its own reconstruction
    than to another's, over N / 2.

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
    """KID of 100 subsets of the pictures, drawn by a seeded generator: (100,). Arguments as in `kernel_distance`."""
    generator, count = np.random.default_rng(SEED), len(originals)
    chosen = (generator.choice(count, subset_size(count), replace=False) for _ in range(SUBSETS))
    return np.array([kernel_distance(originals[subset], reconstructions[subset]) for subset in chosen])


def subset_size(num_images: int) -> int:
    """Pictures in a subset: the customary 1,000, or half of a set that is smaller than two such subsets."""
    return min(MOST_IN_SUBSET, num_images // 2)


def distances(originals: Features, reconstructions: Features) -> Findings:
    """The rFID and KID of features (N, D), as far as N pictures allow."""
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
    return Findings(metrics=metrics, reasons=reasons)


class Distribution:
    """Measures rFID and KID where Inception's weights are there, and says what is missing where they are not.

    Both sets' features are kept until the end: 16 KiB a picture.
    """

    def __init__(self, num_images: int, weights: str | None, device: torch.device) -> None:
        """Read the weights.

        Args:
            num_images: of the set.
            weights: the file that `evaluation.inception_weights` names; without it, the one in torch's cache.
            device: where to compute the features.

        Raises:
            UserError: the named file is not there, or a file holds something else.
        """
        path = INCEPTION.find(weights, INCEPTION_FIELD)
        self._device = device
        self._network = InceptionFeatures(path, INCEPTION_FIELD).to(device) if path else None
        self._described = INCEPTION.described(path) if path else ""
        self._features = torch.full((2, num_images if path else 0, NUM_FEATURES), math.nan)

    def update(self, batch: Batch) -> None:
        """Take in a batch."""
        if self._network is None:
            return
        both = torch.stack([to_uint8(batch.images), to_uint8(batch.reconstructions)], dim=1).to(self._device)
        # Pair by pair, so that the batch's size decides neither the numbers nor the memory.
        for index, pair, error in zip(batch.indices, both, batch.mse, strict=True):
            if not error.isnan():
                self._features[:, index] = self._network(pair).cpu()

    def result(self) -> Findings:
        """The distances, or why there is none: where a reconstruction is not finite, that is the reason."""
        if self._network is None:
            absent = INCEPTION.absence(INCEPTION_FIELD)
            return Findings(metrics=dict.fromkeys(METRICS, math.nan), reasons=dict.fromkeys(METRICS, absent))
        found = Findings(metrics=dict.fromkeys(METRICS, math.nan))
        if not self._features.isnan().any():
            found = distances(*self._features.double().numpy())
        return replace(found, protocol=self._protocol())

    def _protocol(self) -> dict[str, str]:
        count = self._features.shape[1]
        return {
            "rfid": f"Heusel et al. 2017 by torch-fidelity, {self._described}, {NUM_FEATURES} features after the last "
            f"pooling, pictures rounded to 8 bits, bilinear to 299 x 299 without antialiasing (as TensorFlow 1)",
            "kid": f"Binkowski et al. 2018, kernel (x.y / {NUM_FEATURES} + 1)^3 on the same features; U-statistic over "
            f"different pictures, mean of {SUBSETS} subsets of {subset_size(count):,} (seed {SEED})",
            "kid_deviation": "standard deviation of KID over the subsets",
        }
