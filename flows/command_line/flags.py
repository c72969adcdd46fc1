"""Read a command line: which words are flags, which are their values, and which are names.

A flag is `--section.field` or an option of the command, with hyphens or underscores. It takes its values from the words
after it, or one value after `=`; a switch also takes `true` or `false`, or `--no-` before its name. If a flag is
repeated, the last one counts. A mistake is reported in one line that names flag, value and what is allowed.

argparse, click and tyro do not read such lines: a list of numbers may be followed by a preset, a switch by its value.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel

from flows.terminal.command import Command
from pikavae.config import Config
from pikavae.errors import UserError

NOTHING = {"none", "null"}
SWITCH_WORDS = {"true", "false", "yes", "no", "on", "off"}
NUMBER = re.compile(r"[+-]?(\d|\.\d)")
OTHER_DASHES = ("\N{EN DASH}", "\N{EM DASH}", "\N{MINUS SIGN}")
SHORT = {"experiment": "tracking.experiment"}
"""Short names of settings, for commands that take them."""
NO_LIST = [["none"], ["null"]]
NAMES_OF_TYPES = {int: "INT", float: "NUMBER", str: "TEXT"}


@dataclass(frozen=True)
class Flag:
    """Describes a flag of a command line.

    Attributes:
        name: its name with underscores.
        field: the field of the options that it sets; for a setting its dotted name.
        takes: a switch, a value, a list, or one more value each time.
        values: how the help shows the value.
        help: what it is for.
        optional: True if `none` is a value.
        count: how many values a list has; None for any number.
        words: the values that a list may have, if they are a choice; those that a switch has besides true and false.
        texts: True if it is a list of any texts; otherwise it is of numbers or of that choice.
        each: the flag of one value, if this one takes several values to try, one after the other.
    """

    name: str
    field: str
    takes: Literal["switch", "value", "list", "append"]
    values: str
    help: str = ""
    optional: bool = False
    count: int | None = None
    words: tuple[str, ...] = ()
    texts: bool = False
    each: Flag | None = None

    def __str__(self) -> str:
        """Return it as the terminal shows it, with hyphens."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_setting(self) -> bool:
        """Return True if the flag sets a field of the configuration."""
        return "." in self.field

    def may_have(self, word: str) -> bool:
        """Return True if a word looks like an element of this list."""
        return self.texts or word in self.words or (not self.words and NUMBER.match(word) is not None)

    def may_try(self, word: str) -> bool:
        """Return True if a word looks like one of several values to try."""
        if self.takes == "list":
            return self.may_have(word.strip("[]()"))
        if self.takes == "switch":
            return word.lower() in {*SWITCH_WORDS, *self.words, *NOTHING, "0", "1"}
        if self.words or "TEXT" not in self.values:
            return word in self.words or word.lower() in NOTHING or NUMBER.match(word) is not None
        return True


@dataclass
class ReadWords:
    """Holds the parts of a command line.

    Attributes:
        names: the words that are neither flags nor their values.
        places: the index of each name among all words.
        after: the flag right before a name, by the name's index, if that flag could take no more words.
        values: the value of each given flag.
    """

    names: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    after: dict[int, Flag] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def flags_of(command: Command) -> dict[str, Flag]:
    """Return the flags of a command by name: its own options, short names of settings, the settings that it takes."""
    hints = typing.get_type_hints(command.options)
    own = [_option(item.name, item.metadata, hints[item.name]) for item in fields(command.options)]
    taken = [flag for flag in settings() if command.takes(flag.name)]
    taken = list(map(_several, taken)) if command.sweeps else taken
    short = [
        replace(flag, name=name, help=f"{flag.help} It is short for {flag}.")
        for name, field in SHORT.items()
        for flag in taken
        if flag.name == field
    ]
    return {flag.name: flag for flag in [*own, *short, *taken]}


@cache
def settings() -> tuple[Flag, ...]:
    """Return the flags of all settings, in the order of the configuration."""
    return tuple(
        _flag(f"{section}.{name}", f"{section}.{name}", found.annotation, " ".join((found.description or "").split()))
        for section, part in Config.model_fields.items()
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel)
        for name, found in part.annotation.model_fields.items()
    )


def read_words(
    words: Sequence[str], flags: Mapping[str, Flag], refuse: Callable[[str], str], *, needed: int = 0
) -> ReadWords:
    """Separate the flags, values and names of a command line.

    Args:
        words: the words after the command.
        flags: the flags that the command takes, by name.
        refuse: returns, for the name of an unknown flag, the rest of the message.
        needed: how many names the command needs; until then, a `1` after a switch is a name.

    Raises:
        UserError: a flag is unknown, or its value is missing.
    """
    read, rest = ReadWords(), list(words)
    last: Flag | None = None
    while rest:
        place, word = len(words) - len(rest), rest.pop(0)
        if word == "--":
            read.names += rest
            read.places += range(place + 1, len(words))
            break
        if word.startswith("--"):
            last = _read_flag(word, rest, flags, refuse, read, needed)
        elif word.startswith(OTHER_DASHES) or (word.startswith("-") and word != "-" and not NUMBER.match(word)):
            wanted = word.lstrip("".join(["-", *OTHER_DASHES]))
            hint = f"did you mean --{wanted}?" if key_of(wanted) in flags else "flags begin with two hyphens"
            raise UserError(f"{word}: no such flag; {hint}")
        else:
            if last is not None:
                read.after[len(read.names)] = last
                last = None
            read.names.append(word)
            read.places.append(place)
    return read


def refuse_name(word: str, flag: Flag) -> UserError:
    """Return the error for a word right after a flag that could not take it."""
    if flag.takes == "switch":
        return UserError(f"{flag} {word!r}: expected {' or '.join(['true', 'false', *flag.words])}, or no value")
    if flag.takes == "list":
        allowed = " or ".join(map(repr, flag.words)) or "a number"
        count = "" if flag.count is None else f", and {flag.count} values in all"
        return UserError(f"{flag} {word!r}: expected {allowed}{count}")
    return UserError(
        f"{flag}: one value is expected, and {word!r} is another; put quotes around a text of several words or "
        f"a pattern such as '*.parquet'"
    )


def key_of(typed: str) -> str:
    """Return the name of a flag that was typed with hyphens or underscores."""
    return typed.replace("-", "_")


def without_no(key: str) -> str:
    """Return the name of the switch that `no_name`, `no_section.name` or `section.no_name` turns off."""
    section, dot, name = key.rpartition(".")
    return f"{section}{dot}{name.removeprefix('no_')}" if name.startswith("no_") else key.removeprefix("no_")


def _read_flag(
    word: str,
    rest: list[str],
    flags: Mapping[str, Flag],
    refuse: Callable[[str], str],
    read: ReadWords,
    needed: int,
) -> Flag:
    """Take a flag's values from the words that follow it, and return the flag."""
    typed, equals, given = word[2:].partition("=")
    key, negated = key_of(typed), False
    if key not in flags and (positive := without_no(key)) in flags and flags[positive].takes == "switch":
        key, negated = positive, flags[positive].each is None
        rest[:0] = [] if negated else ["false"]
    if key not in flags:
        raise UserError(f"--{typed}: {refuse(key)}")
    flag = flags[key]
    if negated and equals:
        raise UserError(f"--{typed}={given}: takes no value; write {flag}={given}")
    if flag.each is not None:
        read.values[flag.field] = _values_to_try(flag.each, [given] if equals else _words_to_try(flag.each, rest, read))
        return flag
    if flag.takes == "switch":
        value = "false" if negated else given if equals else _switch_word(flag, rest, read, needed)
        read.values[flag.field] = _none_or(value, flag)
        return flag
    if flag.takes == "list":
        values = [given] if equals else _list_words(flag, rest, read)
        if not flag.texts:
            values = _split(values)
        if flag.count is not None and len(values) != flag.count:
            raise UserError(f"{flag} {' '.join(values)}: {flag.count} values are expected, not {len(values)}")
        read.values[flag.field] = None if flag.optional and [v.lower() for v in values] in NO_LIST else values
        return flag
    if not equals:
        if not rest or rest[0].startswith("--"):
            hint = f"; one that begins with -- is written {flag}={rest[0]}" if rest else ""
            raise UserError(f"{flag}: its value is missing{hint}")
        given = rest.pop(0)
    if flag.takes == "append":
        read.values.setdefault(flag.field, []).append(given)
    else:
        read.values[flag.field] = _none_or(given, flag)
    return flag


def _switch_word(flag: Flag, rest: list[str], read: ReadWords, needed: int) -> str:
    """Return the value that follows a switch, or `true` if none does."""
    if rest:
        word = rest[0].lower()
        is_number = word in {"0", "1"} and (flag.is_setting or len(read.names) >= needed)
        if word in SWITCH_WORDS or word in flag.words or is_number or (flag.optional and word in NOTHING):
            return rest.pop(0).lower()
    return "true"


def _list_words(flag: Flag, rest: list[str], read: ReadWords) -> list[str]:
    """Take the words of a list up to a flag, its full number, or a last word that may be a preset or model."""
    values: list[str] = []
    while rest and not rest[0].startswith("--") and (flag.count is None or len(values) < flag.count):
        if not read.names and values and not flag.may_have(rest[0]):
            break
        values.append(rest.pop(0))
        if len(values) == 1 and flag.count is not None and len(_split(values)) > 1:
            break
    return values


def _words_to_try(flag: Flag, rest: list[str], read: ReadWords) -> list[str]:
    """Take the words up to a flag, or up to a last word that may be a preset."""
    words: list[str] = []
    while rest and not rest[0].startswith("--") and (read.names or flag.may_try(rest[0]) or not words):
        if flag.takes == "switch" and not read.names and not flag.may_try(rest[0]):
            break
        words.append(rest.pop(0))
    if not words and flag.takes == "value":
        raise UserError(f"{flag}: its value is missing")
    return words


def _values_to_try(flag: Flag, words: list[str]) -> list[Any]:
    """Return the values that words name: one list for each word with a comma, or else one list of all words."""
    if flag.takes == "switch":
        return [_none_or(word.lower(), flag) for word in words or ["true"]]
    if flag.takes == "value":
        return [_none_or(word, flag) for word in words]
    lists = [[word] for word in words] if not flag.texts and any("," in word for word in words) else [words]
    values = [found if flag.texts else _split(found) for found in lists]
    for found in values:
        if flag.count is not None and len(found) != flag.count:
            raise UserError(f"{flag} {' '.join(found)}: {flag.count} values are expected, not {len(found)}")
    return [None if flag.optional and [v.lower() for v in found] in NO_LIST else found for found in values]


def _several(flag: Flag) -> Flag:
    """Return the flag that takes several values to try of a setting."""
    values = flag.values if flag.takes == "list" else f"{flag.values} ..."
    return replace(flag, values=values, each=flag)


def _split(values: list[str]) -> list[str]:
    """Split `8,16` and `[8, 16]` into two values, and an empty value into none."""
    if len(values) == 1:
        text = values[0].strip()
        values = [part.strip() for part in text.strip("[]()").split(",")]
        return [] if values == [""] else values
    return values


def _none_or(value: str, flag: Flag) -> str | None:
    return None if flag.optional and value.lower() in NOTHING else value


def _option(name: str, marks: Mapping[str, Any], annotation: Any) -> Flag:
    """Return the flag of a command's own option."""
    flag = _flag(marks["name"] or name, name, annotation, marks["help"])
    return replace(flag, takes="append", values="TEXT") if marks["repeats"] else flag


def _flag(name: str, where: str, annotation: Any, text: str) -> Flag:
    kinds = _alternatives(annotation)
    optional = type(None) in kinds
    if bool in kinds:
        words = tuple(word for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind))
        return Flag(name, where, "switch", f"[{'|'.join(['true', 'false', *words])}]", text, optional, words=words)
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            elements = typing.get_args(kind)
            element, count = _bare(elements[0]), None if ... in elements else len(elements)
            words = tuple(map(str, typing.get_args(element))) if typing.get_origin(element) is Literal else ()
            shown = f"{_show_type(element)} ..." if count is None else " ".join([_show_type(element)] * count)
            return Flag(name, where, "list", shown, text, optional, count, words, texts=element is str)
    words = tuple(str(word) for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind))
    return Flag(name, where, "value", "|".join(map(_show_type, kinds)), text, optional, words=words)


def _show_type(kind: Any) -> str:
    """Return a type as the help shows it."""
    if typing.get_origin(kind) is Literal:
        return f"{{{','.join(map(str, typing.get_args(kind)))}}}"
    return NAMES_OF_TYPES.get(kind, "none")


def _alternatives(annotation: Any) -> list[Any]:
    bare = _bare(annotation)
    if typing.get_origin(bare) in {typing.Union, types.UnionType}:
        return [kind for part in typing.get_args(bare) for kind in _alternatives(part)]
    return [bare]


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
