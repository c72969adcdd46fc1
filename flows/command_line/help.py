"""Write the help of the terminal: the overview, a command's help, and the guide's list of commands."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.catalog import COMMANDS, GROUPS
from flows.catalog.shared import MODEL_FORMS
from flows.terminal.command import ALL, Command
from flows.terminal.tables import columns
from pikavae.errors import UserError

if TYPE_CHECKING:
    from pikavae.config import Config

HELP = {"-h", "--help"}
NAME_COLUMNS = 16
"""The columns of a command's name in the overview; a longer name moves its summary to the right."""
BASES = {
    "defaults": "settings that it reads, with their defaults",
    "preset": "settings that it reads, with the values of preset {preset}",
    "champion": "settings that it reads, with their defaults; what is left out is as the champion was made",
    "model": "settings that it reads; by default those of the model itself, and for weights of other makers these",
}


def wants_help(words: Sequence[str]) -> bool:
    """Return True if a line asks for help, wherever it does so and whatever else is wrong with it."""
    return bool(HELP & {*words[: words.index("--") if "--" in words else None]})


def overview() -> str:
    """Return the usage with one line for each command."""
    width = min(max(map(len, COMMANDS)), NAME_COLUMNS) + 2
    return "\n".join(
        [
            "usage: pikavae COMMAND [PRESET or MODEL] [--section.field VALUE ...] [--json]",
            "",
            *(f"  {f'{name}  ':<{width}}{command.summary}" for name, command in COMMANDS.items()),
            "",
            *_wrap(f"MODEL is {MODEL_FORMS}.", ""),
            "PRESET is a name, such as demo, or a path; `pikavae run --help` lists the names.",
            "`pikavae COMMAND --help` lists what a command takes, with examples.",
        ]
    )


def help_of(words: Sequence[str]) -> str:
    """Return the help of the command, or of the group of commands, that a line begins with.

    Raises:
        UserError: there is no such command.
    """
    name, *rest = words
    second = next((f"{name} {word}" for word in rest if f"{name} {word}" in COMMANDS), name)
    if second in COMMANDS:
        return command_help(second, rest)
    if name in GROUPS:
        return group_help(name)
    from flows.command_line.arguments import find_command

    find_command([name])
    raise AssertionError(name)


def group_help(name: str) -> str:
    """Return the help of a word that several commands begin with."""
    group, members = GROUPS[name], [full for full in COMMANDS if full.startswith(f"{name} ")]
    choices = " | ".join(_call(full).removeprefix(f"pikavae {name} ") for full in members)
    choices = f"[{choices}]" if group.default else choices
    width = max(map(len, members)) + 2
    return "\n".join(
        [
            group.summary,
            "",
            *_wrap(f"usage: pikavae {name} {choices}", "  "),
            "",
            *(f"  {full:<{width}}{COMMANDS[full].summary}" for full in members),
            *(["", f"`pikavae {name}` alone is `pikavae {name} {group.default}`."] if group.default else []),
            "",
            "examples:",
            *(f"  pikavae {COMMANDS[full].examples[-1]}" for full in members),
            "",
            f"`pikavae {members[-1]} --help` lists what a command takes.",
        ]
    )


def command_help(name: str, rest: Sequence[str]) -> str:
    """Return the help of a command: what it does, what it takes, examples; its settings come last."""
    command = COMMANDS[name]
    lines = [
        *_wrap(f"{command.summary} {command.about}".strip(), ""),
        "",
        *_wrap(f"usage: {usage_of(name)}", "           "),
    ]
    others = [full for full in COMMANDS if full.startswith(f"{name} ")]
    lines += [f"       {_call(full)} [--json]" for full in others]
    if command.positionals:
        lines += ["", "arguments:", *_describe_positionals(command)]
    lines += ["", "options:", *_describe_options(command)]
    lines += ["", "examples:", *(f"  pikavae {example}" for example in command.examples)]
    return "\n".join([*lines, *_describe_settings(command, rest)])


def usage_of(name: str) -> str:
    """Return the usage of a command, in a line."""
    from flows.command_line.flags import flags_of

    command = COMMANDS[name]
    own = {flag.field: flag for flag in flags_of(command).values() if not flag.is_setting}
    needed = [
        f"{own[field]} {own[field].values}"
        for field, item in command.options.__dataclass_fields__.items()
        if item.metadata["missing"]
    ]
    settings = ["[--section.field\xa0VALUE\xa0...]"] if command.settings else []
    return " ".join([_call(name), *needed, "[OPTIONS]", *settings])


def commands_table() -> str:
    """Return the guide's table of commands, in Markdown."""
    rows = []
    for name, command in COMMANDS.items():
        call = usage_of(name).partition(" [OPTIONS]")[0].replace("|", "\\|")
        rows.append(f"| `{call}` | {command.summary} | {_name_settings(command)} |")
    return "\n".join(["| command | what it does | settings that it reads |", "| --- | --- | --- |", *rows])


def _call(name: str) -> str:
    """Return a command with its positional words."""
    return " ".join(["pikavae", name, *(positional.name for positional in COMMANDS[name].positionals)])


def _name_settings(command: Command) -> str:
    """Return the sections that a command reads, and those of which it reads some fields."""
    if command.settings == ALL:
        return "all"
    parts = {name.partition(".")[0] for name in command.settings}
    whole = [f"`{name}`" for name in ALL if name in command.settings]
    some = [f"`{name}`" for name in ALL if name in parts and name not in command.settings]
    return "; ".join([", ".join(whole), *(["some of " + ", ".join(some)] if some else [])]).removeprefix("; ") or "none"


def _describe_positionals(command: Command) -> Iterator[str]:
    from pikavae.presets import preset_names

    for name, text in {positional.name: positional.help for positional in command.positionals}.items():
        names = f": {', '.join(preset_names())}; by default demo" if name == "[PRESET]" else ""
        yield f"  {name.strip('[]')}"
        yield from _wrap(f"{text}{names}", "      ", first="      ")


def _describe_options(command: Command) -> Iterator[str]:
    from flows.command_line.flags import flags_of

    for flag in sorted(flags_of(command).values(), key=lambda flag: flag.name == "json"):
        if "." not in flag.name:
            default = None if flag.is_setting else command.options.__dataclass_fields__[flag.field].default
            shown = "" if isinstance(default, bool) or default in (None, "", ()) else f" (default: {default})"
            yield f"  {flag}" if flag.takes == "switch" else f"  {flag} {flag.values}"
            yield from _wrap(f"{flag.help}{shown}", "      ", first="      ")
    yield "  -h, --help"
    yield "      Show this help."


def _describe_settings(command: Command, rest: Sequence[str]) -> Iterator[str]:
    """Yield the settings that a command reads, by section, with their values before the line changes them."""
    from flows.command_line.flags import settings
    from pikavae.config import Config

    preset, base = _base(command, rest)
    section = ""
    for flag in settings():
        if not command.reads(flag.name):
            continue
        if not section:
            yield ""
            yield from _wrap(f"{BASES[command.base].format(preset=preset)}:", "")
        if section != (section := flag.name.partition(".")[0]):
            yield ""
            yield f"{section}: {Config.model_fields[section].description}"
        yield f"  {flag} {flag.values}"
        value = getattr(getattr(base, section), flag.name.partition(".")[2])
        yield from _wrap(f"{flag.help} (default: {_show_value(value)})", "      ", first="      ")


def _base(command: Command, rest: Sequence[str]) -> tuple[str, Config]:
    """Return the preset that a line names, or `demo`, and the configuration that the help shows."""
    from pikavae.config import Config
    from pikavae.presets import load_config

    if command.base != "preset":
        return "", Config()
    named = next((word for word in rest if not word.startswith("-")), "demo")
    try:
        return Path(named).stem, load_config(named)
    except UserError:
        return "demo", load_config("demo")


def _show_value(value: Any) -> str:
    """Return a value as the terminal takes it."""
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "empty"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _wrap(text: str, indent: str, *, first: str = "") -> list[str]:
    """Return the lines of a text; no-break spaces in it keep words together."""
    lines = textwrap.wrap(
        text,
        min(columns(), 120),
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace("\xa0", " ") for line in lines]
