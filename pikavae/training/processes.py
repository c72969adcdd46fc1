"""Connect the processes that train one model together. For a single process, everything here is the identity.

Each process takes its share of every batch from the one global order, and gradients, curves and decisions are those of
the whole batch: the number of processes changes only rounding.
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
    """Represents one process among those that train together.

    Attributes:
        rank: its number, from 0.
        count: the number of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Return True if this is the process that writes."""
        return self.rank == 0

    def share_of(self, batch: int) -> slice:
        """Return this process's part of a batch.

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
        """Return the module to call in training; its backward pass averages the gradients over all processes."""
        if self.count == 1:
            return module
        # Weights are equal from the start: they come from the seed or from one file, and so do buffers,
        # which change by what all processes measured.
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)

    def averaging(self, wrapped: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Wrap a forward and backward pass: gradients are averaged only after the last one of an accumulation."""
        if isinstance(wrapped, DistributedDataParallel) and not last:
            quiet: AbstractContextManager[object] = wrapped.no_sync()
            return quiet
        return nullcontext()

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes, element by element, in each process."""
        if self.count > 1:
            dist.all_reduce(values)
            values /= self.count
        return values

    def largest(self, values: list[float]) -> list[float]:
        """Return the largest over the processes, element by element, in each process; no device takes part."""
        if self.count == 1:
            return values
        numbers = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return list(numbers.tolist())

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank, in each process."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def of_main(self, value: T) -> T:
        """Return the value of the process that writes, in each process."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.gather(None)


ALONE = Processes()


def join(device: str) -> tuple[Processes, torch.device]:
    """Join the processes that a launcher such as torchrun or `accelerate launch` started, or run as the only one.

    Args:
        device: `cpu`, `cuda` or `mps`; with several GPUs each process takes its own.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE, torch.device(device)
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=TIMEOUT, backend=backend_of(device))
    return Processes(state.process_index, state.num_processes), torch.device(state.device)


def backend_of(device: str) -> str:
    """Return torch's name of what processes on such a device talk by.

    Gradients on CUDA go by NCCL. What the host decides (seconds, stopping, scores) goes by gloo there too: NCCL would
    have it wait for the device.
    """
    return "cuda:nccl,cpu:gloo" if device == "cuda" else "gloo"


def leave() -> None:
    """Leave the group of processes cleanly, so that no other process loses its connection."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
