"""The terminal: `pikavae COMMAND [PRESET or MODEL] [--section.field VALUE ...] [--json]`.

Results go to standard output. With --json one JSON object is its last line, and everything meant for a person goes to
standard error. Exit status: 0 done; 1 ours; 2 the user's mistake; 3 a gate refused or an approval is missing;
75 stopped from outside, can be resumed.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from flows.commands.exchange import export, import_
from flows.commands.models import approve, models, promote, rollback
from flows.commands.pictures import interpolate, reconstruct, sample
from flows.commands.prune import prune
from flows.commands.services import doctor, schedule, ui, up
from flows.commands.stages import encode, evaluate, plan, prepare, register, run, train
from flows.commands.store import store
from flows.words import Command
from pikavae import __version__
from pikavae.errors import PikavaeError, UserError
from pikavae.presets import did_you_mean, preset_names

PREEMPTED = 75
OWN_LOGGERS = ("pikavae", "flows")

COMMANDS: dict[str, Command] = {
    "run": run,
    "plan": plan,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "register": register,
    "reconstruct": reconstruct,
    "interpolate": interpolate,
    "sample": sample,
    "encode": encode,
    "import": import_,
    "export": export,
    "promote": promote,
    "approve": approve,
    "rollback": rollback,
    "models": models,
    "prune": prune,
    "store": store,
    "up": up,
    "schedule": schedule,
    "ui": ui,
    "doctor": doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    show_logs()
    signal.signal(signal.SIGTERM, _terminated)
    try:
        result, text = command_named(words[0])(words[1:])
    except PikavaeError as error:
        print(f"pikavae: {error}", file=sys.stderr)
        if error.result and "--json" in words:
            print(json.dumps(error.result))
        return error.exit_status
    except KeyboardInterrupt:
        print("pikavae: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return PREEMPTED
    as_json = "--json" in words
    if text:
        print(text, file=sys.stderr if as_json else sys.stdout)
    if as_json and result:
        print(json.dumps(result))
    return 0


def show_logs() -> None:
    """Write pikavae's own lines and everybody's warnings to standard error.

    Not Prefect's: what fails in a flow reaches `main` as an exception, and Prefect would show it with its traceback.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(
        lambda record: (
            record.name.startswith(OWN_LOGGERS)
            or (record.levelno >= logging.WARNING and not record.name.startswith("prefect"))
        )
    )
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[handler])
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


def _terminated(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def command_named(name: str) -> Command:
    """The function of a command.

    Raises:
        UserError: there is no such command.
    """
    if name not in COMMANDS:
        hint = did_you_mean(name, list(COMMANDS)) or "`pikavae --help` lists all"
        raise UserError(f"{name}: no such command; {hint}")
    return COMMANDS[name]


def usage() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pikavae COMMAND [PRESET or MODEL] [--section.field VALUE ...] [--json]",
            "",
            *lines,
            "",
            f"PRESET is a file of configs/ by name or a path: {', '.join(preset_names())}.",
            "MODEL is a version number, champion, run:<id>[@step or @best], or a model folder.",
            "`pikavae COMMAND --help` lists the flags with their defaults.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
