"""What README, CONTRIBUTING and docs/ say exists: files, headings, commands, flags, presets, tests, make targets."""

import re
import shlex
from functools import cache, partial

import pytest

from flows.catalog import COMMANDS
from flows.command_line.arguments import check_names, explain_unknown, find_command, parse_options
from flows.command_line.flags import flags_of, read_words
from flows.command_line.help import commands_table
from pikavae.config import Config
from pikavae.presets import field_names, preset_names
from tests.support.places import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").rglob("*.md")
)
README_LINES = 170
PICTURE_BYTES = 300_000
TAKE_A_PRESET = {"run", "plan", "prepare", "train", "sweep", "schedule"}
SUBCOMMANDS = {name.partition(" ")[2] for name in COMMANDS if " " in name}

FENCE = re.compile(r"^```.*?^```[^\S\n]*$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
CALL = re.compile(r"^(?:\$ |\S*/)?pikavae +(.+)$")
FLAG = re.compile(r"(?<![\w-])--([a-z][\w.-]*)")
FIELD = re.compile(rf"(?<![\w./-])((?:{'|'.join(Config.model_fields)})\.(?!py\b|md\b)[a-z]\w*)\b(?![/(])")
TEST = re.compile(r"`(?:([\w/]+\.py))?(?:::(test_\w+))?`")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page):
    """The lines of the fenced blocks, without their comments."""
    found = [block.splitlines()[1:-1] for block in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [line.partition(" #")[0].rstrip() for block in found for line in block]


def prose(page):
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def calls(page):
    """The words after `pikavae` of each command line, in blocks and in code spans."""
    found = [match[1].split() for text in (*blocks(page), *SPAN.findall(prose(page))) if (match := CALL.match(text))]
    return [words for words in found if words[0] != "COMMAND"]


def anchors(page):
    """The names by which links reach the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def known_flags():
    """Every flag that some command takes, with the commands."""
    found = {name: {*COMMANDS} for name in ("help", "version", "section.field")}
    for command, described in COMMANDS.items():
        for name in flags_of(described):
            found.setdefault(name, set()).add(command)
    return found


def named(words):
    """The full name of the command that a line names, such as `models show`."""
    return next(name for name in (" ".join(words[:2]), words[0], "models list") if name in COMMANDS)


@pages
def test_links_and_pictures_lead_somewhere(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if ":" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pages
def test_commands_and_presets_exist(page):
    for command, *words in calls(page):
        assert command.startswith("-") or named([command, *words]).partition(" ")[0] == command, command
        name = words[0] if words and command in TAKE_A_PRESET else ""
        assert not name.islower() or name in {*preset_names(), *SUBCOMMANDS} or name.startswith("-"), name


@pages
def test_flags_and_fields_exist(page):
    for words in calls(page):
        for flag in FLAG.findall(" ".join(words)):
            assert words[0].startswith("-") or named(words) in known_flags()[flag.replace("-", "_")], (words, flag)
            assert flag == flag.replace("_", "-"), f"{flag}: with hyphens, as the help shows it"
    alone = [span for span in SPAN.findall(prose(page)) if span.startswith("--")]
    flags = {flag.replace("-", "_") for span in alone for flag in FLAG.findall(span)}
    assert flags <= known_flags().keys()
    fields = {field for text in (*blocks(page), *SPAN.findall(prose(page))) for field in FIELD.findall(text)}
    assert fields <= set(field_names())


@pages
def test_make_targets_and_modules_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for text in (*blocks(page), *SPAN.findall(prose(page))):
        if target := re.match(r"make ([a-z]+)$", text.strip()):
            assert f"\n{target[1]}:" in makefile, text
        if module := re.search(r"python -m (benchmarks[\w.]*)", text):
            assert (ROOT / module[1].replace(".", "/")).with_suffix(".py").is_file(), text


def test_tests_that_are_named_exist():
    text = (ROOT / "docs" / "PEERS.md").read_text(encoding="utf-8")
    file, count = "", 0
    for path, name in TEST.findall(text):
        if not path and not name:
            continue
        file = path or file
        assert f"def {name}" in (ROOT / "tests" / file).read_text(encoding="utf-8"), (file, name)
        count += 1
    assert count > 20


def test_every_picture_is_shown():
    shown = {(page.parent / link).resolve() for page in PAGES for link in LINK.findall(prose(page))}
    assert set((ROOT / "docs").rglob("*.png")) <= shown


def test_readme_stays_short_and_pictures_small():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
    assert not [picture.name for picture in (ROOT / "docs").rglob("*.png") if picture.stat().st_size > PICTURE_BYTES]


def test_every_command_and_every_preset_is_documented():
    guide = [page for page in PAGES if page.name != "CHANGELOG.md"]
    assert set(COMMANDS) <= {named(words) for page in guide if page.name != "commands.md" for words in calls(page)}
    text = "".join(page.read_text(encoding="utf-8") for page in guide)
    assert not [name for name in preset_names() if f"`{name}`" not in text]


def test_the_guide_lists_the_commands_as_the_terminal_knows_them():
    """After a change, `python -c 'from flows.command_line.help import *; print(commands_table())'` prints the table."""
    page = (ROOT / "docs" / "guide" / "commands.md").read_text(encoding="utf-8")
    assert page.split("\n\n").count(commands_table()) == 1
    assert "docs/guide/commands.md" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_are_lines_that_it_takes(name):
    for example in COMMANDS[name].examples:
        words = shlex.split(example)
        found, rest = find_command(words)
        command = COMMANDS[name]
        read = read_words(rest, flags_of(command), partial(explain_unknown, name), needed=command.num_needed)
        check_names(name, command, read)
        parse_options(command.options, {key: value for key, value in read.values.items() if "." not in key})
        assert (found, f"pikavae {example}".startswith(f"pikavae {name}")) == (name, True)
