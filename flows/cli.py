"""Run the terminal's commands: `pikavae COMMAND [PRESET or MODEL] [--section.field VALUE ...] [--json]`.

Results go to standard output. With --json one JSON object is its last line, and everything for a person goes to
standard error. Exit status: 0 done; 1 pikavae's failure; 2 the user's mistake; 3 a gate refused or an approval is
missing; 75 stopped from outside, can be resumed.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from flows.catalog import COMMANDS
from flows.command_line.help import HELP, help_of, overview, wants_help
from flows.terminal.output import show, tolerate_characters, use_utf8
from pikavae import __version__, entry
from pikavae.errors import PikavaeError

PREEMPTED = 75
OWN_LOGGERS = ("pikavae", "flows")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    if arguments is None:
        use_utf8()
    tolerate_characters()
    words = command_first(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in HELP:
        show(overview(), sys.stdout)
        return 0
    if words[0] == "--version":
        show(__version__, sys.stdout)
        return 0
    if wants_help(words):
        return show_help(words)
    return run_command(words)


def show_help(words: list[str]) -> int:
    """Show the help of the command that a line begins with, and return the exit status."""
    try:
        show(help_of(words), sys.stdout)
    except PikavaeError as error:
        return report_failure(error, as_json=False)
    return 0


def run_command(words: list[str]) -> int:
    """Run the command of a line, show its result, and return the exit status."""
    from flows.command_line.arguments import find_command
    from flows.notifying import begin_telling, tell_news
    from pikavae.process.stopping import listen
    from pikavae.process.surroundings import tidy

    show_logs()
    tidy()
    listen()
    as_json = has_json(words)
    try:
        name, rest = find_command(words)
    except PikavaeError as error:
        return report_failure(error, as_json=as_json)
    if not COMMANDS[name].tells:
        return run_named(name, rest, as_json=as_json)
    begin_telling()
    status = PREEMPTED  # unless it ends otherwise
    try:
        status = run_named(name, rest, as_json=as_json)
    finally:
        tell_news(hurried=status == PREEMPTED)
    return status


def run_named(name: str, rest: list[str], *, as_json: bool) -> int:
    """Run a command by its full name, show its result, and return the exit status."""
    from flows.command_line.arguments import read_arguments

    try:
        result, text = COMMANDS[name].run(read_arguments(name, rest))
        show_result(result, text, as_json=as_json)
    except PikavaeError as error:
        return report_failure(error, as_json=as_json)
    except KeyboardInterrupt:
        show("pikavae: stopped; the same command resumes from the last checkpoint", sys.stderr)
        return PREEMPTED
    except Exception as error:
        if (explained := explain_disk(error)) is None:
            raise
        return report_failure(explained, as_json=False)
    return 0


def show_result(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result at once: a full disk could not be reported at the end of the process."""
    if text:
        show(text, sys.stderr if as_json else sys.stdout)
    if as_json and result:
        show(json.dumps(result), sys.stdout)


def report_failure(error: PikavaeError, *, as_json: bool) -> int:
    """Report why a command failed, and return its exit status."""
    show(f"pikavae: {error}", sys.stderr)
    if error.result and as_json:
        show(json.dumps(error.result), sys.stdout)
    return error.exit_status


def explain_disk(error: Exception) -> PikavaeError | None:
    """Return the error to report if a disk or a folder caused an unexpected exception; None if they seem in order.

    A server or a library may report only that something failed; then the state folder itself is checked.
    """
    from pikavae.workspace.disks import diagnose, explain
    from pikavae.workspace.home import home

    try:
        place = home()
        return explain(error, place) or (diagnose(place) if place.exists() else None)
    except (PikavaeError, OSError):
        return None


def command_first(arguments: Sequence[str]) -> list[str]:
    """Move the command before `--json`, and turn `help COMMAND` into `COMMAND --help`."""
    words = list(arguments)
    while words and words[0] == "--json":
        words = [*words[1:2], "--json", *words[2:]] if len(words) > 1 and words[1] != "--json" else words[1:]
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    return words


def show_logs() -> None:
    """Write pikavae's own log lines and the warnings of all libraries except Prefect to standard error.

    A failure in a flow reaches `main` as an exception, and Prefect would also show its traceback.
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


def has_json(words: Sequence[str]) -> bool:
    """Return True if words that are not read yet ask for JSON; a mistake in them is then reported in that form."""
    asked = False
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.replace("-", "_").partition("=")
        if name in {"__json", "__no_json"}:
            state = (value or following).lower()
            asked = (name == "__json") and state not in {"false", "no", "off"} and value != "0"
    return asked


if __name__ == "__main__":
    sys.exit(entry.main())
