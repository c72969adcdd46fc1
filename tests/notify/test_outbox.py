"""The outbox: each event once at each address, whatever is killed, dead, slow or full."""

import errno
import logging
import os
import socket
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest

from pikavae.notify import outbox as outbox_module
from pikavae.notify import send
from pikavae.notify.deliver import after_pause, deliver
from pikavae.notify.notification import Notification
from pikavae.notify.outbox import Delivery, Outbox, OutboxEvent
from pikavae.notify.settings import EVERY_EVENT, Address, Recipients
from tests.support.listening import listening

PATIENCE = 120


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """A loaded machine answers late."""
    monkeypatch.setattr(send, "SECONDS", 60.0)


@pytest.fixture
def outbox(tmp_path):
    return Outbox(tmp_path)


def made(name, event="promoted"):
    return Notification.make(name, event, f"title of {name}", ["a line"])


def to(*listeners, events=EVERY_EVENT):
    return Recipients(tuple(Address(one.url, events) for one in listeners))


def add(outbox, recipients, *names, event="promoted"):
    with outbox.lock():
        return [outbox.add(made(name, event), recipients.addresses) for name in names]


def pending(outbox):
    return [
        (event.notification.id, delivery.label.partition(" ")[0])
        for event in outbox.events()
        for delivery in event.deliveries.values()
        if delivery.delivered is None
    ]


def test_each_address_gets_each_of_its_events_once_and_in_order(outbox):
    with listening() as one, listening() as other:
        recipients = Recipients((*to(one).addresses, *to(other, events=("run_failed",)).addresses))
        assert add(outbox, recipients, "a", "b") == [True, True]
        assert add(outbox, recipients, "b", "c", event="run_failed") == [False, True]
        for _ in range(3):
            deliver(Outbox(outbox.home), recipients, patience=PATIENCE)
    assert [payload["id"] for payload in one.payloads] == ["a", "b", "c"]
    assert [payload["id"] for payload in other.payloads] == ["c"]
    assert pending(outbox) == []


def test_who_was_killed_between_sending_and_noting_sends_again_with_the_same_id(outbox, monkeypatch):
    with listening() as listener:
        add(outbox, to(listener), "a", "b")
        with monkeypatch.context() as killed:
            killed.setattr(Outbox, "record_delivery", lambda *_: None)
            deliver(outbox, to(listener), patience=PATIENCE)
        assert len(pending(outbox)) == 2
        deliver(outbox, to(listener), patience=PATIENCE)
        deliver(outbox, to(listener), patience=PATIENCE)
    assert [payload["id"] for payload in listener.payloads] == ["a", "b"] * 2


def test_a_dead_address_delays_no_other_and_gets_what_it_missed(outbox, caplog):
    with listening() as dead:
        pass
    with listening() as alive:
        recipients = to(dead, alive)
        add(outbox, recipients, "a", "b")
        deliver(outbox, recipients, patience=PATIENCE)
        assert [payload["id"] for payload in alive.payloads] == ["a", "b"]
        states = [event.deliveries[recipients.addresses[0].digest] for event in outbox.events()]
        assert [(state.delivered, state.tries) for state in states] == [(None, 1), (None, 0)]  # one failed, one waits
        assert "no answer" in states[0].error
        with listening(dead.port) as again:
            deliver(outbox, recipients, patience=PATIENCE)
            deliver(outbox, recipients, patience=PATIENCE)
        assert [payload["id"] for payload in again.payloads] == ["a", "b"]
        assert len(alive.requests) == 2
    assert pending(outbox) == []
    assert "it is tried again" in caplog.text
    assert "SECRET" not in caplog.text


def test_an_address_that_never_answers_is_not_waited_for(outbox):
    with socket.create_server(("127.0.0.1", 0)) as silent, listening() as alive:
        alive.port, port = silent.getsockname()[1], alive.port
        silent_url = alive.url
        alive.port = port
        recipients = Recipients((Address(silent_url, EVERY_EVENT), *to(alive).addresses))
        add(outbox, recipients, "a")
        arrived = threading.Event()
        record = Outbox.record_delivery

        def noting(self, *given):
            record(self, *given)
            arrived.set()

        outbox.record_delivery = noting.__get__(outbox)
        deliver(outbox, recipients, patience=0.5)  # far less than the 60 s that a connection may take
        assert arrived.wait(PATIENCE)
        assert len(alive.requests) == 1
        assert len(pending(outbox)) == 1


def test_a_refusal_is_noted_with_its_status(outbox):
    with listening() as listener:
        listener.status = 503
        add(outbox, to(listener), "a")
        deliver(outbox, to(listener), patience=PATIENCE)
        (event,) = outbox.events()
        assert [one.error for one in event.deliveries.values()] == ["it answered with status 503"]
        listener.status = 204
        deliver(outbox, to(listener), patience=PATIENCE)
    assert pending(outbox) == []


def test_two_processes_at_once_send_once(outbox):
    with listening() as listener:
        add(outbox, to(listener), *map(str, range(5)))
        threads = [
            threading.Thread(target=deliver, args=(Outbox(outbox.home), to(listener)), kwargs={"patience": PATIENCE})
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(payload["id"] for payload in listener.payloads) == list("01234")


def test_the_event_of_a_full_disk_is_sent_without_a_record(outbox, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with listening() as listener:
        with outbox.lock():
            pass
        monkeypatch.setattr(outbox_module, "write_atomically", full)
        add(outbox, to(listener), "a")
        deliver(Outbox(outbox.home), to(listener), patience=PATIENCE)
        deliver(outbox, to(listener), patience=PATIENCE)
    assert [payload["id"] for payload in listener.payloads] == ["a"]
    assert "the event is sent now or not at all" in caplog.text


def test_an_event_is_given_up_after_a_month_and_a_damaged_file_is_passed_over(outbox, caplog):
    caplog.set_level(logging.WARNING)
    recipients = Recipients((Address("http://127.0.0.1:9/SECRET", EVERY_EVENT),))
    add(outbox, recipients, "old", "new")
    (event,) = [event for event in outbox.events() if event.notification.id == "old"]
    long_ago = (datetime.now(UTC) - timedelta(days=31)).isoformat()
    aged = event.notification.model_copy(update={"time": long_ago})
    path = outbox.folder / "events" / "old.json"
    path.write_text(OutboxEvent(notification=aged, deliveries=event.deliveries).to_json())
    (outbox.folder / "events" / "torn.json").write_text("{")
    outbox.remove_old()
    assert [event.notification.id for event in outbox.events()] == ["new"]
    assert "not http://127.0.0.1" in caplog.text
    assert "is given up" in caplog.text
    assert "SECRET" not in caplog.text


def test_the_outbox_is_for_its_owner_and_has_no_secret(outbox):
    recipients = Recipients((Address("https://me:SECRET@host/SECRET?x=SECRET", EVERY_EVENT, "SECRET"),))
    add(outbox, recipients, "a")
    outbox.record_delivery("a", recipients.addresses[0], "no answer")
    assert stat.S_IMODE(outbox.folder.stat().st_mode) == 0o700
    assert "SECRET" not in "".join(path.read_text() for path in outbox.folder.rglob("*.json"))


def test_a_pause_doubles_up_to_ten_minutes():
    def is_due(tries, seconds):
        tried = (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()
        return after_pause(Delivery(label="x", tries=tries, tried=tried))

    assert after_pause(Delivery(label="x"))
    assert [is_due(1, 5), is_due(1, 16), is_due(2, 16), is_due(2, 31)] == [False, True, False, True]
    assert [is_due(40, 590), is_due(40, 601)] == [False, True]
