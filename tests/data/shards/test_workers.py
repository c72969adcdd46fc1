"""Processes for many jobs: order, errors, death, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pikavae.data.shards.workers import count_processes, map_in_processes
from pikavae.errors import PikavaeError, UserError
from tests.support.places import ROOT

MEBIBYTE = 2**20


def nothing():
    pass


def square(number):
    return os.getpid(), number**2


def complain(number):
    raise UserError(f"number {number}: wrong; take another")


def die(number):
    os.kill(os.getpid(), signal.SIGSEGV)


def allocate(size):
    try:
        return len(bytearray(size))
    except MemoryError:
        return "refused"


def chatter(number):
    os.write(1, b"a library that prints")
    return number


def run(function, jobs, processes=2, max_bytes=512 * MEBIBYTE):
    return list(
        map_in_processes(
            function, jobs, begin=nothing, processes=processes, max_bytes=max_bytes, describe=lambda job: f"job {job}"
        )
    )


def children():
    return psutil.Process().children(recursive=True)


def test_every_job_is_done_once_by_as_many_processes():
    before = len(children())
    results = run(square, iter(range(40)), processes=3)
    assert sorted(value for _, value in results) == [number**2 for number in range(40)]
    assert len({pid for pid, _ in results}) <= 3
    assert os.getpid() not in {pid for pid, _ in results}
    assert len(children()) == before
    assert run(square, []) == []


def test_jobs_are_taken_as_they_are_needed():
    taken = []

    def jobs():
        for number in range(1000):
            taken.append(number)
            yield number

    for count, _ in enumerate(
        map_in_processes(square, jobs(), begin=nothing, processes=2, max_bytes=MEBIBYTE * 512, describe=str), 1
    ):
        assert len(taken) <= count + 2
        if count == 5:
            break


def test_an_error_is_raised_as_it_was_and_ends_the_processes():
    before = len(children())
    with pytest.raises(UserError, match="number 0: wrong; take another"):
        run(complain, range(4), processes=1)
    assert len(children()) == before


def test_a_death_is_said_with_the_job():
    with pytest.raises(PikavaeError, match=r"ended with signal 11, .* it was at job 7\. Lower data\.workers"):
        run(die, [7], processes=1)


def test_memory_is_bounded_for_the_work_on_linux():
    allocated = run(allocate, [50 * MEBIBYTE, 400 * MEBIBYTE], processes=1, max_bytes=200 * MEBIBYTE)
    assert allocated == [50 * MEBIBYTE, "refused" if sys.platform == "linux" else 400 * MEBIBYTE]


def test_what_a_library_prints_spoils_nothing():
    assert sorted(run(chatter, range(5))) == list(range(5))


def test_processes_end_with_a_killed_parent():
    program = (
        "import time; from pikavae.data.shards.workers import map_in_processes\n"
        "for _ in map_in_processes(time.sleep, [0, 0, 0.5, 0.5, 0.5, 0.5], begin=int, processes=2,"
        " max_bytes=2**30, describe=str): print('begun', flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_as_many_processes_as_cores_unless_configured():
    assert count_processes(3) == 3
    assert 1 <= count_processes(None) <= os.cpu_count()
