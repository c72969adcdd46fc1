"""What one address gets: JSON that is documented and signed, a picture, or the message of apprise's service."""

import base64
import hashlib
import hmac
import logging
import re

import pytest

from pikavae.notify.notification import Notification
from pikavae.notify.send import UndeliveredError, check_address, send
from pikavae.notify.settings import EVERY_EVENT, Address
from tests.support.listening import listening
from tests.support.places import ROOT

SECRET = "hunter2"


def address(url, secret=None):
    return Address(url, EVERY_EVENT, secret)


@pytest.fixture
def notification(tmp_path):
    (tmp_path / "panel.png").write_bytes(b"\x89PNG picture")
    return Notification.make(
        "candidate-1", "candidate_ready", "version 3", ["PSNR: 23 dB"], data={"version": 3}, picture="panel.png"
    )


def test_a_webhook_gets_the_documented_json_with_its_picture(notification, tmp_path):
    with listening() as listener:
        send(address(listener.url), notification, tmp_path)
    (path, headers, _), (payload,) = listener.requests[0], listener.payloads
    assert path == "/hooks/SECRETPATH?token=SECRETTOKEN"
    assert headers["X-Pikavae-Event"] == "candidate_ready"
    assert headers["X-Pikavae-Id"] == payload["id"] == "candidate-1"
    assert "X-Pikavae-Signature" not in headers
    assert payload["type"] == "success"
    assert payload["data"] == {"version": 3}
    assert (payload["title"], payload["message"], payload["link"]) == ("version 3", "PSNR: 23 dB", None)
    (picture,) = payload["attachments"]
    assert base64.b64decode(picture["base64"]) == b"\x89PNG picture"
    assert (picture["filename"], picture["mimetype"]) == ("panel.png", "image/png")
    guide = (ROOT / "docs" / "guide" / "notifications.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^\| `(\w+)` \|", guide.split("## What a webhook gets")[1], re.MULTILINE)} == payload.keys()


def test_the_signature_is_that_of_the_body_and_the_guides_lines_verify_it(notification, tmp_path):
    with listening() as listener:
        send(address(listener.url, SECRET), notification, tmp_path)
    _, headers, body = listener.requests[0]
    expected = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Pikavae-Signature"] == expected
    guide = (ROOT / "docs" / "guide" / "notifications.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names = {}
    exec(code, names)
    assert names["is_genuine"](body, headers["X-Pikavae-Signature"], SECRET)
    assert not names["is_genuine"](body + b" ", headers["X-Pikavae-Signature"], SECRET)
    assert not names["is_genuine"](body, None, SECRET)


def test_a_json_address_of_apprise_is_the_same_webhook(notification, tmp_path):
    with listening() as listener:
        url = f"json://me:{SECRET}@127.0.0.1:{listener.port}/x?-a=b&+X-Mine=yes"
        send(address(url, "key"), notification, tmp_path)
    path, headers, _ = listener.requests[0]
    assert path == "/x?a=b"
    assert headers["X-Mine"] == "yes"
    assert headers["Authorization"] == "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
    assert headers["X-Pikavae-Signature"].startswith("sha256=")
    assert listener.payloads[0]["event"] == "candidate_ready"


def test_other_services_are_reached_through_apprise_with_the_picture_if_they_take_it(notification, tmp_path):
    with listening() as listener:
        send(address(f"form://127.0.0.1:{listener.port}/x"), notification, tmp_path)
        send(address(f"xml://127.0.0.1:{listener.port}/x"), notification, tmp_path)
    form, xml = (body for _, _, body in listener.requests)
    assert b"\x89PNG picture" in form
    assert b"PSNR: 23 dB" in form
    assert b"version 3" in xml


def test_an_address_of_slack_is_no_webhook_of_ours():
    from pikavae.notify import send as module

    slack = "https://hooks.slack.com/services/T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
    assert type(module._target(slack)).__name__ == "NotifySlack"
    assert isinstance(module._target("https://example.org/x"), module.Webhook)


@pytest.mark.parametrize("kind", ["http", "json", "form"])
def test_no_answer_a_refusal_and_a_strange_address_say_so_without_secrets(kind, notification, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with listening() as listener:
        listener.status = 500
        port = listener.port
        with pytest.raises(UndeliveredError) as refused:
            send(address(f"{kind}://127.0.0.1:{port}/{SECRET}?token={SECRET}"), notification, tmp_path)
    with pytest.raises(UndeliveredError) as dead:
        send(address(f"{kind}://127.0.0.1:{port}/{SECRET}"), notification, tmp_path)
    with pytest.raises(UndeliveredError) as strange:
        check_address(address(f"{kind}x://{SECRET}"))
    assert "500" in str(refused.value) or kind == "form"
    assert "no answer" in str(dead.value)
    assert "no address that apprise or pikavae knows" in str(strange.value)
    assert SECRET not in f"{refused.value} {dead.value} {strange.value}"
    ours = [record for record in caplog.records if record.name.startswith(("pikavae", "apprise", "httpx"))]
    assert SECRET not in "".join(record.getMessage() for record in ours)


def test_passwords_in_addresses_of_an_error_are_hidden():
    made = Notification.make(
        "a",
        "run_failed",
        "at postgresql://u:hunter2@db/x",
        ["http://me:hunter2@host/ 'x@y'"],
        data={"e": ["s://hunter2@h"]},
    )
    assert "hunter2" not in made.to_json()
    assert made.message == "http://...@host/ 'x@y'"


def test_a_long_message_keeps_its_beginning_and_its_end():
    made = Notification.make("a", "run_failed", "t", ["first", "x" * 10_000, "last"])
    assert made.message.startswith("first")
    assert made.message.endswith("last")
    assert len(made.message) <= 4000


def test_a_picture_that_is_gone_or_too_large_is_left_out(notification, tmp_path, monkeypatch):
    monkeypatch.setattr("pikavae.notify.notification.PICTURE_BYTES", 3)
    assert b'"attachments": []' in notification.payload(tmp_path)
    monkeypatch.undo()
    (tmp_path / "panel.png").unlink()
    assert b'"attachments": []' in notification.payload(tmp_path)
