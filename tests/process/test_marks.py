"""A mark names one process, whatever the clock does."""

import socket
import subprocess
import sys

import psutil
import pytest

from pikavae.process import marks


@pytest.mark.parametrize("seconds", [-3600, 61, 3600])
def test_a_step_of_the_clock_ends_no_process(monkeypatch, seconds):
    mark = marks.mark_of(psutil.Process())
    began = psutil.Process.create_time
    monkeypatch.setattr(
        psutil.Process, "create_time", lambda self: began(self) + seconds
    )  # counted from the clock's now
    assert marks.is_alive(mark)
    assert not marks.ended_here(f"{socket.gethostname()} {mark}")


def test_another_process_of_the_same_id_is_another():
    pid, started, beginning = marks.mark_of(psutil.Process()).split(":")
    tick, boot = beginning.split("@")
    assert marks.is_alive(":".join([pid, started, beginning]))
    assert not marks.is_alive(f"{pid}:{started}:{int(tick) + 1}@{boot}")
    assert not marks.is_alive(f"{pid}:{started}:{tick}@00000000")  # before the machine was started again


def test_a_mark_of_an_earlier_version_is_read():
    process = psutil.Process()
    assert marks.is_alive(f"{process.pid}:{process.create_time():.0f}")
    assert not marks.is_alive(f"{process.pid}:{process.create_time() - 3600:.0f}")
    assert not marks.is_alive("no mark")


def test_without_a_beginning_the_clock_decides(monkeypatch):
    monkeypatch.setattr(marks, "_beginning", lambda pid: [])
    mark = marks.mark_of(psutil.Process())
    assert mark.count(":") == 1
    assert marks.is_alive(mark)


def test_a_process_that_ended_is_not_alive():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = marks.mark_of(psutil.Process(process.pid))
    assert marks.is_alive(mark)
    process.communicate()
    assert not marks.is_alive(mark)
