"""Define what receives a training's events."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pikavae.training.state import TrainState


class Observer:
    """Receives the loop's events; the base class ignores them.

    `preview`, `on_checkpoint`, `before_save` and `on_drop` come in order, perhaps from a thread that writes beside the
    next steps; the others may then come between them.
    """

    def on_start(self, step: int) -> None:
        """Receive the step at which training begins; 0 unless it resumed."""

    def on_step(self, state: TrainState, loss: float | None, progress: float) -> None:
        """Receive the state after a step, and the last loss that was read from the device; None before the first.

        `progress` is the share of the run that is done, in [0, 1].
        """

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Receive points of the curves `train/...` or `val/...`."""

    def preview(self, reconstructions: Tensor, step: int) -> None:
        """Receive the fixed validation pictures, reconstructed: (N, 3, H, W) float32 in about [-1, 1], on the CPU."""

    def on_checkpoint(self, step: int, metrics: Mapping[str, float]) -> None:
        """Receive a checkpoint's validation scores before it is written; its snapshot exists already."""

    def on_drop(self, step: int) -> None:
        """Receive the step of a snapshot before it is removed."""

    def before_save(self, step: int) -> None:
        """Receive the step of a state before it is written; events up to this step are not reported again."""
