"""Ports: a free one is taken silently, and the holder of another is named."""

import os
import socket
from contextlib import closing

import psutil
import pytest

from pikavae.errors import UserError
from pikavae.process.servers import require_free_port


@pytest.fixture
def listening():
    """The port that this process listens on."""
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_the_process_that_holds_a_port_is_named(listening):
    with pytest.raises(UserError) as refused:
        require_free_port(listening, "--prefect-port")
    message = str(refused.value)
    assert message.startswith(f"--prefect-port {listening}: taken by process {os.getpid()} (")
    assert psutil.Process().cmdline()[0] in message
    assert message.endswith("; choose another with --prefect-port")


def test_a_holder_that_may_not_be_seen_is_said_to_be_there(listening, monkeypatch):
    monkeypatch.setattr(psutil, "process_iter", lambda: [])
    with pytest.raises(UserError, match=f"^--port {listening}: taken by a process that this user may not see; choose"):
        require_free_port(listening)


def test_an_impossible_port_is_refused_and_a_free_one_taken(listening):
    with pytest.raises(UserError, match=r"^--port 70000: .*; choose another with --port$"):
        require_free_port(70_000)
    require_free_port(0)
