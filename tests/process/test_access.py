"""Where the servers listen and who may ask them: nothing is open to other machines without a password."""

from pathlib import Path

import pytest

from pikavae.errors import UserError
from pikavae.process.access import AUTH_FILE, LOCAL, Access, Credentials, read_credentials
from pikavae.tracker.client import Workspace
from pikavae.tracker.ui import AUTH_NAME, USERS_NAME, ui_argv

SOMEBODY = Credentials("me", "correct horse battery".replace(" ", "-"), Path("/auth"))


def written(folder, text, mode=0o600):
    path = folder / "auth"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_user_and_password_are_read_from_a_file_that_only_its_owner_reads(tmp_path, monkeypatch):
    assert read_credentials() is None
    monkeypatch.setenv(AUTH_FILE, str(written(tmp_path, "me:pass:word-of-mine\n")))
    found = read_credentials()
    assert (found.user, found.password, found.text) == ("me", "pass:word-of-mine", "me:pass:word-of-mine")
    assert "word-of-mine" not in repr(found)


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ("me:a-long-enough-password", 0o644, "others may read it (mode 644); run `chmod 600"),
        ("me", 0o600, "expected one line USER:PASSWORD without spaces"),
        (":a-long-enough-password", 0o600, "expected one line USER:PASSWORD"),
        ("me:a-long-enough-password\nyou:another-password", 0o600, "expected one line USER:PASSWORD"),
        ("me:with spaces in it", 0o600, "expected one line USER:PASSWORD without spaces"),
        ("me:short", 0o600, "the password has 5 characters; use 12 or more"),
    ],
)
def test_another_file_is_refused_in_one_line_without_the_password(text, mode, complaint, tmp_path):
    path = written(tmp_path, text, mode)
    with pytest.raises(UserError) as refused:
        read_credentials(str(path))
    assert str(refused.value).startswith(f"{AUTH_FILE} {path}: {complaint}")
    assert "password-" not in str(refused.value)
    assert "short" not in str(refused.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no-such: cannot be read \(No such file or directory\); write USER:PASSWORD"):
        read_credentials(str(tmp_path / "no-such"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "2001:db8::7"])
def test_an_address_that_other_machines_reach_needs_a_password(host):
    with pytest.raises(UserError, match=rf"^--host {host}: other machines reach it, so both servers need a password"):
        Access(host).require_safe()
    Access(host, credentials=SOMEBODY).require_safe()
    assert Access(host).is_open


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_an_address_of_this_machine_needs_none(host):
    Access(host).require_safe()
    assert not Access(host).is_open


@pytest.mark.parametrize("host", ["", "localhost", "example.org", "0.0.0.0/0"])
def test_what_is_no_address_is_refused(host):
    with pytest.raises(UserError, match=f"^--host {host}: expected an IP address of this machine, or 0.0.0.0"):
        Access(host, credentials=SOMEBODY).require_safe()


def test_links_have_the_name_that_others_know_and_programs_of_this_machine_its_own_address(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert (LOCAL.page(5000), LOCAL.local(5000)) == ("http://127.0.0.1:5000",) * 2
    for host, local in (("0.0.0.0", "127.0.0.1"), ("::", "[::1]")):
        assert (Access(host).page(1), Access(host).local(1)) == ("http://box:1", f"http://{local}:1")
    assert Access("192.0.2.7").page(1) == Access("192.0.2.7").local(1) == "http://192.0.2.7:1"
    named = Access("0.0.0.0", "vae.example.org")
    assert (named.page(1), named.local(1)) == ("http://vae.example.org:1", "http://127.0.0.1:1")
    assert {"vae.example.org", "box", "localhost", "127.0.0.1", "[::1]"} <= set(named.names())


def test_mlflow_is_told_of_one_user_whoever_was_known_before():
    workspace = Workspace.open()
    command, environment = ui_argv(workspace, 5000)
    assert "--app-name" not in command
    assert "--allowed-hosts" not in command
    assert command[command.index("--host") + 1] == "127.0.0.1"
    workspace.home.mkdir()
    (workspace.home / USERS_NAME).write_text("of an earlier password")
    command, environment = ui_argv(workspace, 5000, Access("0.0.0.0", "box", SOMEBODY))
    assert command[command.index("--app-name") + 1] == "basic-auth"
    assert command[command.index("--host") + 1] == "0.0.0.0"
    assert "box:5000" in command[command.index("--allowed-hosts") + 1].split(",")
    assert "http://box:5000" in command[command.index("--cors-allowed-origins") + 1].split(",")
    assert (environment["MLFLOW_AUTH_ADMIN_USERNAME"], environment["MLFLOW_AUTH_ADMIN_PASSWORD"]) == (
        SOMEBODY.user,
        SOMEBODY.password,
    )
    assert not any(SOMEBODY.password in word for word in command)
    settings = (workspace.home / AUTH_NAME).read_text()
    assert "default_permission = NO_PERMISSIONS\n" in settings
    assert "auth_cache_ttl_seconds = 3600\n" in settings
    assert SOMEBODY.password not in settings
    assert not (workspace.home / USERS_NAME).exists()
