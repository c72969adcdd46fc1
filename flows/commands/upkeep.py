"""Run the services, set schedules, show MLflow's pages, and maintain the state folder."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flows.command import Arguments, Result
from flows.options import (
    HousekeepingOptions,
    Options,
    PruneOptions,
    RelocateOptions,
    ScheduleOptions,
    ScheduleWatchOptions,
    UiOptions,
    UpOptions,
)
from flows.tables import table
from flows.terminal import show
from pikavae.errors import UserError

if TYPE_CHECKING:
    from flows.schedules import Schedule
    from pikavae.process.access import Access

NOT_IN_NAMES = set("/%&<>")
"""Prefect refuses these characters in names of deployments."""


def ui(arguments: Arguments[UiOptions]) -> Result:
    """Serve MLflow's pages until Ctrl-C, or show their address if they are served already."""
    import psutil

    from flows.environment import UI_NAME, Services, running_services
    from pikavae import operations
    from pikavae.process.marks import mark_of

    options, config, workspace = arguments.options, arguments.config, arguments.workspace
    home = workspace.home
    served = running_services(home) or running_services(home, UI_NAME)
    base = served.mlflow if served else workspace.server
    if base is not None:
        url = operations.mlflow_page(workspace, base, config, options.run)
        return {"urls": {"mlflow": url}}, f"{'mlflow':<13}{url}"
    announce = _announce(options)

    def ready(urls: Mapping[str, str]) -> None:
        address = f"http://127.0.0.1:{options.port}"
        Services(owner=mark_of(psutil.Process()), mlflow=address, prefect=None).save(home, UI_NAME)
        announce(urls)

    try:
        operations.serve_mlflow(workspace, options.port, options.run, config, ready)
    finally:
        (home / UI_NAME).unlink(missing_ok=True)
    return {}, ""


def up(arguments: Arguments[UpOptions]) -> Result:
    """Run MLflow, Prefect's server, the deployments and a worker until Ctrl-C."""
    from flows.services import up as start_services
    from pikavae.process.access import Access, read_credentials

    options = arguments.options
    access = Access(options.host, options.public_name, read_credentials())
    if options.write_systemd is not None or options.write_compose is not None:
        return _write_units(options, access, arguments.workspace.home)
    tell = partial(show, stream=sys.stderr if options.json else sys.stdout)
    start_services(options.mlflow_port, options.prefect_port, access, arguments.config, _announce(options), tell)
    return {}, ""


def _write_units(options: UpOptions, access: Access, home: Path) -> Result:
    """Write the files of a service manager, and say how to use them."""
    from flows.units import compose_file, describe_box, systemd_unit, write_unit

    box = describe_box(access, options.mlflow_port, options.prefect_port, home)
    files, lines = {}, []
    if options.write_systemd is not None:
        path = Path(options.write_systemd).expanduser().absolute()
        write_unit(path, systemd_unit(box), "--write-systemd")
        files["systemd"] = str(path)
        lines += [f"wrote {path}", f"  systemctl --user enable --now {path}", "  loginctl enable-linger"]
    if options.write_compose is not None:
        path = Path(options.write_compose).expanduser().absolute()
        write_unit(path, compose_file(box), "--write-compose")
        files["compose"] = str(path)
        lines += [f"wrote {path}", f"  docker compose --file {path} up --detach --build"]
    return {"files": files}, "\n".join(lines)


def _announce(options: Options) -> Callable[[Mapping[str, str]], None]:
    """Return a function that shows the services' addresses once they answer, since the services run until stopped."""

    def announce(urls: Mapping[str, str]) -> None:
        lines = [*(f"{name:<13}{url}" for name, url in urls.items()), "Ready. Ctrl-C ends everything."]
        show("\n".join(lines), sys.stderr if options.json else sys.stdout)
        if options.json:
            show(json.dumps({"urls": dict(urls)}), sys.stdout)

    return announce


def schedule(arguments: Arguments[ScheduleOptions]) -> Result:
    """Retrain by a clock."""
    (preset,), options = arguments.names, arguments.options
    name = options.name or Path(preset).stem
    _check_name(name)
    from pikavae import operations

    labels = operations.read_labels(preset, note=options.note, tags=options.tag)
    config = operations.settle(arguments.workspace, arguments.config, from_champion=options.from_champion)
    _set_up_prefect(arguments.workspace.home)
    from flows import rules, schedules

    cron = rules.cron_schedule(options.cron, options.timezone, where="--")
    _require_server()
    return schedules_result(
        [schedules.schedule_retrain(config, name, cron, from_champion=options.from_champion, labels=labels)]
    )


def schedule_watch(arguments: Arguments[ScheduleWatchOptions]) -> Result:
    """Watch the champion by a clock."""
    options = arguments.options
    _check_name(options.name)
    from pikavae import operations

    settings = operations.settle_watch(arguments.workspace, arguments.settings)
    _set_up_prefect(arguments.workspace.home)
    from flows import rules, schedules

    cron = rules.cron_schedule(options.cron, options.timezone, where="--")
    _require_server()
    return schedules_result([schedules.schedule_watch(settings, options.name, cron, tolerance=options.tolerance)])


def _check_name(name: str) -> None:
    if refused := sorted(set(name) & NOT_IN_NAMES):
        raise UserError(f"--name {name!r}: Prefect takes no {refused[0]} in a name; choose another")


def list_schedules(arguments: Arguments[Options]) -> Result:
    """List the schedules."""
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows import schedules

    return schedules_result(schedules.list_schedules())


def remove_schedule(arguments: Arguments[Options]) -> Result:
    """Remove a schedule, and list the others."""
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows import schedules

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
    from flows import schedules

    schedules.set_active(arguments.names[0], active=active)
    return schedules_result(schedules.list_schedules())


def run_schedule(arguments: Arguments[Options]) -> Result:
    """Ask for a run of a schedule now."""
    _set_up_prefect(arguments.workspace.home)
    _require_server()
    from flows import schedules

    name = arguments.names[0]
    run_id, page = schedules.run_now(name)
    return {"flow_run": run_id, "url": page}, f"{name} runs as soon as a worker is free; {page}"


def _set_up_prefect(home: Path) -> None:
    from flows.environment import import_prefect, set_up_prefect

    set_up_prefect(home)
    import_prefect()


def _require_server() -> None:
    if "PREFECT_API_URL" not in os.environ:
        raise UserError(
            "schedule: no Prefect server runs for this state folder; start `pikavae up`, or set PREFECT_API_URL"
        )
    from flows.lost_runs import crash_runs_without_owner

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
    return {"schedules": [asdict(item) for item in found]}, "\n".join(lines) or "nothing is scheduled"


def doctor(arguments: Arguments[Options]) -> Result:
    """Check the machine."""
    from pikavae import operations

    checks = operations.doctor(arguments.workspace)
    lines = [
        f"{check.status:<8} {check.name:<14} {check.detail}" + (f"; {check.remedy}" if check.remedy else "")
        for check in checks
    ]
    return {"checks": [asdict(check) for check in checks]}, "\n".join(lines)


def prune(arguments: Arguments[PruneOptions]) -> Result:
    """Free disk space."""
    from pikavae import operations

    options = arguments.options
    removed = operations.prune(arguments.workspace, keep=options.keep, dry_run=options.dry_run)
    total = sum(item.bytes for item in removed)
    verb = "would go" if options.dry_run else "removed"
    lines = [
        f"{verb} {item.what}{f', run {item.run_id}' if item.run_id else ''}"
        f"{'' if item.step is None else f' step {item.step}'}, {item.bytes / 1e6:.1f} MB: {item.reason}"
        for item in removed
    ]
    lines.append(f"{len(removed)} things, {total / 1e6:.1f} MB {'would go' if options.dry_run else 'removed'}.")
    result = {
        "removed": [
            {"what": item.what, "run_id": item.run_id, "step": item.step, "bytes": item.bytes} for item in removed
        ],
        "bytes": total,
        "dry_run": options.dry_run,
    }
    return result, "\n".join(lines)


def housekeeping(arguments: Arguments[HousekeepingOptions]) -> Result:
    """Keep the state folder in order."""
    workspace = arguments.workspace
    _set_up_prefect(workspace.home)
    from flows.housekeeping import keep_house, require_order

    server = "PREFECT_API_URL" in os.environ
    done = keep_house(workspace, keep_backups=arguments.options.keep_backups, server=server)
    result, text = done.content(), "\n".join(done.lines())
    if not done.ok:
        show(text, sys.stderr if arguments.options.json else sys.stdout)
        require_order(done)
    return result, text


def relocate(arguments: Arguments[RelocateOptions]) -> Result:
    """Correct MLflow's addresses after the state folder was moved."""
    from pikavae import operations

    options = arguments.options
    done = operations.relocate(arguments.workspace, options.old, dry_run=options.dry_run)
    total = sum(done.addresses.values())
    result = {
        "from": None if done.old is None else str(done.old),
        "to": str(done.new),
        "addresses": dict(done.addresses),
        "backup": None if done.backup is None else str(done.backup),
        "dry_run": options.dry_run,
    }
    if done.old is None:
        return result, f"every address is one of {done.new} already"
    verb = "would change" if options.dry_run else "changed"
    lines = [f"{total} addresses {verb} from {done.old} to {done.new}"]
    lines += [f"  {count:>6}  {column}" for column, count in done.addresses.items()]
    return result, "\n".join([*lines, *([f"The earlier database: {done.backup}"] if done.backup else [])])
