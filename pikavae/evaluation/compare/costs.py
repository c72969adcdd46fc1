"""Holds what models cost on one device, beside their scores, and finds those that no other model beats.

`operations` measures them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pikavae.config import ModelConfig
from pikavae.evaluation.metrics.definitions import METRICS
from pikavae.evaluation.report.report import Report
from pikavae.workspace.records import Record

HALF_BYTES = 2
SAME_TIME = 1.05
"""Two times that differ by at most this factor count as equal, because a repetition differs by as much."""
MEBIBYTE = 2**20


class ModelCost(Record):
    """Holds what one model costs.

    Attributes:
        digest: the hash of its sizes and weights.
        family: the family whose sizes it has, or `own`.
        downsampling_factor: pixels along a side of the picture for one cell of the latent.
        latent_channels: numbers in a cell.
        latent_bytes: of the picture's latent in half precision.
        compression: bytes of the 8-bit picture over `latent_bytes`.
        parameters: the number of weights.
        encoder_parameters: those that `encode` uses.
        decoder_parameters: those that `decode` uses.
        encode_ms: the median time to encode the picture.
        encode_ms_range: the least and the most.
        decode_ms: the median time to decode its latent.
        decode_ms_range: the least and the most.
        encode_bytes: the most memory at once while the picture is encoded, with all weights.
        decode_bytes: the same while it is decoded.
    """

    digest: str
    family: str
    downsampling_factor: int
    latent_channels: int
    latent_bytes: int
    compression: float
    parameters: int
    encoder_parameters: int
    decoder_parameters: int
    encode_ms: float
    encode_ms_range: Sequence[float]
    decode_ms: float
    decode_ms_range: Sequence[float]
    encode_bytes: int
    decode_bytes: int

    @property
    def ms(self) -> float:
        """Return the time to encode and to decode."""
        return self.encode_ms + self.decode_ms

    @property
    def peak_bytes(self) -> int:
        """Return the most memory at once."""
        return max(self.encode_bytes, self.decode_bytes)


class Costs(Record):
    """Holds what models cost, measured in turn in one process.

    Attributes:
        measured: the date and time.
        device: its name, and for a CPU the number of threads.
        precision: the format that the models computed in.
        shape: channels, height and width of the picture.
        rounds: how often each model encoded and decoded it, after a first time that does not count.
        memory_by: how memory was measured.
        models: in the order of the table.
    """

    measured: str
    device: str
    precision: str
    shape: Sequence[int]
    rounds: int
    memory_by: str
    models: Sequence[ModelCost]

    def protocol(self) -> str:
        """Describe in words how the costs were measured."""
        _, height, width = self.shape
        return (
            f"One picture of {width} x {height} px at a time in {self.precision}, on {self.device}, {self.measured}: "
            f"medians over {self.rounds} rounds, in which the models took turns, after a first time that does not "
            f"count. Memory is {self.memory_by}."
        )


def latent_bytes(config: ModelConfig, height: int, width: int) -> int:
    """Return the bytes of a picture's latent in half precision."""
    factor = config.downsampling_factor
    return HALF_BYTES * config.latent_channels * (height // factor) * (width // factor)


@dataclass(frozen=True)
class Choice:
    """Holds a model's scores and costs, and whether another model beats it.

    Attributes:
        label: the model's label in the table.
        score: the metric that ranks models; None if it has none.
        cost: its costs.
        best_for_bytes: True if no other model has at least its score in at most the bytes of its latent.
        best_for_time: True if no other model has at least its score in at most its time.
    """

    label: str
    score: float | None
    cost: ModelCost
    best_for_bytes: bool
    best_for_time: bool

    @property
    def marks(self) -> str:
        """Return in words what it is best for; empty if for nothing."""
        found = [name for name, is_best in (("bytes", self.best_for_bytes), ("time", self.best_for_time)) if is_best]
        return " and ".join(found)


def choices(reports: Sequence[tuple[str, Report]], costs: Costs) -> list[Choice]:
    """Return the models with their costs, in the table's order.

    Args:
        reports: label and report of each model, on the same pictures; the first decides the metric that ranks.
        costs: of the same models in the same order.
    """
    metric = METRICS[reports[0][1].primary_metric]
    scores = [report.metrics.get(metric.name) for _, report in reports]
    by_bytes = front(scores, [cost.latent_bytes for cost in costs.models])
    by_time = front(scores, [cost.ms for cost in costs.models], same=SAME_TIME)
    return [
        Choice(label, score, cost, of_bytes, of_time)
        for (label, _), score, cost, of_bytes, of_time in zip(
            reports, scores, costs.models, by_bytes, by_time, strict=True
        )
    ]


def front(scores: Sequence[float | None], costs: Sequence[float], *, same: float = 1.0) -> list[bool]:
    """Return for each model if it is on the Pareto front of a score, higher is better, and a cost, lower is better.

    A model is off the front if another has a better score at no more cost, or the same score at less.

    Args:
        scores: None for a model without a score, which is never on the front.
        costs: numbers above 0.
        same: costs that differ by at most this factor count as equal.
    """

    def beats(other: int, own: int) -> bool:
        theirs, mine = scores[other], scores[own]
        if theirs is None or mine is None or theirs < mine:
            return False
        return costs[other] <= same * costs[own] if theirs > mine else same * costs[other] < costs[own]

    numbers = range(len(scores))
    return [scores[own] is not None and not any(beats(other, own) for other in numbers) for own in numbers]


HEADS = (
    "family",
    "latent",
    "bytes",
    "ratio",
    "weights",
    "encode ms",
    "decode ms",
    "MiB",
    "best for",
)
"""The columns of the table of costs after the model and its score."""


def cost_cells(found: Sequence[Choice], metric_name: str) -> list[list[str]]:
    """Format titles and rows of the table of costs as text.

    Args:
        found: the models.
        metric_name: the metric that ranks them.
    """
    metric = METRICS[metric_name]
    return [
        ["", metric.head or metric.title, *HEADS],
        *([one.label, metric.format(one.score), *_cells(one.cost), one.marks or "-"] for one in found),
    ]


def _cells(cost: ModelCost) -> list[str]:
    return [
        cost.family,
        f"f{cost.downsampling_factor} c{cost.latent_channels}",
        f"{cost.latent_bytes:,}",
        f"{cost.compression:.3g}",
        millions(cost.parameters),
        rounded(cost.encode_ms),
        rounded(cost.decode_ms),
        rounded(cost.peak_bytes / MEBIBYTE),
    ]


def millions(number: int) -> str:
    """Format a number of weights in millions."""
    return f"{number / 1e6:,.3g} M" if number < 1e8 else f"{number / 1e6:,.0f} M"


def rounded(number: float) -> str:
    """Format a time or an amount of memory with three digits, or as a whole number."""
    return f"{number:,.3g}" if number < 100 else f"{number:,.0f}"


def record_of(found: Sequence[Choice], costs: Costs, metric: str) -> dict[str, Any]:
    """Return the costs in the form of JSON: how they were measured, and the models with their labels and marks.

    Args:
        found: the models.
        costs: their costs.
        metric: the name of the metric that ranks them.
    """
    head = {name: value for name, value in costs.content().items() if name != "models"}
    models = [
        {
            "model": one.label,
            **{name: value for name, value in one.cost.content().items() if name != "digest"},
            "score": one.score,
            "best_for_bytes": one.best_for_bytes,
            "best_for_time": one.best_for_time,
        }
        for one in found
    ]
    return {**head, "metric": metric, "models": models}
