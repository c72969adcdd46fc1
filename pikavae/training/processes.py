"""The processes that train one model together. Alone, everything here is the identity.

Each process takes its share of every batch from the one global order, and gradients, curves and decisions are those of
the whole: the number of processes changes rounding and nothing else.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pikavae.errors import UserError

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others: longer than one of them validates, draws or writes a checkpoint."""


@dataclass(frozen=True)
class Processes:
    """One process among those that train together.

    Attributes:
        rank: its number, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share_of(self, batch: int) -> slice:
        """The part of a batch that is this process's.

        Raises:
            UserError: the batch cannot be shared evenly.
        """
        if batch % self.count:
            above = batch + self.count - batch % self.count
            raise UserError(
                f"training.batch_size {batch} cannot be shared by {self.count} processes; set it to {above}, or set "
                f"training.processes to a divisor of it"
            )
        each = batch // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module to call in training, whose backward pass averages the gradients over all processes."""
        if self.count == 1:
            return module
        # Weights are equal from the start, being made from the seed or read from one file; buffers there are none.
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def averaging(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """For a forward and backward pass: gradients are averaged after the last of an accumulation only."""
        if isinstance(wrapped, DistributedDataParallel) and not last:
            quiet: AbstractContextManager[object] = wrapped.no_sync()
            return quiet
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, element by element, in each of them."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def largest(self, values: list[float], device: torch.device) -> list[float]:
        """The largest over the processes, element by element, in each of them."""
        if self.count == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return list(numbers.tolist())

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank, in each of them."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def of_main(self, value: T) -> T:
        """The value of the process that writes, in each of them."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Go on when all are here."""
        self.gather(None)


ALONE = Processes()


def join(device: str) -> tuple[Processes, torch.device]:
    """Join the processes that a launcher such as torchrun or `accelerate launch` started, or be alone.

    Args:
        device: `cpu`, `cuda` or `mps`; with several GPUs each process takes its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, torch.device(device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=TIMEOUT)
    return Processes(state.process_index, state.num_processes), torch.device(state.device)


def leave() -> None:
    """Take leave of the others, so that no connection is cut."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
