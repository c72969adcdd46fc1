"""The commands around the work: services, schedules, the MLflow UI alone, and what is missing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from flows.options import Options, ScheduleOptions, UiOptions, UpOptions, parse_options
from flows.words import Result, preset_options, refuse_extra, split_words
from pikavae.config import Config
from pikavae.errors import UserError


def ui(words: list[str]) -> Result:
    """Serve the MLflow UI on 127.0.0.1 until Ctrl-C."""
    names, flags = split_words(words)
    refuse_extra(names)
    options = parse_options(UiOptions, Config(), flags, "pikavae ui")
    from pikavae import operations

    operations.serve_mlflow(options.port, options.run, options.config, _announce(options))
    return {}, ""


def up(words: list[str]) -> Result:
    """Start MLflow, Prefect's server, the deployments and a worker on 127.0.0.1; Ctrl-C ends all."""
    names, flags = split_words(words)
    refuse_extra(names)
    options = parse_options(UpOptions, Config(), flags, "pikavae up")
    from flows.services import up as start_services

    start_services(options.mlflow_port, options.prefect_port, options.config, _announce(options))
    return {}, ""


def _announce(options: Options) -> Callable[[Mapping[str, str]], None]:
    """Says where the services are, at the moment when they answer: they run on until they are stopped."""

    def announce(urls: Mapping[str, str]) -> None:
        lines = [*(f"{name:<13}{url}" for name, url in urls.items()), "Ready. Ctrl-C ends it."]
        print("\n".join(lines), file=sys.stderr if options.json else sys.stdout, flush=True)
        if options.json:
            print(json.dumps({"urls": dict(urls)}), flush=True)

    return announce


def schedule(words: list[str]) -> Result:
    """Retrain by a clock: `schedule [PRESET] --cron LINE --timezone ZONE`; `schedule list`, `schedule remove NAME`."""
    names, flags = split_words(words)
    if names[:1] in (["list"], ["remove"]) and not {"-h", "--help"} & set(flags):
        options: Options = parse_options(Options, Config(), flags, f"pikavae schedule {names[0]}")
    else:
        options = preset_options("schedule", words, ScheduleOptions)
    from flows.environment import set_up_prefect
    from pikavae import operations

    set_up_prefect(operations.home())
    if "PREFECT_API_URL" not in os.environ:
        raise UserError(
            "schedule: no Prefect server runs for this state folder; start `pikavae up`, or set PREFECT_API_URL"
        )
    from flows import deployments

    if isinstance(options, ScheduleOptions):
        if not options.cron:
            raise UserError('schedule: --cron is missing; "0 3 * * 1" is Mondays at 3:00')
        line = deployments.cron_schedule(options.cron, options.timezone, where="--cron and --timezone")
        name = options.name or Path(names[0] if names else "demo").stem
        found = [deployments.schedule_retrain(options.config, name, line, from_champion=options.from_champion)]
    else:
        if names[0] == "remove":
            if len(names) != 2:
                raise UserError("schedule remove: name one schedule; `pikavae schedule list` lists them")
            deployments.remove_schedule(names[1].removeprefix("retrain/"))
        else:
            refuse_extra(names[1:])
        found = deployments.list_schedules()
    lines = [
        f"{item.name:<24} {item.cron:<16} {item.timezone:<16} {f'next {item.next}' if item.active else 'paused'}"
        for item in found
    ]
    return {"schedules": [asdict(item) for item in found]}, "\n".join(lines) or "nothing is scheduled"


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
