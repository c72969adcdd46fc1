"""Which failures are worth another try."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.client.schemas import TaskRun
from prefect.client.schemas.objects import State

from pikavae.errors import TransientError

DELAYS_SECONDS = [5.0, 30.0]


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether the task failed of something that may pass by itself, such as a server that is away.

    The user's mistakes and the failures of training stay as they are: another try would only hide them.
    """
    return isinstance(state.result(raise_on_failure=False), TransientError)
