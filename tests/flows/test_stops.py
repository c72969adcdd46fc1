"""Told to stop on a terminal: the command ends with 75, the records say so, and nothing is left running."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults.stops import Home, drain, on_a_terminal, wait_for

COMMAND = [sys.executable, "-m", "flows.cli"]
SECONDS = 60  # a slow machine and its other tests; alone it takes five


@pytest.mark.slow
def test_a_lost_terminal_ends_a_run_and_its_records_say_so(tmp_path):
    home = Home(tmp_path, COMMAND)
    done = home.stop("train", 1, "SIGHUP", group=True)
    assert (done.status, done.mlflow, done.prefect, done.left) == (75, "KILLED", "CRASHED", 0), done.said
    assert done.seconds < SECONDS
    assert "Traceback" not in done.said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_to_the_whole_group_ends_a_preparation(tmp_path, monkeypatch, name):
    monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / "home"))
    words = ["prepare", "demo", "--data.sprites_count", "20000", "--data.workers", "1"]
    process, terminal = on_a_terminal([*COMMAND, *words], dict(os.environ))
    said = bytearray()
    shards = tmp_path / "home" / "prepared" / "shards"
    wait_for(lambda: drain(terminal, said) or any(shards.glob("*")), "the first shard", 0.02)
    os.killpg(process.pid, getattr(signal, name))
    wait_for(lambda: drain(terminal, said) or process.poll() is not None, "the end", 0.02)
    os.close(terminal)
    assert process.returncode == 75, said.decode()
    assert b"Traceback" not in said
    if name != "SIGHUP":  # after which nobody reads
        assert b"the same command resumes" in said


LISTENS = """
import signal, sys
from pikavae.process.stopping import ignore_stops, listen
listen()
try:
    if sys.argv[1] == "undisturbed":
        with ignore_stops():
            print("ready", flush=True)
            sys.stdin.readline()
            print("came to its end", flush=True)
    print("ready", flush=True)
    sys.stdin.readline()
    print("went on", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def hear_every_signal():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def listening(mode, **options):
    options = {"preexec_fn": hear_every_signal, **options}  # whoever runs the tests may ignore some, as nohup does
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENS, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_each_signal_stops(name):
    process = listening("plain")
    process.send_signal(getattr(signal, name))
    assert process.communicate()[0] == "stopped\n"


def test_what_nohup_ignores_stays_ignored():
    process = listening("plain", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert process.communicate("\n")[0] == "went on\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_records_are_written_to_their_end_before_a_second_signal_counts(name):
    process = listening("undisturbed")
    process.send_signal(getattr(signal, name))
    time.sleep(0.2)
    process.stdin.write("\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == ["came to its end\n", "ready\n"]
    process.send_signal(getattr(signal, name))
    assert process.communicate()[0] == "stopped\n"


def test_a_second_signal_ends_a_training_that_is_slow_to_save(tmp_path):
    from pikavae.operations.running.supervision import _stop
    from pikavae.process.meter import Meter

    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            _stop(process, Meter(tmp_path, "train"))
    finally:
        signal.signal(signal.SIGALRM, before)
        process.stdout.close()
    assert process.returncode == -signal.SIGKILL
