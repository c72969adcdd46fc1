"""Find the command of a line, and turn the words after it into the command's arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from flows.catalog import COMMANDS, GROUPS
from flows.command_line.flags import Flag, ReadWords, flags_of, key_of, read_words, refuse_name, without_no
from flows.terminal.command import Arguments, Command
from flows.terminal.options import Options
from pikavae.config import EARLIER_SWITCH, Config
from pikavae.errors import UserError
from pikavae.presets import (
    NOTIFY_HINT,
    did_you_mean,
    explain,
    load_config,
    preset_names,
    unknown_field_hint,
    without_sizes,
)

NUMBER_IN_QUOTES = re.compile(r"^(\S+) '([-+]?[\d.]+)':")
"""The start of a message about a number, which a command line gives as text in quotes."""
Own = TypeVar("Own", bound=Options)


def find_command(words: list[str]) -> tuple[str, list[str]]:
    """Return the full name of the command, such as `models show`, and the words that follow it.

    Raises:
        UserError: there is no such command.
    """
    name, rest = words[0], words[1:]
    if name.startswith("-"):
        raise UserError(f"{name}: the command comes first, as in `pikavae run {name}`; `pikavae --help` lists all")
    members = {full: command for full, command in COMMANDS.items() if full.partition(" ")[0] == name}
    if not members:
        hint = did_you_mean(name, [full.partition(" ")[0] for full in COMMANDS]) or "`pikavae --help` lists all"
        raise UserError(f"{name}: no such command; {hint}")
    if [*members] == [name]:
        return name, rest
    flags = {key: flag for command in members.values() for key, flag in flags_of(command).items()}
    needed = 1 + max(command.num_needed for command in members.values())
    read = read_words(rest, flags, partial(explain_unknown, name), needed=needed)
    word = read.names[0] if read.names else ""
    if f"{name} {word}" in members:
        return f"{name} {word}", [*rest[: read.places[0]], *rest[read.places[0] + 1 :]]
    if name in members:
        return name, rest
    if not word and (default := GROUPS[name].default):
        return f"{name} {default}", rest
    seconds = [full.partition(" ")[2] for full in members]
    expected = f"`{next(iter(members))}`" if len(members) == 1 else f"one of {', '.join(seconds)}"
    raise UserError(f"{name} {word}".rstrip() + f": {did_you_mean(word, seconds) or f'expected {expected}'}")


def read_arguments(name: str, words: list[str]) -> Arguments[Any]:
    """Read the words after a command.

    Raises:
        UserError: a flag is unknown, a value is not allowed, or a word is missing or one too many.
    """
    command = COMMANDS[name]
    read = read_words(words, flags_of(command), partial(explain_unknown, name), needed=command.num_needed)
    check_names(name, command, read)
    names = read.names or (["demo"] if command.base == "preset" else [])
    settings = {key: value for key, value in read.values.items() if "." in key}
    own = {key: value for key, value in read.values.items() if "." not in key}
    swept: dict[str, list[Any]] = {}
    if command.sweeps:
        swept = {key: values for key, values in settings.items() if len(values) > 1}
        settings = {key: value for key, (value, *more) in settings.items() if not more}
    if command.base != "model":
        config = override(load_config(names[0]) if command.base == "preset" else Config(), settings)
        return Arguments(names, parse_options(command.options, own), config, settings=settings, swept=swept)
    options = parse_options(command.options, own)  # before a model is looked for, which takes a while
    from pikavae import operations

    workspace = operations.Workspace.open()
    model_name = settings.get("registry.model_name") or Config().registry.model_name
    base = operations.config_of_model(workspace, names[0], model_name)
    return Arguments(names, options, override(base, settings), workspace, settings)


def explain_unknown(name: str, key: str) -> str:
    """Return a message about a flag that a command does not take: the commands that do, or the nearest flag."""
    key = key_of(key)
    if key.partition(".")[0] == "notify":
        return f"no such flag; {NOTIFY_HINT}"
    if key == f"training.{EARLIER_SWITCH}":
        return "no such flag any more; use --training.activations checkpoint"
    own: dict[str, Flag] = {}
    takers: list[str] = []
    for full, command in COMMANDS.items():
        flags = flags_of(command)
        if full.partition(" ")[0] == name or full == name:
            own |= flags
        positive = without_no(key)
        found = flags.get(key) or (flags[positive] if positive in flags and flags[positive].takes == "switch" else None)
        if found and (not found.is_setting or command.reads(found.field)):
            takers.append(full)
    if takers:
        *most, last = takers
        listed = f"{', '.join(most)} and {last} do" if most else f"{last} does"
        return f"`{name}` {'does not read this setting' if '.' in key else 'takes no such flag'}; {listed}"
    hint = did_you_mean(key, sorted(own))
    if hint is None and any("." in flag for flag in own):
        hint = unknown_field_hint(key)
    if hint is None:
        return f"no such flag; `pikavae {name} --help` lists all"
    return f"no such flag; {hint.replace('did you mean ', 'did you mean --').replace('_', '-')}"


def check_names(name: str, command: Command, read: ReadWords) -> None:
    """Check the number of positional words, and that a preset can be one.

    Raises:
        UserError: a word is missing or one too many; the message says which.
    """
    for positional in command.positionals[len(read.names) :]:
        if positional.is_needed:
            raise UserError(f"{name}: {positional.missing}")
    if command.base == "preset" and read.names:
        preset = read.names[0]
        if 0 in read.after and preset not in preset_names() and Path(preset).suffix not in {".yaml", ".yml"}:
            raise refuse_name(preset, read.after[0])
        if preset and Path(preset).is_dir():
            raise UserError(f"preset {preset!r}: a folder; pictures are named by --data.source {preset}")
    if not any(positional.repeats for positional in command.positionals):
        for place, word in enumerate(read.names[len(command.positionals) :], len(command.positionals)):
            if place in read.after:
                raise refuse_name(word, read.after[place])
            raise UserError(f"{word!r}: {command.extra}")


def parse_options(kind: type[Own], values: Mapping[str, Any]) -> Own:
    """Check the values of a command's own options.

    Raises:
        UserError: a value is empty, missing or out of its bounds.
    """
    for name, item in kind.__dataclass_fields__.items():
        given = values.get(name, item.default)
        if item.metadata["missing"] and not str(given).strip():
            raise UserError(item.metadata["missing"])
        if name in values and given == "" and item.default != "":
            raise UserError(f"--{item.metadata['name'] or name}: it is empty; give a value, or leave the flag out")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise UserError(as_flag(explain(error))) from None


def override(base: Config, settings: Mapping[str, Any]) -> Config:
    """Return a configuration with other values, by dotted name.

    Raises:
        UserError: a value is out of its bounds; the message names it and what is allowed.
    """
    if not settings:
        return base
    tree = base.model_dump(mode="json")
    tree["model"] = without_sizes(tree["model"], settings)
    for dotted, value in settings.items():
        section, _, field = dotted.partition(".")
        tree[section][field] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        message = NUMBER_IN_QUOTES.sub(r"\1 \2:", explain(error))
        is_flag = any(message.startswith((f"{name} ", f"{name}.")) for name in settings)
        raise UserError(as_flag(message) if is_flag else message) from None


def as_flag(message: str) -> str:
    """Return a message about a field, which begins with its dotted name, as one about its flag."""
    field, space, rest = message.partition(" ")
    return f"--{field.replace('_', '-')}{space}{rest}"
