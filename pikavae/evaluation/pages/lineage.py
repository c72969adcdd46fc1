"""Declares what an evaluation's page shows of the training: its pictures, its settings, where the model came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pikavae.evaluation.report.panels import mosaic
from pikavae.html.images import SMALL_PICTURE, PageImage, page_image

MOMENTS_BYTES = 600_000


@dataclass(frozen=True)
class About:
    """Holds what a page shows of a model besides its report.

    Attributes:
        moments: the same validation pictures at moments of the training, the originals last: the label of each moment,
            and (N, 3, H, W) float32 in about [-1, 1].
        lineage: where the model came from, in words and JSON values.
        settings: the configuration that made the model, by dotted names; empty if there is none.
        defaults: the default values of those settings.
    """

    moments: Sequence[tuple[str, Tensor]] = ()
    lineage: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def changed_settings(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults."""
        known = self.defaults
        return {name: value for name, value in self.settings.items() if name not in known or value != known[name]}

    def moment_images(self) -> list[tuple[str, PageImage]]:
        """Return the label of each moment, and one image of its first pictures."""
        return [
            (
                name,
                page_image(mosaic(pictures), MOMENTS_BYTES // len(self.moments))._replace(
                    pixelated=max(pictures.shape[2:]) <= SMALL_PICTURE
                ),
            )
            for name, pictures in self.moments
        ]
