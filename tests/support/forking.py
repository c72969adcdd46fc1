"""Forks processes for tests from one that has imported torch and what training needs.

A training of a test takes a few steps, and a new process would spend most of its time on imports. Tests of the process
itself (its environment, its crashes, its command line) ask for `real_process` and start training as production does.
"""

import multiprocessing
from pathlib import Path
from unittest import mock

import pytest

from pikavae.operations.running import supervision
from tests.support import forked

START_WORKER = supervision.start_worker
FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload([forked.__name__, "torch._dynamo"])  # torch's optimizers import it at their first step


@pytest.fixture(autouse=True, scope="session")
def forked_training():
    """Fork the processes that train."""
    with mock.patch.object(supervision, "start_worker", start_forked):
        yield


@pytest.fixture
def real_process(monkeypatch):
    """Start the processes that train as production does."""
    monkeypatch.setattr(supervision, "start_worker", START_WORKER)


def fork(function, *arguments):
    """Run a function of `tests.support.forked` in a process of its own."""
    process = FORKING.Process(target=function, args=arguments)
    process.start()
    return process


def start_forked(folder, output):
    """Replace `supervision.start_worker`: fork the process that trains."""
    return Forked(fork(forked.train, folder, output.name, supervision._environment(), Path.cwd()))


class Forked:
    """Gives a forked process the part of `subprocess.Popen` that supervision uses."""

    def __init__(self, process):
        self._process = process
        self.pid = process.pid

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self.returncode

    def wait(self):
        self._process.join()
        return self.returncode

    def terminate(self):
        self._process.terminate()
