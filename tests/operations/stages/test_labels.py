"""What a run is called: it reaches MLflow, the pages and the cards, is in no key, and is renamed on a second run."""

import json
from datetime import datetime
from pathlib import Path

import pytest

from pikavae import operations
from pikavae.operations.stages.naming import differences, run_name
from pikavae.presets import load_config
from pikavae.tracker.labels import Labels
from tests.support import commands
from tests.support.commands import bare_client as client
from tests.support.configs import tiny

NOON = datetime(2026, 11, 7, 12, 5)
FIRST = Labels(name="the first", note="**Why**: to see.", tags={"team": "a/b", "kind": "trial"}, preset="demo")


@pytest.mark.parametrize(
    ("preset", "settings", "name"),
    [
        ("demo", {}, "demo · 7 Nov 12:05"),
        ("demo", {"loss.kl_weight": 1e-6}, "demo · loss.kl_weight 1e-6 · 7 Nov 12:05"),
        ("demo", {"data.source": "/some/where/emoji/"}, "demo · emoji · 7 Nov 12:05"),
        ("demo", {"training.threads": 1, "tracking.experiment": "x", "registry.model_name": "x"}, "demo · 7 Nov 12:05"),
        (
            "demo",
            {"training.start": "/a/vae.ckpt", "data.flip": True, "model.channels": [32, 64], "training.seed": 3},
            "demo · data.flip true · model.channels 32,64 · training.start vae.ckpt · 1 more · 7 Nov 12:05",
        ),
        ("no/such/preset.yaml", {"training.seed": 3}, "demo · training.seed 3 · 7 Nov 12:05"),
    ],
)
def test_a_default_name_says_what_differs_from_the_preset_and_when(preset, settings, name):
    labels = Labels(preset=preset)
    assert run_name(load_config("demo", settings), labels, NOON) == name
    assert run_name(load_config("demo", settings), labels.model_copy(update={"name": "x"}), NOON) == "x"


def test_without_a_preset_the_most_similar_one_is_taken(tmp_path):
    assert differences(load_config("scratch-small", {"training.seed": 5}), None) == (
        "scratch-small",
        {"training.seed": 5},
    )
    path = tmp_path / "mine.yaml"
    path.write_text("training: {seed: 4}\n")
    assert differences(load_config(path, {"data.flip": True}), str(path)) == ("mine", {"data.flip": True})


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """A home with one finished run that has labels, and what the run returned."""
    path = tmp_path_factory.mktemp("shared") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(path))
        return path, commands.run(tiny(), labels=FIRST)


@pytest.fixture
def finished(monkeypatch, isolated, shared_home):
    monkeypatch.setenv("PIKAVAE_HOME", str(shared_home[0]))
    return shared_home[1]


def test_labels_reach_the_run_its_report_its_card_and_the_lists(finished, capsys):
    run = client().get_run(finished["run_id"])
    assert run.info.run_name == "the first"
    assert {"team": "a/b", "kind": "trial"}.items() <= run.data.tags.items()
    picture, own, *_ = run.data.tags["mlflow.note.content"].split("\n\n")
    assert "](get-artifact?path=overview.png&run_uuid=" in picture
    assert own == "**Why**: to see."
    note = run.data.tags["mlflow.note.content"]
    assert "## Evaluation" in note
    page = Path(finished["report"], "report.html").read_text()
    assert all(words in page for words in (f"the first ({finished['run_id']})", "**Why**: to see.", "trial"))
    card = Path(finished["report"], "model_card.md").read_text()
    assert r"Its run is called the first. \*\*Why\*\*: to see. tags: kind=trial, team=a/b." in card
    out = commands.run_cli(capsys, "models", "show", "1")[1]
    assert "the first" in commands.run_cli(capsys, "models", "list")[1]
    assert all(words in out for words in ("(the first)", "**Why**: to see.", "team: a/b"))
    version = json.loads(commands.run_cli(capsys, "models", "show", "1", "--json")[1])["versions"][0]
    assert version["run_note"] == FIRST.note
    assert version["run_tags"] == FIRST.tags
    assert "called 'the first'" in " ".join(commands.run_cli(capsys, "models", "lineage", "1")[1].split())


def test_a_second_run_of_the_same_reuses_it_and_renames_it(finished, caplog):
    caplog.set_level("INFO", "pikavae")
    config = tiny(**{"tracking.experiment": "another"})
    assert set(operations.plan(commands.workspace(), config, start=None).values()) == set(
        operations.plan(commands.workspace(), tiny(), start=None).values()
    )
    again = commands.run(config, labels=Labels(name="a better name", tags={"kind": "baseline"}))
    assert again["run_id"] == finished["run_id"]
    assert {stage["status"] for stage in again["stages"].values()} == {"reused"}
    run = client().get_run(finished["run_id"])
    assert run.info.run_name == "a better name"
    assert run.info.status == "FINISHED"
    assert (run.data.tags["kind"], run.data.tags["team"]) == ("baseline", "a/b")
    assert run.data.tags["mlflow.note.content"].split("\n\n")[1] == "**Why**: to see."
    assert "it is called 'a better name' now and was 'the first'" in caplog.text
    assert "is in experiment 'pikavae' and stays there" in caplog.text
    commands.run(tiny())  # without labels
    assert client().get_run(finished["run_id"]).info.run_name == "a better name"
