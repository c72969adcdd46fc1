"""What a schedule stores means the same in any folder, and everything that it names is there."""

from pathlib import Path

import pytest

from flows.cli import main
from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.presets import load_config, parse_config
from tests.support import commands

PATHS = [
    "data.source",
    "data.validation_source",
    "data.tokenizer",
    "loss.perceptual_weights",
    "evaluation.lpips_weights",
    "evaluation.inception_weights",
    "training.start",
]


def config_with(**values):
    tree = {}
    for dotted, value in values.items():
        section, _, field = dotted.partition(".")
        tree.setdefault(section, {})[field] = value
    return parse_config(tree)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("value", ["here", "./here", "sub/../here"])
def test_every_setting_that_names_a_path_is_made_absolute(name, value, tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "sub").mkdir()
    settled = config_with(**{name: value}).seen_from(tmp_path)
    path = Path(settled.flat()[name])
    assert path.is_absolute()
    assert path.samefile(tmp_path / "here")
    assert settled.seen_from(tmp_path.parent) == settled


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.source", "sprites"),
        ("data.source", "hub:org/name"),
        ("data.validation_source", "hub:org/name"),
        ("data.tokenizer", "org/name/tokenizer"),
        ("training.start", "hub:org/name@main"),
        ("training.start", "champion"),
        ("training.start", "previous"),
        ("training.start", "run:0a1b@best"),
        ("training.start", "12"),
    ],
)
def test_other_names_stay_as_they_are(name, value, tmp_path):
    config = config_with(**{name: value})
    assert config.seen_from(tmp_path) == config


def test_every_element_of_a_list_of_paths_is_settled(tmp_path):
    config = config_with(**{"data.links_into": ["one", "/two"]})
    assert config.seen_from(tmp_path).data.links_into == (str(tmp_path / "one"), "/two")
    assert config.relative_paths() == {"data.links_into.0": "one"}


@pytest.mark.parametrize("name", PATHS)
def test_a_relative_path_is_known_whatever_the_setting(name):
    assert config_with(**{name: "./a/b"}).relative_paths() == {name: "./a/b"}
    for value in ("/a/b", "~/b", "~nobody-of-this-name/b"):
        assert config_with(**{name: value}).relative_paths() == {}


def test_a_pattern_is_settled_with_its_folder(tmp_path):
    assert config_with(**{"data.source": "shards/*.parquet"}).seen_from(tmp_path).data.source == str(
        tmp_path / "shards" / "*.parquet"
    )


@pytest.mark.parametrize("name", [name for name in PATHS if name != "data.tokenizer"])
def test_what_is_not_there_is_refused_when_it_is_scheduled(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for value in ("no/such", "no/*.parquet"):
        assert main(["schedule", "demo", f"--{name}", value, "--cron", "0 3 * * 1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"pikavae: {name} ")
        assert str(tmp_path / value) in error
        assert error.count("\n") == 1


def test_a_preset_file_is_settled_from_the_working_directory(folder_of_pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = tmp_path / "own.yaml"
    preset.write_text("data: {source: pictures, image_size: 16}\n")
    assert commands.settle(load_config("own.yaml")).data.source == str(folder_of_pictures)


def test_a_schedule_that_would_begin_with_no_champion_is_refused():
    with pytest.raises(UserError, match="nothing is in production yet"):
        commands.settle(Config(), from_champion=True)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--cron", "61 3 * * *"], "not a schedule"),
        (["--cron", "0 3 * * 1", "--timezone", "Mars/Base"], "--timezone 'Mars/Base': no such time zone"),
        (["--cron", "0 3 * * 1", "--timezone", "Europe/Belin"], "did you mean Europe/Berlin?"),
        (["--cron", "0 3 * * 1", "--name", "a/b"], "--name 'a/b': Prefect takes no / in a name"),
        (["dmeo", "--cron", "0 3 * * 1"], "preset 'dmeo': no such preset"),
        ([], "--cron is missing"),
    ],
)
def test_a_bad_line_zone_name_or_preset_is_refused_before_a_server_is_asked(words, complaint, capsys):
    assert main(["schedule", *words]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
