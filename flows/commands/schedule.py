"""Set schedules, list them, and pause, resume, run and remove them."""

from __future__ import annotations

import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flows.terminal.command import Arguments, Result
from flows.terminal.options import ClockOptions, NewDataOptions, Options, ScheduleOptions, ScheduleWatchOptions
from flows.terminal.tables import minute, table
from pikavae.errors import DamagedFileError, UserError

if TYPE_CHECKING:
    from flows.scheduling.schedules import Schedule

NOT_IN_NAMES = set("/%&<>")
"""Prefect refuses these characters in names of deployments."""


def schedule(arguments: Arguments[ScheduleOptions]) -> Result:
    """Retrain by a clock."""
    options, name = arguments.options, _name_of(arguments.names[0], arguments.options.name)
    from pikavae import operations

    labels = operations.read_labels(arguments.names[0], note=options.note, tags=options.tag)
    config = operations.settle(arguments.workspace, arguments.config, from_champion=options.from_champion)
    _set_up_prefect(arguments.workspace.home)
    from flows.scheduling import rules, schedules

    cron = rules.cron_schedule(options.cron, options.timezone, where="--")
    _require_server()
    return schedules_result(
        [schedules.schedule_retrain(config, name, cron, from_champion=options.from_champion, labels=labels)]
    )


def schedule_new_data(arguments: Arguments[NewDataOptions]) -> Result:
    """Retrain when there are enough new pictures."""
    from pikavae import operations

    options, name = arguments.options, _name_of(arguments.names[0], arguments.options.name)
    labels = operations.read_labels(arguments.names[0], note=options.note, tags=options.tag)
    amount = operations.Amount.parse(options.at_least, "--at-least")
    operations.check_new_data(arguments.config)
    config = operations.settle(arguments.workspace, arguments.config, from_champion=options.from_champion)
    _set_up_prefect(arguments.workspace.home)
    from flows.scheduling import rules, schedules

    cron = rules.cron_schedule(options.cron, options.timezone, where="--")
    _require_server()
    made = schedules.schedule_new_data(
        config,
        name,
        cron,
        {
            "at_least": options.at_least,
            "quiet_minutes": options.quiet_minutes,
            "from_champion": options.from_champion,
            "tries": options.tries,
            "limits": {field: getattr(options, f"max_{field}") for field in operations.Limits.model_fields},
        },
        f"Trains on `{config.data.source}` again when {amount} new pictures are there.",
        labels=labels,
    )
    return schedules_result([made])


def schedule_watch(arguments: Arguments[ScheduleWatchOptions]) -> Result:
    """Watch the champion by a clock."""
    options, name = arguments.options, _name_of("watch", arguments.options.name)
    from pikavae import operations

    settings = operations.settle_watch(arguments.workspace, arguments.settings)
    _set_up_prefect(arguments.workspace.home)
    from flows.scheduling import rules, schedules

    cron = rules.cron_schedule(options.cron, options.timezone, where="--")
    _require_server()
    return schedules_result([schedules.schedule_watch(settings, name, cron, tolerance=options.tolerance)])


def schedule_deployment(deployment: str, arguments: Arguments[ClockOptions]) -> Result:
    """Give a deployment of prefect.yaml a schedule, with the options that are not of the clock as its parameters."""
    options = arguments.options
    clock = {field.name for field in fields(ClockOptions)}
    parameters = {field.name: getattr(options, field.name) for field in fields(options) if field.name not in clock}
    _set_up_prefect(arguments.workspace.home)
    from flows.scheduling import rules, schedules

    cron = rules.cron_schedule(options.cron, options.timezone, where="--")
    _require_server()
    return schedules_result([schedules.schedule_deployment(deployment, cron, parameters)])


def _name_of(preset: str, given: str) -> str:
    """Return the name of a schedule: the given one, or the preset's.

    Raises:
        UserError: Prefect takes no such name.
    """
    name = given or Path(preset).stem
    if refused := sorted(set(name) & NOT_IN_NAMES):
        raise UserError(f"--name {name!r}: Prefect takes no {refused[0]} in a name; choose another")
    return name


def list_schedules(arguments: Arguments[Options]) -> Result:
    """List the schedules."""
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows.scheduling import schedules

    return schedules_result(add_decisions(schedules.list_schedules(), arguments.workspace.home))


def add_decisions(found: list[Schedule], home: Path) -> list[Schedule]:
    """Add what the last poll for new pictures decided, as the state folder has it."""
    from flows.scheduling.schedules import NEW_DATA
    from pikavae.data.news.record import Polling

    listed = []
    for item in found:
        flow, _, name = item.name.partition("/")
        try:
            record = Polling(home, name).read() if flow == NEW_DATA else None
        except DamagedFileError:  # the next poll reports it
            record = None
        last = record.decisions[-1] if record is not None and record.decisions else None
        listed.append(item if last is None else replace(item, decision=last.words, decided=last.until))
    return listed


def remove_schedule(arguments: Arguments[Options]) -> Result:
    """Remove a schedule, and list the others."""
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows.scheduling import schedules

    schedules.remove_schedule(arguments.names[0])
    return schedules_result(schedules.list_schedules())


def pause_schedule(arguments: Arguments[Options]) -> Result:
    """Pause a schedule, and list all."""
    return _set_active(arguments, active=False)


def resume_schedule(arguments: Arguments[Options]) -> Result:
    """Let a paused schedule fire again, and list all."""
    return _set_active(arguments, active=True)


def _set_active(arguments: Arguments[Options], *, active: bool) -> Result:
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows.scheduling import schedules

    schedules.set_active(arguments.names[0], active=active)
    return schedules_result(schedules.list_schedules())


def run_schedule(arguments: Arguments[Options]) -> Result:
    """Ask for a run of a schedule now."""
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows.scheduling import schedules

    name = arguments.names[0]
    run_id, page = schedules.run_now(name)
    return {"flow_run": run_id, "url": page}, f"{name} runs as soon as a worker is free; {page}"


def _set_up_prefect(home: Path) -> None:
    from flows.server.environment import import_prefect, set_up_prefect

    set_up_prefect(home)
    import_prefect()


def _require_server() -> None:
    if "PREFECT_API_URL" not in os.environ:
        raise UserError(
            "schedule: no Prefect server runs for this state folder; start `pikavae up`, or set PREFECT_API_URL"
        )
    from flows.server.lost_runs import crash_runs_without_owner

    crash_runs_without_owner()


def schedules_result(found: list[Schedule]) -> Result:
    """Return a table of schedules."""
    rows = [
        [
            item.name,
            item.rule,
            item.timezone,
            (item.next[:16].replace("T", " ") or "ended") if item.active else "paused",
        ]
        for item in found
    ]
    lines = table(["SCHEDULE", "WHEN", "TIME ZONE", "NEXT"], rows, 1) if rows else []
    for item in found:
        if item.last:
            lines += ["", f"{item.name}, last run {item.last[:16].replace('T', ' ')}: {item.result}", item.link]
        if item.decision and item.decision not in item.result:
            lines += ["", f"{item.name}, decided {minute(item.decided)} UTC: {item.decision}"]
    return {"schedules": [asdict(item) for item in found]}, "\n".join(lines) or "nothing is scheduled"
