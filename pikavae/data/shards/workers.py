"""Runs jobs in processes that are bounded in memory and end with their parent.

They are plain programs that get their jobs through a pipe. Unlike the processes of `multiprocessing`, they never run
the caller's main module again, they end when the pipe ends, and the job of a process that dies is known.
"""

from __future__ import annotations

import os
import pickle
import re
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pikavae.errors import PikavaeError
from pikavae.process.surroundings import child_path
from pikavae.workspace.disks import explain

Job = TypeVar("Job")
Result = TypeVar("Result")

SERVE = f"from {__name__} import serve; serve()"


def count_processes(configured: int | None) -> int:
    """Return the configured number, or the number of cores that this process may use."""
    return configured or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)


def map_in_processes(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    begin: Callable[[], object],
    processes: int,
    max_bytes: int,
    describe: Callable[[Job], str],
) -> Iterator[Result]:
    """Call `function` on every job; yield the results in the order in which they are done.

    The first error ends the work and is raised here. Ctrl-C does not reach the processes: the parent handles it.

    Args:
        function: a function at the top level of a module; jobs, results and errors can be pickled as well.
        jobs: the jobs, taken one at a time when a process is free.
        begin: loads what the work needs, in each process, before its memory is bounded.
        processes: the number of processes.
        max_bytes: the memory that a process may take for the work; enforced on Linux.
        describe: names the job that a process died of.

    Raises:
        PikavaeError: a process was killed, for its memory or by a fault in a library.
    """
    remaining, busy = iter(jobs), dict[subprocess.Popen[bytes], Job]()
    with _workers(processes) as workers, selectors.DefaultSelector() as selector:
        for worker in workers:
            _send(worker, (function, begin, max_bytes))
            selector.register(_pipe(worker.stdout), selectors.EVENT_READ, worker)
            _hand_over(worker, remaining, busy)
        while busy:
            for key, _ in selector.select():
                result = _receive(key.data, describe(busy[key.data]))
                _hand_over(key.data, remaining, busy)
                yield result


def _hand_over(
    worker: subprocess.Popen[bytes], remaining: Iterator[Job], busy: dict[subprocess.Popen[bytes], Job]
) -> None:
    """Give a free process the next job, if there is one."""
    busy.pop(worker, None)
    for job in remaining:
        busy[worker] = job
        _send(worker, job)
        return


def _send(worker: subprocess.Popen[bytes], message: object) -> None:
    stdin = _pipe(worker.stdin)
    try:
        pickle.dump(message, stdin)
        stdin.flush()
    except BrokenPipeError:  # it died, and `_receive` will report it
        pass


def _receive(worker: subprocess.Popen[bytes], job: str) -> Any:
    try:
        succeeded, value = pickle.load(_pipe(worker.stdout))
    except (EOFError, pickle.UnpicklingError):
        status = worker.wait()
        cause = f"signal {-status}" if status < 0 else f"status {status}"
        raise PikavaeError(
            f"a process that prepares pictures ended with {cause}, for its memory or by a fault in a library that "
            f"decodes; it was at {job}. Lower data.workers or data.max_pixels, or remove the picture"
        ) from None
    if not succeeded:
        raise value
    return value


@contextmanager
def _workers(processes: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start processes that wait for their function, and kill them at the end of the block."""
    command = [sys.executable, "-P", "-c", SERVE]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, "PYTHONPATH": child_path(), **one_thread}
    workers: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(processes):
            workers.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # the parent handles signals to its whole group
                )
            )
        yield workers
    finally:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.communicate()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # both pipes are requested
    return pipe


def serve() -> None:
    """Run a process: receive the function, then do jobs until the pipe ends."""
    jobs, results = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not a result
    function, begin, max_bytes = pickle.load(jobs)
    begin()
    _limit_memory(max_bytes)
    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        try:
            message = (True, function(job))
        except PikavaeError as error:
            message = (False, error)
        except Exception as error:
            if (explained := explain(error, Path.cwd())) is None:
                raise
            message = (False, explained)
        pickle.dump(message, results)
        results.flush()


def _limit_memory(max_bytes: int) -> None:
    if sys.platform == "linux":
        import resource

        (kilobytes,) = re.findall(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
        taken = int(kilobytes) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (taken + max_bytes, resource.getrlimit(resource.RLIMIT_DATA)[1]))
