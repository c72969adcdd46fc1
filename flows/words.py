"""From the words of a command line to what a command works on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flows.options import AnyOptions, parse_options
from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.presets import load_config

Result = tuple[dict[str, Any], str]
"""What a command returns: its JSON object, and the lines for a person."""
Command = Callable[[list[str]], Result]


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """The positional words and the flags after them."""
    first = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    return words[:first], words[first:]


def preset_options(command: str, words: list[str], kind: type[AnyOptions]) -> AnyOptions:
    """Options over the preset that comes first, `demo` when none does."""
    names, flags = split_words(words)
    if len(names) > 1:
        raise UserError(f"{names[1]!r}: one preset at a time; fields are set with --section.field VALUE")
    preset = names[0] if names else "demo"
    return parse_options(kind, load_config(preset), flags, f"pikavae {command} {preset}")


def model_options(command: str, words: list[str], kind: type[AnyOptions]) -> tuple[str, list[str], AnyOptions]:
    """The model, the words between it and the flags, and options over the configuration that made the model."""
    names, flags = split_words(words)
    if {"-h", "--help"} & set(flags):
        parse_options(kind, Config(), ["--help"], f"pikavae {command} MODEL")
    if not names:
        raise UserError(f"{command}: name a model: a version number, champion, run:<id>[@step or @best], or a folder")
    from pikavae import operations

    base = operations.config_of_model(names[0])
    return names[0], names[1:], parse_options(kind, base, flags, f"pikavae {command} {names[0]}")


def refuse_extra(words: list[str]) -> None:
    """Raise a UserError when a command was given words that it does not take."""
    if words:
        raise UserError(f"{words[0]!r}: this command takes no such word; flags begin with --")
