"""The commands of the registry: ask for a promotion, approve it, roll back, look."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from flows.options import ModelsOptions, PromoteOptions, ReasonOptions, parse_options
from flows.words import Result, refuse_extra, split_words
from pikavae.config import Config
from pikavae.errors import DisagreementError, GateError, UserError

if TYPE_CHECKING:
    from pikavae.operations import Promoted, Repaired, Verified

AnyReason = TypeVar("AnyReason", bound=ReasonOptions)


def promote(words: list[str]) -> Result:
    """Ask for a version to become champion: `promote V --reason TEXT`, or run:<id>[@step]; gates measure it."""
    names, flags = split_words(words)
    if len(names) != 1:
        raise UserError("promote: name one version number, or run:<id>[@step or @best]")
    options = _over_model(names[0], flags, PromoteOptions, f"pikavae promote {names[0]}")
    from pikavae import operations

    done = operations.promote(names[0], options.config, reason=options.reason, force=options.force)
    if done.command is None:
        return done.result(), _promoted(done)
    lines = [f"version {done.version} waits for approval:", *operations.verdict_lines(done.verdicts), done.command]
    raise GateError("\n".join(lines), done.result())


def approve(words: list[str]) -> Result:
    """Complete a promotion that was asked for: `approve V --reason TEXT`."""
    names, flags = split_words(words)
    if len(names) != 1 or not names[0].isdecimal():
        raise UserError("approve: name one version number; `pikavae models list` lists them")
    options = _over_model(names[0], flags, ReasonOptions, f"pikavae approve {names[0]}")
    from pikavae import operations

    done = operations.approve(int(names[0]), options.config, reason=options.reason)
    return done.result(), _promoted(done)


def _over_model(model: str, flags: list[str], kind: type[AnyReason], program: str) -> AnyReason:
    """Options over the configuration that made the model, of the registered model that the flags name."""
    stated = parse_options(kind, Config(), flags, program)
    if not stated.reason.strip():
        raise UserError("--reason: it is empty; say why, for those who read the ledger later")
    from pikavae import operations

    base = operations.config_of_model(model, stated.config.registry.model_name)
    return parse_options(kind, base, flags, program)


def _promoted(done: Promoted) -> str:
    said = "is champion" if done.changed else "is champion already"
    return f"version {done.version} {said} (production version {done.production_version})"


def rollback(words: list[str]) -> Result:
    """Make the previous champion the champion again: `rollback --reason TEXT`."""
    names, flags = split_words(words)
    refuse_extra(names)
    options = parse_options(ReasonOptions, Config(), flags, "pikavae rollback")
    from pikavae import operations

    done = operations.rollback(reason=options.reason)
    return done.result(), f"version {done.version} is champion again"


def models(words: list[str]) -> Result:
    """The registry: `models [list]`, `show V`, `lineage V`, `history`; `verify` it by its ledger, `repair` the rest."""
    names, flags = split_words(words)
    options = parse_options(ModelsOptions, Config(), flags, "pikavae models")
    from pikavae import operations

    match names:
        case [] | ["list"]:
            found = operations.list_models(options.config)
        case ["history"]:
            return history_result(operations.history())
        case ["lineage", number] if number.isdecimal():
            links = operations.lineage(int(number), options.config)
            return {"lineage": [asdict(link) for link in links]}, "\n".join(map(operations.line_of, links))
        case ["verify"]:
            return verified(operations.verify(every=options.all))
        case ["repair"]:
            return repaired(operations.repair(every=options.all, head=options.head))
        case ["show", number] if number.isdecimal():
            found = [operations.show_model(int(number), options.config)]
        case _:
            expected = "`models list`, `show V`, `lineage V`, `history`, `verify` or `repair`"
            raise UserError(f"models {' '.join(names)}: expected {expected}")
    standings = [asdict(operations.standing_of(version)) for version in found]
    versions = [{**asdict(version), **standing} for version, standing in zip(found, standings, strict=True)]
    if names[:1] == ["show"]:
        first = {name: versions[0][name] for name in ("name", "version", *standings[0])}
        return {"versions": versions}, "\n".join(
            f"{name}: {_told(value)}" for name, value in {**first, **versions[0]}.items()
        )
    lines = [
        f"{version.name} {version.version:>4}  psnr {version.metrics.get('val/psnr', float('nan')):6.2f}  "
        f"run {version.run_id}  {standing['role']}"
        for version, standing in zip(found, standings, strict=True)
    ]
    return {"versions": versions}, "\n".join(lines) or "no version is registered yet; `pikavae run` registers one"


def _told(value: object) -> str:
    """A field of a version for a person."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {inner}" for name, inner in value.items() if inner not in (None, (), []))
    return "never asked for" if value is None else str(value)


def verified(found: Verified) -> Result:
    """That all agrees, for a person.

    Raises:
        DisagreementError: it does not.
    """
    result = asdict(found)
    if found.disagreements:
        raise DisagreementError("\n".join(left.what for left in found.disagreements), result)
    head = f", the last of them {found.head}" if found.head else ""
    return result, f"{found.num_events} events{head}; {found.num_folders} versions read byte by byte: all agrees"


def repaired(found: Repaired) -> Result:
    """What was done, for a person.

    Raises:
        DisagreementError: something could not be mended.
    """
    result = asdict(found)
    if found.left:
        raise DisagreementError("\n".join([*found.done, *(left.what for left in found.left)]), result)
    return result, "\n".join(found.done) or "there was nothing to repair"


def history_result(events: list[dict[str, Any]]) -> Result:
    """The ledger for a person: what was asked for, approved and made champion, when, by whom and why."""
    lines = [
        f"{event['time']}  {event['action']:<8}  {_moved(event)}  {event['actor']}  {event['reason']!r}"
        for event in events
        if event["state"] == "done"
    ]
    return {"events": events}, "\n".join(lines) or "nothing was promoted yet; `pikavae promote V --reason TEXT` does"


def _moved(event: dict[str, Any]) -> str:
    if event["action"] in {"promote", "rollback"}:
        return f"{event['champion_before'] or '-'} -> {event['champion_after']}"
    forced = f", overridden: {', '.join(event['overridden'])}" if event["overridden"] else ""
    return f"{event['version']} ({(event['verdicts'] or {}).get('outcome', '?')}{forced})"
