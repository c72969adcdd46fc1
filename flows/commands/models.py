"""The commands of the registry: promote, roll back, look."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from flows.options import Options, ReasonOptions, parse_options
from flows.words import Result, refuse_extra, split_words
from pikavae.config import Config
from pikavae.errors import UserError


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
