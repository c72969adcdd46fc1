"""Whom to tell: a file for its owner alone, or the environment; no message shows an address."""

import pytest

from flows.cli import main
from pikavae.errors import UserError
from pikavae.notify.settings import EVERY_EVENT, FILE_NAME, read_recipients
from pikavae.presets import load_config
from pikavae.workspace.home import home

SECRET = "hunter2"


@pytest.fixture
def write(tmp_path):
    def write(text, mode=0o600):
        path = tmp_path / FILE_NAME
        path.write_text(text)
        path.chmod(mode)
        return tmp_path

    return write


def test_the_file_names_addresses_events_and_keys(write):
    folder = write(
        f"secret: key\nevents: [run_failed, promoted]\ndisk_free_gib: 1\nurls:\n"
        f"  - json://me:{SECRET}@host/x\n  - {{url: 'https://host/{SECRET}', events: [promoted], secret: other}}\n"
    )
    found = read_recipients(folder, {})
    assert [(one.url, one.events, one.secret) for one in found.addresses] == [
        (f"json://me:{SECRET}@host/x", ("run_failed", "promoted"), "key"),
        (f"https://host/{SECRET}", ("promoted",), "other"),
    ]
    assert found.disk_free_gib == 1
    assert read_recipients(write("urls: [ntfy://topic]"), {}).addresses[0].events == EVERY_EVENT


def test_the_variable_replaces_the_files_addresses_and_the_same_address_counts_once(write):
    folder = write("secret: key\nurls: [json://a]")
    named = "\n# mail\n  mailto://u:p@host \n\nntfy://topic\nntfy://topic\n"
    found = read_recipients(folder, {"PIKAVAE_NOTIFY_URLS": named}).addresses
    assert [(one.url, one.secret) for one in found] == [("mailto://u:p@host", "key"), ("ntfy://topic", "key")]
    assert read_recipients(folder, {"PIKAVAE_NOTIFY_SECRET": "mine"}).addresses[0].secret == "mine"


@pytest.mark.parametrize(
    ("url", "label"),
    [
        (f"https://user:{SECRET}@host/{SECRET}?x={SECRET}", "https://host ("),
        (f"mailto://user:{SECRET}@example.org", "mailto://example.org ("),
        (f"slack://{SECRET}/{SECRET}", "slack ("),
        (f"ntfy://{SECRET}", "ntfy ("),
        (f"https://[{SECRET}", "https ("),
        (SECRET, "address ("),
    ],
)
def test_a_label_shows_no_secret(write, url, label):
    (address,) = read_recipients(write(""), {"PIKAVAE_NOTIFY_URLS": url}).addresses
    assert address.label.startswith(label)
    assert SECRET not in f"{address} {address!r} {address.label} {address.digest}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"urls: json://{SECRET}", "urls: expected a list of addresses"),
        (f"urls: [{{url: 'json://{SECRET}', evets: []}}]", "urls.0: expected an address, or a mapping of"),
        (f"urls: [json://a, {{url: '', secret: {SECRET}}}]", "urls.1: expected an address"),
        ("events: [promotion]", "events.0: expected a list of events; events are run_failed, preempted"),
        (f"url: json://{SECRET}", "url: no such field; fields are urls, events, secret"),
        (f"urls: [json://{SECRET}\nevents: {{", ", line 2: not a YAML file"),
        (f"- json://{SECRET}", "the file: no such field; fields are urls"),
        ("disk_free_gib: -1", "disk_free_gib: input should be greater than"),
    ],
)
def test_a_mistake_is_named_without_the_address(write, text, complaint):
    folder = write(text)
    with pytest.raises(UserError) as caught:
        read_recipients(folder, {})
    message = str(caught.value)
    assert str(folder / FILE_NAME) in message
    assert complaint in message
    assert SECRET not in message
    assert "\n" not in message


def test_a_file_that_others_may_read_is_refused(write):
    folder = write("urls: [json://a]", mode=0o640)
    with pytest.raises(UserError, match="run `chmod 600"):
        read_recipients(folder, {})


def test_neither_a_preset_nor_a_flag_takes_addresses(tmp_path, capsys):
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"notify:\n  urls: [json://{SECRET}]\n")
    with pytest.raises(UserError, match=r"notify: no section of the configuration; addresses hold secrets") as caught:
        load_config(preset)
    assert SECRET not in str(caught.value)
    assert main(["plan", "demo", "--notify.urls", f"json://{SECRET}"]) == 2
    error = capsys.readouterr().err
    assert "--notify.urls: no such flag; addresses hold secrets" in error
    assert SECRET not in error


def test_doctor_says_if_the_addresses_can_be_read(capsys, monkeypatch):
    def check():
        main(["doctor"])
        return next(line for line in capsys.readouterr().out.splitlines() if "notifications" in line)

    assert check().split() == ["ok", "notifications", "no", "address"]
    home().mkdir()
    path = home() / FILE_NAME
    path.write_text("urls: [json://127.0.0.1]")
    path.chmod(0o600)
    assert "json://127.0.0.1 (" in check()
    monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", f"nonsense://{SECRET}")
    assert check().startswith("error")
    assert SECRET not in check()
