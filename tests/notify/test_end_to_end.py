"""From commands to a listener: what each tells, once, and that no secret is written or shown anywhere."""

import logging

import pytest

from flows.cli import main
from pikavae.notify import send
from pikavae.presets import load_config
from pikavae.production.changes import promote as production
from pikavae.tracker.client import Workspace
from pikavae.workspace.home import home
from tests.conftest import TINY
from tests.support import commands
from tests.support.house import files_alone
from tests.support.listening import listening

SECRETS = (b"SECRETPATH", b"SECRETTOKEN", b"SECRETKEY", b"SECRETTOPIC")

pytestmark = pytest.mark.slow


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setattr(send, "SECONDS", 60.0)
    home().mkdir(exist_ok=True)
    (home() / "notify.yaml").write_text("disk_free_gib: 0")  # whatever disk the tests have
    (home() / "notify.yaml").chmod(0o600)
    with listening() as one:
        monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", f"{one.url}\nntfys://127.0.0.1:{one.port}/SECRETTOPIC?cto=1&rto=1")
        monkeypatch.setenv("PIKAVAE_NOTIFY_SECRET", "SECRETKEY")
        yield one


def events(listener):
    """What the webhook got; the other address expects TLS and gets nothing."""
    found, listener.requests = listener.events, []
    return found


def assert_no_secret(*texts):
    """In no file of the home, MLflow's database and artifacts included, and in nothing that was printed or logged."""
    written = [(str(path), path.read_bytes()) for path in home().rglob("*") if path.is_file()]
    shown = [("a text", text.encode()) for text in texts]
    assert len(written) > 10
    assert [(name, secret) for name, content in [*written, *shown] for secret in SECRETS if secret in content] == []


def test_a_version_on_its_way_to_production_and_back(tiny_flags, listener, capsys, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(production, "smoke_test", files_alone)
    config = load_config("demo", TINY)
    assert main(["train", "demo", *tiny_flags]) == 0
    done = commands.run(config)
    run = f"run:{done['run_id']}"
    for step, version in (("2", "2"), ("6", "1")):
        assert main(["promote", f"{run}@{step}", "--reason", "better"]) == 3, version
        found = events(listener)
        assert found[-1] == "approval_needed"
        assert set(found) <= {"candidate_ready", "approval_needed"}
        assert main(["approve", version, "--reason", "seen"]) == 0
        assert events(listener) == ["promoted"]
    assert main(["models", "verify"]) == 0
    assert events(listener) == []
    client = Workspace(home()).client
    client.delete_registered_model_alias("pikavae-production", "champion")
    for told in (["ledger_disagrees"], []):
        assert main(["models", "verify"]) == 1
        assert events(listener) == told
    assert main(["models", "repair"]) == 0
    assert main(["rollback", "--reason", "worse"]) == 0
    assert events(listener) == ["rolled_back"]
    capsys.readouterr()
    assert main(["notify"]) == 0
    out, err = capsys.readouterr()
    assert "http://127.0.0.1 (" in out
    assert "ntfys (" in out
    assert "0 pending" in out
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("pikavae", "flows", "httpx"))]
    assert_no_secret(out, err, *ours)


def test_a_training_that_fails_is_told_with_its_last_lines(tiny_flags, listener, disturb, capsys):
    disturb("raise", 3)
    assert main(["train", "demo", *tiny_flags]) == 1
    (told,) = listener.payloads
    assert told["event"] == "run_failed"
    assert "step 3: loss nan" in told["message"]
    assert told["title"].startswith("pikavae: run failed: demo · ")
    assert told["data"]["run_id"]
    _, err = capsys.readouterr()
    assert "loss nan" in err
    assert_no_secret(err)


def test_the_command_tests_addresses_and_says_how_to_name_one(listener, capsys, monkeypatch):
    assert main(["notify", "--test"]) == 1
    error = capsys.readouterr().err
    assert "http://127.0.0.1" in error
    assert ": delivered" in error
    assert "ntfys (" in error
    assert listener.payloads[0]["event"] == "test"
    assert not any(secret.decode() in error for secret in SECRETS)
    monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", listener.url)
    assert main(["notify", "--test", "--json"]) == 0
    assert '"error": ""' in capsys.readouterr().out
    assert main(["notify", "--test", "--send"]) == 2
    monkeypatch.delenv("PIKAVAE_NOTIFY_URLS")
    assert main(["notify"]) == 2
    assert "notify: no address; write `urls:`" in capsys.readouterr().err.splitlines()[-1]
