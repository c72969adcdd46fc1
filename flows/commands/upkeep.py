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

from flows.terminal.command import Arguments, Result
from flows.terminal.options import (
    HousekeepingOptions,
    Options,
    PruneOptions,
    RelocateOptions,
    UiOptions,
    UpOptions,
)
from flows.terminal.output import show

if TYPE_CHECKING:
    from pikavae.process.access import Access


def ui(arguments: Arguments[UiOptions]) -> Result:
    """Serve MLflow's pages until Ctrl-C, or show their address if they are served already."""
    import psutil

    from flows.server.environment import UI_NAME, Services, running_services
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
    from flows.up.services import up as start_services
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
    from flows.up.units import compose_file, describe_box, systemd_unit, write_unit

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


def doctor(arguments: Arguments[Options]) -> Result:
    """Check the machine."""
    from pikavae import operations

    account = operations.account_of(arguments.workspace.home)
    checks = operations.doctor(arguments.workspace, account)
    lines = [
        f"{check.status:<8} {check.name:<14} {check.detail}" + (f"; {check.remedy}" if check.remedy else "")
        for check in checks
    ]
    used = {name: one.numbers() for name, one in account.experiments.items()}
    result = {
        "checks": [asdict(check) for check in checks],
        "used": {"total": account.total.numbers(), "experiments": used, "disk_bytes": account.disk},
    }
    return result, "\n".join(lines)


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
    from flows.server.environment import import_prefect, set_up_prefect

    workspace = arguments.workspace
    set_up_prefect(workspace.home)
    import_prefect()
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
