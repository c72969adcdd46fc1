"""List the commands that set and manage schedules."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flows.commands import schedule
from flows.terminal import options
from flows.terminal.command import ALL, ONE_PRESET, PRESET, Command, Positional
from pikavae.production.judgements.watches import SETTINGS as WATCHED

SCHEDULE = Positional(
    "NAME", "a name that `schedule list` shows", "name one schedule; `pikavae schedule list` lists them"
)


@dataclass(frozen=True)
class Timed:
    """Describes a deployment of prefect.yaml that the terminal can give a schedule.

    Attributes:
        deployment: its flow and name.
        summary: what its schedule does, in a line.
        about: more that its help says.
        cron: the example's cron line.
        options: its options; those that are not of the clock are the flow's parameters, by the same names.
    """

    deployment: str
    summary: str
    about: str
    cron: str
    options: type[options.ClockOptions] = options.ClockOptions


TIMED = {
    "housekeeping": Timed(
        "housekeeping/housekeeping",
        "Keep the state folder in order by a clock.",
        "It does what the command `housekeeping` does, while `up` runs. The same command again replaces the schedule.",
        "0 4 * * *",
        options.HousekeepingScheduleOptions,
    ),
}
"""Deployments that `schedule NAME` schedules, besides retraining: one row for each."""


def _command(name: str, row: Timed) -> Command:
    line = f'schedule {name} --cron "{row.cron}"'
    return Command(
        partial(schedule.schedule_deployment, row.deployment),
        row.summary,
        about=row.about,
        options=row.options,
        examples=(line, f"{line} --timezone Europe/Berlin"),
    )


SCHEDULE_COMMANDS: dict[str, Command] = {
    "schedule": Command(
        schedule.schedule,
        "Retrain by a clock, while `up` runs.",
        about="A scheduled run trains only if pictures, settings or code changed.",
        positionals=(PRESET,),
        options=options.ScheduleOptions,
        settings=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=('schedule demo --cron "0 3 * * 1"', 'schedule demo --cron "0 3 * * *" --timezone Europe/Berlin'),
    ),
    "schedule when-new": Command(
        schedule.schedule_new_data,
        "Retrain when a source has new pictures, while `up` runs.",
        about="The source is polled by the clock. It is trained on when enough is new and no file is being copied, and "
        "refused if the new pictures are worse than those before; `schedule list` says what each poll decided.",
        positionals=(PRESET,),
        options=options.NewDataOptions,
        settings=ALL,
        base="preset",
        extra=ONE_PRESET,
        examples=(
            "schedule when-new demo --data.source path/to/pictures --at-least 50",
            "schedule when-new finetune --data.source hub:ORG/NAME --at-least 10%",
        ),
    ),
    "schedule watch": Command(
        schedule.schedule_watch,
        "Watch the champion by a clock, while `up` runs.",
        about="It does what `watch` does, with whichever version is champion then. Those who are told of the event "
        "champion_fell find out.",
        options=options.ScheduleWatchOptions,
        settings=WATCHED,
        base="champion",
        extra="this command takes no such word; pictures are named by --data.source",
        examples=(
            'schedule watch --cron "0 6 * * *" --data.source path/to/new/pictures',
            'schedule watch --cron "0 6 * * 1" --tolerance 0.5 --name weekly',
        ),
    ),
    **{f"schedule {name}": _command(name, row) for name, row in TIMED.items()},
    "schedule list": Command(
        schedule.list_schedules,
        "List the schedules: their next times and last results.",
        examples=("schedule list", "schedule list --json"),
    ),
    "schedule pause": Command(
        schedule.pause_schedule,
        "Keep a schedule, and let it not fire.",
        positionals=(SCHEDULE,),
        examples=("schedule pause demo", "schedule pause retrain/demo"),
    ),
    "schedule resume": Command(
        schedule.resume_schedule,
        "Let a paused schedule fire again.",
        positionals=(SCHEDULE,),
        examples=("schedule resume demo", "schedule resume retrain/demo"),
    ),
    "schedule run": Command(
        schedule.run_schedule,
        "Run what is scheduled now, besides its times.",
        about="It prints the page of the run and ends; `up` says how the run ends. A paused schedule runs too.",
        positionals=(SCHEDULE,),
        examples=("schedule run demo", "schedule run retrain/demo --json"),
    ),
    "schedule remove": Command(
        schedule.remove_schedule,
        "Remove a schedule.",
        positionals=(SCHEDULE,),
        examples=("schedule remove demo", "schedule remove retrain/demo"),
    ),
}
