"""Refuse steps whose loss or gradient is not finite: the device decides, and the host may read the values later."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pikavae.errors import NonFiniteLossError
from pikavae.training.state import TrainState

MOST_UNREAD = 50
"""Steps after which the values are read at the latest."""


@dataclass(frozen=True)
class StepValues:
    """Holds what was measured in one step.

    Attributes:
        step: its number, from 1.
        images_seen: pictures of the run before it.
        learning_rate: of the first group of weights.
        names: of the means.
        means: (len(names),) float32, losses over all batches and processes, on the device.
        norms: (1,) or (2,) float32, the norm of the autoencoder's gradient before clipping, and that of the
            discriminator's if it learned, on the device.
    """

    step: int
    images_seen: int
    learning_rate: float
    names: tuple[str, ...]
    means: Tensor
    norms: Tensor


class Watch:
    """Refuses steps that are not finite, and reports the first of them when it reads the values.

    Args:
        state: its counters are set back if a step is refused.
        device: where the values are.
        deferred: let the device refuse steps, and read only when asked. Otherwise each step is read before it is taken.

    Attributes:
        values: those of the last step that was read, by name.
    """

    def __init__(self, state: TrainState, device: torch.device, *, deferred: bool) -> None:
        self.values: dict[str, float] = {}
        self._state, self._deferred, self._unread = state, deferred, list[StepValues]()
        self._refused = torch.zeros((), device=device)

    @property
    def is_full(self) -> bool:
        """Return True if as many steps are unread as may be."""
        return len(self._unread) >= MOST_UNREAD

    def add(self, values: StepValues) -> tuple[Tensor | None, list[Tensor | None]]:
        """Receive the values of a step that is not yet taken.

        Returns:
            Flags on the device, float32 scalars. The first is 1 if this step or an earlier one is not finite, and None
            if this was read already. Those of the list, one for each norm, are 1 also if that gradient overflowed while
            the gradient scaler is on, which expects that; without a scaler they are the first.

        Raises:
            NonFiniteLossError: as `read`, if steps are not deferred.
        """
        self._unread.append(values)
        scaled = self._state.scaler.is_enabled()
        if self._deferred:
            self._refused = self._flag(values.means if scaled else torch.cat([values.means, values.norms]))
        else:
            self.read()
        refused = self._refused if self._deferred else None
        return refused, [self._flag(norm) if scaled else refused for norm in values.norms]

    def _flag(self, numbers: Tensor) -> Tensor:
        """Return 1 if a number is not finite or a step was refused, and 0 otherwise: a float32 scalar."""
        return torch.maximum(self._refused, 1.0 - numbers.isfinite().all().float())

    def read(self) -> dict[str, float]:
        """Return the values of the last step, after one transfer from the device for all that are unread.

        Raises:
            NonFiniteLossError: a step was not finite; counters of the state are those before it, as the weights are.
        """
        if self._unread:
            numbers = iter(torch.cat([part for step in self._unread for part in (step.means, step.norms)]).tolist())
            for step in self._unread:
                means, norms = {name: next(numbers) for name in step.names}, [next(numbers) for _ in step.norms]
                expected = self._state.scaler.is_enabled()  # of a gradient, whose step it skips
                if not all(map(math.isfinite, means.values())) or not (expected or all(map(math.isfinite, norms))):
                    self._refuse(step, means, norms)
            self._unread.clear()
            self.values = {**means, "train/learning_rate": step.learning_rate, "train/gradient_norm": norms[0]}
        return self.values

    def _refuse(self, step: StepValues, means: dict[str, float], norms: list[float]) -> None:
        """Set the counters back to those before the step, and raise."""
        self._state.step, self._state.images_seen = step.step - 1, step.images_seen
        listed = ", ".join(
            f"{name.removeprefix('train/')} {value:.6g}" for name, value in means.items() if name.startswith("train/")
        )
        of_both = ", the discriminator's ".join(f"{norm:.6g}" for norm in norms)
        raise NonFiniteLossError(
            f"step {step.step}: {listed}, gradient norm {of_both}, learning rate {step.learning_rate:.3g}: not "
            f"finite, so the step was not taken; lower optimizer.learning_rate, set optimizer.max_grad_norm or raise "
            f"optimizer.warmup_steps (checkpoints up to step {max(self._state.scores, default=0)} are whole)"
        )
