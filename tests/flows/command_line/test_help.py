"""The help of each command: always there, short, and of one form."""

import re
import textwrap

import pytest

from flows.catalog import COMMANDS, GROUPS
from flows.cli import main
from flows.command_line.flags import settings

BEFORE_SETTINGS = 60
SUMMARY = 60


def help_of(capsys, *words):
    """The help that a line shows; it must be all that the line does."""
    assert main([*words]) == 0, words
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


@pytest.mark.parametrize("name", [*COMMANDS, *GROUPS])
def test_help_is_shown_whatever_else_a_line_says(name, capsys):
    first, *second = name.split()
    texts = {
        help_of(capsys, *words)
        for words in (
            [*name.split(), "--help"],
            [*name.split(), "--json", "-h"],
            [first, "--help", *second],
            ["--json", *name.split(), "--help"],
            ["help", *name.split()],
        )
    }
    assert len(texts) == 1
    for more in (["no/such", "one", "more"], ["--no-such-flag"], ["--training.steps"], ["--training.steps", "x"]):
        assert help_of(capsys, *name.split(), *more, "--help") in texts


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_and_takes_and_ends_with_the_settings(name, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    command, text = COMMANDS[name], help_of(capsys, *name.split(), "--help")
    head, _, listed = text.partition("\nsettings that it reads")
    assert text.startswith(command.summary)
    usage = " ".join(text.split("usage: ")[1].split("\n\n")[0].split())
    assert usage.startswith(" ".join(["pikavae", name, *(word.name for word in command.positionals)]))
    assert [line for line in head.splitlines() if line.startswith("  pikavae ")] == [
        f"  pikavae {example}" for example in command.examples
    ]
    assert len(head.splitlines()) < BEFORE_SETTINGS
    shown = [match.replace("-", "_") for match in re.findall(r"^  --(\w+\.[\w-]+)", listed, re.MULTILINE)]
    assert shown == [flag.name for flag in settings() if command.reads(flag.name)]
    assert max(map(len, text.splitlines())) <= width


def test_no_help_refers_to_a_text_that_is_not_there(capsys):
    for name in COMMANDS:
        text = " ".join(help_of(capsys, *name.split(), "--help").split())
        assert not re.search(r"\b(see (above|below)|as (above|below)|the (above|former|latter))\b", text), name


def test_the_help_of_two_words_names_the_second_ones(capsys):
    for words, usage in [
        (["models", "--help"], "pikavae models [list | show MODEL"),
        (["models", "show", "--help"], "pikavae models show MODEL "),
        (["schedule", "--help"], "pikavae schedule remove NAME "),
        (["schedule", "remove", "x", "--help"], "pikavae schedule remove NAME "),
        (["store", "--help"], "pikavae store relocate\n"),
    ]:
        assert usage in help_of(capsys, *words)


def test_settings_are_shown_with_the_values_of_the_preset(capsys):
    for words, steps in ((["run"], 1200), (["run", "tutorial"], 1000), (["run", "no-such-preset"], 1200)):
        text = " ".join(help_of(capsys, *words, "--help").split())
        assert f"--training.steps INT Optimizer steps in all. (default: {steps})" in text


def test_the_overview_has_a_line_for_each_command_and_fits_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    texts = {help_of(capsys), help_of(capsys, "--help"), help_of(capsys, "-h"), help_of(capsys, "help")}
    (text,) = texts
    assert max(map(len, text.splitlines())) <= 80
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in text
        assert command.summary in text
        assert len(command.summary) <= SUMMARY
        assert command.summary == textwrap.shorten(command.summary, SUMMARY)


def test_help_of_no_command_is_a_mistake(capsys):
    assert main(["rnu", "--help"]) == 2
    assert capsys.readouterr().err == "pikavae: rnu: no such command; did you mean run?\n"
