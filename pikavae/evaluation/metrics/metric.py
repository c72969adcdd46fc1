"""Describes a metric: its name, its words, which way is better, and the function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Reconstructed(Protocol):
    """Gives what a metric of a picture is computed from: pictures of one shape, their latents and reconstructions."""

    @property
    def images(self) -> Tensor:
        """Return the pictures: (B, C, H, W) float32 in [-1, 1]."""

    @property
    def channels(self) -> Sequence[str]:
        """Return the names of their channels."""

    @property
    def reconstructions(self) -> Tensor:
        """Return their reconstructions: the same shape, about [-1, 1], not clamped."""

    @property
    def latents(self) -> Tensor:
        """Return their latents, the posteriors' modes: (B, Z, H/f, W/f) float32."""

    @property
    def mse(self) -> Tensor:
        """Return each picture's `similarity.mse`: (B,) float64."""


Compute = Callable[[Reconstructed], "Mapping[str, Tensor]"]
"""Computes metrics of each picture: by name (B,) float64, NaN for a picture without such a number."""


@dataclass(frozen=True)
class Metric:
    """Describes a metric.

    Attributes:
        name: its name in `report.json`, `per_image.csv` and, as `val/NAME`, in MLflow.
        title: what pages call it.
        head: its title at the head of a table's column; by default `title`.
        about: what it tells a person, as a phrase.
        protocol: how it is measured, in words for people. Two reports can be compared only if it is the same. Empty if
            the measurement adds it, because it depends on a file of weights.
        protocol_name: its entry in a report's protocol; metrics of one entry have the same words.
        unit: the unit of its numbers and of a tolerance; empty for a share or an error on [-1, 1].
        digits: the decimals that tables show.
        of_picture: True if each picture has the number, and comparisons may use it; False for a number of the set.
        better: `higher`, `lower`, or the best number: then distances from it are compared. None: it is not compared.
        compute: what computes it from pictures; None if a measurement in `measure` does. Several rows may share it.
        needs: what a picture needs to have the number, as the end of a sentence that begins with `no picture`.
        floor: the setting of section `promotion` that is the least that a version must reach.
        tolerance: the setting of section `promotion` that makes it a guard: by how much it may be worse.
    """

    name: str
    title: str
    about: str
    head: str = ""
    protocol: str = ""
    protocol_name: str = ""
    unit: str = ""
    digits: int = 4
    of_picture: bool = True
    better: Literal["higher", "lower"] | float | None = None
    compute: Compute | None = None
    needs: str = ""
    floor: str = ""
    tolerance: str = ""

    @property
    def entry(self) -> str:
        """Return the name of its entry in a report's protocol."""
        return self.protocol_name or self.name

    @property
    def heading(self) -> str:
        """Return the title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def label(self) -> str:
        """Return the name, or that of the distance which is compared."""
        if not isinstance(self.better, float):
            return self.name
        return f"|{self.name} - {self.better:g}|" if self.better else f"|{self.name}|"

    def format(self, value: float | None) -> str:
        """Format a value with its digits; None becomes a dash."""
        return "-" if value is None else f"{value:,.{self.digits}f}"

    def text(self, value: float | None) -> str:
        """Format a value with its unit."""
        return f"{self.format(value)} {self.unit}".rstrip()

    def sign(self) -> float:
        """Return 1 if more is better, -1 if less is, of the number or of its distance from the best number."""
        return 1.0 if self.better == "higher" else -1.0
