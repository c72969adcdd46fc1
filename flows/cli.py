"""The terminal: `pikavae COMMAND [PRESET or MODEL] [--section.field VALUE ...] [--json]`.

Results go to standard output. With --json one JSON object is its last line, and everything meant for a person goes to
standard error. Exit status: 0 done; 1 ours; 2 the user's mistake; 75 stopped from outside, can be resumed.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from flows.options import AnyOptions, Options, ReasonOptions, ReconstructOptions, RunOptions, UiOptions, parse_options
from pikavae import __version__
from pikavae.config import Config, did_you_mean, load_config, preset_names
from pikavae.errors import PikavaeError, UserError

PREEMPTED = 75
OWN_LOGGERS = ("pikavae", "flows")

Result = tuple[dict[str, Any], str]
"""What a command returns: its JSON object, and the lines for a person."""


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
        return error.exit_status
    except KeyboardInterrupt:
        print("pikavae: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return PREEMPTED
    as_json = "--json" in words
    if text:
        print(text, file=sys.stderr if as_json else sys.stdout)
    if as_json:
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


def command_named(name: str) -> Callable[[list[str]], Result]:
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


def run(words: list[str]) -> Result:
    """Prepare, train, evaluate and register, as a Prefect flow."""
    options = preset_options("run", words, RunOptions)
    from pikavae import operations

    plans = operations.plan(options.config)  # the user's mistakes show before a server is started
    finished = all(stage.status == "hit" for stage in plans.values()) and not options.fresh
    if finished:
        done = operations.run(options.config)
    else:
        from flows.environment import end_orphaned_servers, set_up_prefect

        set_up_prefect(operations.home())
        end_orphaned_servers(operations.home())
        from flows.pipeline import pipeline

        done = pipeline(options.config, fresh=options.fresh)
    return done, closing_lines(done)


def closing_lines(done: dict[str, Any]) -> str:
    """What a person wants to know at the end of a run."""
    from pikavae import operations

    folder, program = Path(done["report"]), sys.argv[0]
    work = ", ".join(f"{name} {stage['status']} in {stage['seconds']:.0f} s" for name, stage in done["stages"].items())
    return "\n".join(
        [
            "",
            operations.load_report(folder).table(),
            "",
            f"{work}.",
            f"Registered as {done['model']} version {done['version']}.",
            "",
            f"Reconstructions:       {folder / 'panel.png'}",
            f"Browse this run:       {program} ui --run {done['run_id']}",
            f"Try your own picture:  {program} reconstruct {done['version']} PICTURE.png --out reconstructions",
            f"Put it in production:  {program} promote {done['version']} --reason 'why'",
            f"All versions:          {program} models list",
        ]
    )


def plan(words: list[str]) -> Result:
    """Say what `run` would do: what is used again, what runs, and which input changed."""
    options = preset_options("plan", words, Options)
    from pikavae import operations

    plans = operations.plan(options.config)
    lines = [f"{name:<10}{stage.status:<8}{stage.reason}" for name, stage in plans.items()]
    return {"stages": {name: asdict(stage) for name, stage in plans.items()}}, "\n".join(lines)


def prepare(words: list[str]) -> Result:
    """Prepare the pictures only."""
    options = preset_options("prepare", words, Options)
    from pikavae import operations

    pictures = operations.prepare(options.config).pictures
    result = {
        "fingerprint": pictures.fingerprint,
        "num_images": pictures.record["num_images"],
        "num_quarantined": pictures.record["num_quarantined"],
        "path": str(pictures.path),
    }
    aside = [f"set aside: {item['name']}: {item['reason']}" for item in pictures.record["quarantined"]]
    return result, "\n".join([str(pictures.path), *aside])


def train(words: list[str]) -> Result:
    """Prepare and train only."""
    options = preset_options("train", words, RunOptions)
    from pikavae import operations

    trained = operations.train(options.config, operations.prepare(options.config), fresh=options.fresh)
    kept = ("start_step", "steps", "images_seen", "images_per_second")
    result = {"run_id": trained.run.run_id, **{name: trained.result[name] for name in kept}}
    return {**result, "snapshot": str(trained.snapshot)}, f"run {trained.run.run_id}\n{trained.snapshot}"


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


def evaluate(words: list[str]) -> Result:
    """Measure any model on a frozen set of pictures."""
    model, extra, options = model_options("evaluate", words, Options)
    refuse_extra(extra)
    from pikavae import operations

    evaluated = operations.evaluate_model(model, options.config)
    return {"metrics": dict(evaluated.report.metrics), "report": str(evaluated.folder)}, "\n".join(
        [evaluated.report.table(), "", f"Report: {evaluated.folder}"]
    )


def register(words: list[str]) -> Result:
    """Register a snapshot of a run as a candidate version."""
    model, extra, options = model_options("register", words, Options)
    refuse_extra(extra)
    from pikavae import operations

    version = operations.register_model(model, options.config).version
    return {"model": version.name, "version": version.version}, f"{version.name} version {version.version}"


def reconstruct(words: list[str]) -> Result:
    """Encode and decode picture files of any size."""
    model, images, options = model_options("reconstruct", words, ReconstructOptions)
    if not images:
        raise UserError("reconstruct: name at least one picture file after the model")
    from pikavae import operations

    files = operations.reconstruct(model, [Path(image) for image in images], Path(options.out), options.config)
    return {"files": [str(file) for file in files]}, "\n".join(map(str, files))


def promote(words: list[str]) -> Result:
    """Make a version the champion: `promote V --reason TEXT`, or run:<id>[@step]."""
    names, flags = split_words(words)
    if len(names) != 1:
        raise UserError("promote: name one version number, or run:<id>[@step or @best]")
    from pikavae import operations

    base = operations.config_of_model(names[0]) if names[0].startswith("run:") else Config()
    options = parse_options(ReasonOptions, base, flags, f"pikavae promote {names[0]}")
    done = operations.promote(names[0], options.config, reason=options.reason)
    said = f"version {done.version} is champion" if done.changed else f"version {done.version} is champion already"
    return operations.promotion_result(done), f"{said} (production version {done.production_version})"


def rollback(words: list[str]) -> Result:
    """Make the previous champion the champion again: `rollback --reason TEXT`."""
    names, flags = split_words(words)
    refuse_extra(names)
    options = parse_options(ReasonOptions, Config(), flags, "pikavae rollback")
    from pikavae import operations

    done = operations.rollback(reason=options.reason)
    return operations.promotion_result(done), f"version {done.version} is champion again"


def models(words: list[str]) -> Result:
    """List the versions, show one, or tell what was promoted: `models list`, `show V`, `history`."""
    names, flags = split_words(words)
    options = parse_options(Options, Config(), flags, "pikavae models")
    from pikavae import operations

    match names:
        case [] | ["list"]:
            found = operations.list_models(options.config)
        case ["history"]:
            return history_result(operations.history())
        case ["show", number] if number.isdecimal():
            found = [operations.show_model(int(number), options.config)]
        case _:
            raise UserError(f"models {' '.join(names)}: expected `models list`, `models show V` or `models history`")
    versions = [asdict(version) for version in found]
    if names[:1] == ["show"]:
        return {"versions": versions}, "\n".join(f"{name}: {value}" for name, value in versions[0].items())
    lines = [
        f"{version.name} {version.version:>4}  psnr {version.metrics.get('val/psnr', float('nan')):6.2f}  "
        f"run {version.run_id}  {', '.join(version.aliases)}"
        for version in found
    ]
    return {"versions": versions}, "\n".join(lines) or "no version is registered yet; `pikavae run` registers one"


def history_result(events: list[dict[str, Any]]) -> Result:
    """The ledger for a person: what became champion, when, by whom and why."""
    lines = [
        f"{event['time']}  {event['action']:<8}  {event['champion_before'] or '-'} -> {event['champion_after']}  "
        f"{event['actor']}  {event['reason']!r}"
        for event in events
        if event["state"] == "done"
    ]
    return {"events": events}, "\n".join(lines) or "nothing was promoted yet; `pikavae promote V --reason TEXT` does"


def ui(words: list[str]) -> Result:
    """Serve the MLflow UI on 127.0.0.1 until Ctrl-C."""
    names, flags = split_words(words)
    refuse_extra(names)
    options = parse_options(UiOptions, Config(), flags, "pikavae ui")
    from pikavae import operations

    return operations.serve_mlflow(options.port, options.run, options.config), ""


def doctor(words: list[str]) -> Result:
    """Say what is here, what is missing, and how to mend it."""
    names, flags = split_words(words)
    refuse_extra(names)
    parse_options(Options, Config(), flags, "pikavae doctor")
    from pikavae import operations

    checks = operations.doctor()
    lines = [
        f"{check.status:<8} {check.name:<14} {check.detail}" + (f"; {check.remedy}" if check.remedy else "")
        for check in checks
    ]
    return {"checks": [asdict(check) for check in checks]}, "\n".join(lines)


def refuse_extra(words: list[str]) -> None:
    """Raise a UserError when a command was given words that it does not take."""
    if words:
        raise UserError(f"{words[0]!r}: this command takes no such word; flags begin with --")


COMMANDS: dict[str, Callable[[list[str]], Result]] = {
    "run": run,
    "plan": plan,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "register": register,
    "reconstruct": reconstruct,
    "promote": promote,
    "rollback": rollback,
    "models": models,
    "ui": ui,
    "doctor": doctor,
}

if __name__ == "__main__":
    sys.exit(main())
