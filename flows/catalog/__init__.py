"""List the commands of the terminal: the parser, the help and the guide's list of commands follow from this table."""

from __future__ import annotations

from dataclasses import dataclass

from flows.catalog.promotion import PROMOTION_COMMANDS
from flows.catalog.stages import STAGE_COMMANDS
from flows.catalog.upkeep import UPKEEP_COMMANDS
from flows.catalog.using import USE_COMMANDS
from flows.terminal.command import Command

COMMANDS: dict[str, Command] = {
    **STAGE_COMMANDS,
    **USE_COMMANDS,
    **PROMOTION_COMMANDS,
    **UPKEEP_COMMANDS,
}


@dataclass(frozen=True)
class Group:
    """Describes a word that several commands begin with and that is no command itself.

    Attributes:
        summary: what its commands are for.
        default: the command that it means alone; empty if it means none.
    """

    summary: str
    default: str = ""


GROUPS = {
    "models": Group("Show, verify or repair the registry.", default="list"),
    "store": Group("Maintain the state folder."),
}
