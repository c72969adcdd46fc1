"""Describe a command of the terminal: what it does, what it takes, and what it is given when it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from flows.terminal.options import Options

if TYPE_CHECKING:
    from pikavae.config import Config
    from pikavae.operations import Workspace

AnyOptions = TypeVar("AnyOptions", bound=Options)

Result = tuple[dict[str, Any], str]
"""The result of a command: its JSON object, and the lines for a person."""


@dataclass(frozen=True)
class Positional:
    """Describes one of the words that follow a command and are neither flags nor their values.

    Attributes:
        name: as the usage shows it: in brackets if it may be left out, with `...` if it may be repeated.
        help: what it is.
        missing: what to do if it is missing, such as `name a model`.
    """

    name: str
    help: str
    missing: str = ""

    @property
    def is_needed(self) -> bool:
        """Return True if the command cannot run without it."""
        return not self.name.startswith("[")

    @property
    def repeats(self) -> bool:
        """Return True if there may be several."""
        return "..." in self.name


PRESET = Positional("[PRESET]", "a preset by name, or the path of a YAML file of settings")
ONE_PRESET = "one preset at a time; fields are set with --section.field VALUE"
ALL = ("data", "model", "loss", "optimizer", "training", "evaluation", "registry", "promotion", "tracking")
"""The sections of the configuration."""


@dataclass(frozen=True)
class Arguments(Generic[AnyOptions]):
    """Holds what a command line gave to a command.

    Attributes:
        names: the positional words.
        options: the command's own options.
        config: the configuration that the preset, the model or the defaults give, with the settings of the line.
        opened: the workspace, if a model was looked up in it.
        settings: the settings of the line alone, by dotted name; those with several values are in `swept`.
        swept: of a command that sweeps, the values of each setting that was given several, by its dotted name.
    """

    names: list[str]
    options: AnyOptions
    config: Config
    opened: Workspace | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    swept: Mapping[str, list[Any]] = field(default_factory=dict)

    @cached_property
    def workspace(self) -> Workspace:
        """Return the workspace of this command."""
        from pikavae.operations import Workspace

        return self.opened or Workspace.open()


@dataclass(frozen=True)
class Command:
    """Describes a command; the parser, the help and the guide's list of commands follow from it.

    Attributes:
        run: does it.
        summary: what it does, in a line.
        examples: two command lines, without `pikavae`.
        about: more that its help says.
        positionals: the words that it takes.
        options: its own options.
        settings: the sections, or fields by dotted name, of the configuration that it reads.
        accepts: sections that it takes without reading them, so that one line of settings serves several commands.
        base: what the settings of the line are laid over: the defaults, the preset, or the named model's own. For the
            champion's own, the command lays them over what is champion when it runs, and `config` has the defaults.
        extra: the message about a word too many.
        tells: True if it may add to the record what people are told by notifications.
        sweeps: True if a setting may have several values, to try one after the other.
    """

    run: Callable[[Arguments[Any]], Result]
    summary: str
    examples: tuple[str, str]
    about: str = ""
    positionals: tuple[Positional, ...] = ()
    options: type[Options] = Options
    settings: tuple[str, ...] = ()
    accepts: tuple[str, ...] = ()
    base: Literal["defaults", "preset", "model", "champion"] = "defaults"
    extra: str = "this command takes no such word; flags begin with --"
    tells: bool = False
    sweeps: bool = False

    def reads(self, setting: str) -> bool:
        """Return True if it reads a setting, given by its dotted name."""
        return bool({setting, setting.partition(".")[0]} & {*self.settings})

    def takes(self, setting: str) -> bool:
        """Return True if a setting may be given: the command reads it, or accepts it for another's sake."""
        return self.reads(setting) or setting.partition(".")[0] in self.accepts

    @property
    def num_needed(self) -> int:
        """Return how many positional words it cannot run without."""
        return sum(positional.is_needed for positional in self.positionals)
