"""Work on many chunks in processes that are bounded in memory and end with whoever started them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pikavae.errors import PikavaeError

Job = TypeVar("Job")
Result = TypeVar("Result")

JOBS_IN_ADVANCE = 2
"""For each process, so that none waits and no long queue is held in memory."""


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    processes: int,
    max_bytes: int,
    preload: str,
    describe: Callable[[Job], str],
) -> Iterator[Result]:
    """Call `function` on every job, in whatever order they end.

    The first error ends the work and is raised here. The processes ignore Ctrl-C, which is ours to handle, and end when
    this one does, however it ended.

    Args:
        function: can be pickled; so can jobs and results.
        jobs: taken a few at a time.
        processes: how many at once.
        max_bytes: of a process's own memory, besides what it starts with; enforced on Linux.
        preload: the module of `function`, imported once for all processes.
        describe: says which job it was that a process died of.

    Raises:
        PikavaeError: a process was killed, for its memory or by a fault in a library.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    remaining, pending = iter(jobs), dict[Future[Result], Job]()
    with ProcessPoolExecutor(processes, context, _begin_worker, (max_bytes,)) as pool:
        try:
            while True:
                while len(pending) < processes * (1 + JOBS_IN_ADVANCE) and (job := next(remaining, None)) is not None:
                    pending[pool.submit(function, job)] = job
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    yield future.result()
                    del pending[future]
        except BrokenProcessPool:
            suspects = "; ".join(describe(job) for job in pending.values())
            raise PikavaeError(
                f"a process that prepares pictures was killed, by the system for its memory or by a fault in a library "
                f"that decodes; it was at one of these: {suspects}. Lower data.workers, or remove the picture"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def count_processes(configured: int | None) -> int:
    """The configured number, or as many as there are cores for this process."""
    return configured or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


def _begin_worker(max_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _end_with(sentinel: int) -> None:
    """A killed parent leaves no message, and the queues stay open between the processes that are left."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
