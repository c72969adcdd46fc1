"""Maintain the state folder: check it, move it, show MLflow's pages."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from pikavae.config import Config
from pikavae.errors import DiskError, PikavaeError, UserError
from pikavae.features.published import INCEPTION_FIELD, LPIPS_FIELD, OF_EVALUATION, digest_of
from pikavae.notify.addresses import check_recipients
from pikavae.operations.stages.accounting import Account, disk_text
from pikavae.process.access import LOCAL, Access
from pikavae.process.energy import cards_of, read_joules
from pikavae.process.servers import Server, require_free_port
from pikavae.tracker.client import Workspace
from pikavae.tracker.queries import get_run
from pikavae.tracker.relocation import BACKUP_NAME, DATABASE_NAME, moved_from, recorded_homes, rewrite
from pikavae.tracker.ui import leaderboard_url, ui_argv, ui_url
from pikavae.workspace.disks import explain, format_bytes, free_bytes, mount_point, require_place
from pikavae.workspace.files import exclusive
from pikavae.workspace.home import expand_user
from pikavae.workspace.runs import run_folder

logger = logging.getLogger(__name__)
GIB = 2**30
ROOM_FOR_A_RUN = 64 * 10**6
PACKAGES = (
    "torch",
    "torchvision",
    "datasets",
    "transformers",
    "mlflow",
    "prefect",
    "optuna",
    "fastapi",
    "sqlalchemy",
    "pillow",
)


@dataclass(frozen=True)
class Relocated:
    """Holds what `relocate` did, or with `dry_run` would do.

    Attributes:
        old: the beginning of the old addresses; None if all pointed to this folder already.
        new: the state folder.
        addresses: the number of rewritten addresses, by `table.column` of MLflow's database.
        backup: the copy of the earlier database; None if nothing was written.
    """

    old: Path | None
    new: Path
    addresses: Mapping[str, int]
    backup: Path | None


def relocate(workspace: Workspace, old: str | None = None, *, dry_run: bool = False) -> Relocated:
    """Rewrite the addresses in MLflow's database to the present place of this state folder.

    Args:
        workspace: the state folder and its store.
        old: the earlier folder; by default the one that the database names.
        dry_run: change nothing.

    Raises:
        UserError: no address in the database begins with `old`, or there is no database.
        BusyError: another process works in the folder.
        PikavaeError: the database cannot be written; it is unchanged.
    """
    database = workspace.home / DATABASE_NAME
    if not database.is_file():
        raise UserError(
            f"store relocate: no {DATABASE_NAME} in {workspace.home}; set PIKAVAE_HOME to the folder that was moved"
        )
    try:
        with ExitStack() as held:
            for lock in sorted(_locks(workspace.home)):
                held_by = f"{lock.relative_to(workspace.home)} is held: something runs in {workspace.home}"
                busy = f"store relocate: {held_by}; let it end first"
                held.enter_context(exclusive(lock, busy=busy))
            before = (
                moved_from(workspace.home) if old is None else expand_user(old, "store relocate: --from").absolute()
            )
            counts = (
                {} if before in {None, workspace.home} else rewrite(database, before, workspace.home, dry_run=dry_run)
            )
            if old is not None and not counts and before != workspace.home:
                known = ", ".join(map(str, recorded_homes(database))) or "none"
                raise UserError(
                    f"store relocate: --from {old}: no address begins with it; those of pikavae begin with: {known}"
                )
    except sqlite3.DatabaseError as error:
        raise PikavaeError(f"store relocate: {database}: {error}; nothing was changed") from None
    written = bool(counts) and not dry_run
    return Relocated(
        before if counts else None, workspace.home, counts, workspace.home / BACKUP_NAME if written else None
    )


def _locks(folder: Path) -> set[Path]:
    """Return the locks of everything that writes in a home; apart from MLflow's, only those that exist."""
    patterns = ("*.lock", "runs/*.lock", "runs/*/*.lock", "evaluations/*.lock", "prepared/locks/*.lock")
    return {folder / "mlflow.lock", *(path for pattern in patterns for path in folder.glob(pattern))}


def serve_mlflow(
    workspace: Workspace, port: int, run: str | None, config: Config, ready: Callable[[Mapping[str, str]], None]
) -> None:
    """Serve the MLflow UI until it is stopped.

    Args:
        workspace: the state folder and its store.
        port: the port on 127.0.0.1.
        run: the id of a run to open, instead of the table of runs.
        config: names the experiment.
        ready: called with the address by name once the server answers.

    Raises:
        UserError: the port is taken, there is no such run, or the store is a server already.
        PikavaeError: the server did not start, or ended unexpectedly.
    """
    require_free_port(port)
    base = f"http://127.0.0.1:{port}"
    url = mlflow_page(workspace, base, config, run)
    server = start_mlflow(workspace, port)
    try:
        server.wait_until_healthy(f"{base}/health")
        ready({"mlflow": url})
        while True:
            server.require_alive()
            time.sleep(0.5)
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        server.stop()


def mlflow_page(workspace: Workspace, base: str, config: Config, run: str | None = None) -> str:
    """Return the address of the leaderboard or a run's page on MLflow's server `base`; create a missing database."""
    client = workspace.client
    if run is None:
        return leaderboard_url(base, workspace.experiment_id(config.tracking.experiment))
    try:
        run = run_folder(workspace.home, run).run_id
    except UserError:
        if get_run(client, run) is None:  # a sweep's own run has no folder
            raise
    return ui_url(base, client.get_run(run).info.experiment_id, run)


def start_mlflow(workspace: Workspace, port: int, log: Path | None = None, access: Access = LOCAL) -> Server:
    """Start MLflow's server on the store of this home.

    Raises:
        UserError: the store is a server already.
    """
    command, environment = ui_argv(workspace, port, access)
    return Server.start("MLflow's server", command, environment, workspace.home, log)


@dataclass(frozen=True)
class Check:
    """Holds the result of one check.

    Attributes:
        name: what was checked.
        status: `ok`, `warning` (works, with a limit) or `error` (fix it first).
        detail: what was found.
        remedy: how to fix it; empty if there is nothing to fix.
    """

    name: str
    status: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


def doctor(workspace: Workspace, account: Account) -> list[Check]:
    """Check interpreter, packages, device, state folder, disk, tracking store, hub, notifications and weights.

    Args:
        workspace: the state folder and its store.
        account: what the work of this home used, which is reported too.
    """
    weights = (_weights("LPIPS weights", LPIPS_FIELD), _weights("rFID weights", INCEPTION_FIELD))
    return [
        _python(),
        *map(_package, PACKAGES),
        _device(),
        _energy(),
        _home(workspace),
        _space(workspace),
        Check("disk by kind", "ok", disk_text(account.disk)),
        *_used(account),
        _tracking(workspace),
        _hub(),
        _notifications(workspace),
        *weights,
    ]


def _used(account: Account) -> Iterator[Check]:
    """Yield what the runs of each experiment used, and all work together."""
    if not account.total.attempts:
        yield Check("used", "ok", "nothing is recorded yet; runs record what they use")
        return
    for name, used in account.experiments.items():
        runs = account.num_runs[name]
        yield Check("used", "ok", f"{used.text()} by {runs} run{'' if runs == 1 else 's'} of {name!r}")
    if account.apart.attempts:
        yield Check("used", "ok", f"{account.apart.text()} by evaluations apart from any run")
    if len(account.experiments) + bool(account.apart.attempts) > 1:
        yield Check("used", "ok", f"{account.total.text()} by all together")


def _energy() -> Check:
    """Check if the energy of training can be recorded."""
    if not torch.cuda.is_available():
        return Check("energy", "ok", "not recorded on a CPU")
    if read_joules(cards_of("cuda", 1)) is not None:
        return Check("energy", "ok", "recorded from the card's counter")
    if find_spec("pynvml") is None:
        return Check("energy", "warning", "not recorded", "`pip install nvidia-ml-py` reads the card's counter")
    return Check("energy", "ok", "not recorded: this card has no counter of it")


def _python() -> Check:
    return Check("python", "ok", ".".join(map(str, sys.version_info[:3])))


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "error", "not installed", "run `make run` again, or install with constraints.txt")


def _device() -> Check:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        return Check("device", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    detail = f"CPU with {torch.get_num_threads()} threads, no GPU"
    return Check("device", "warning", detail, "full-size models want a GPU; `demo` is made for a CPU")


def _home(workspace: Workspace) -> Check:
    path = workspace.home
    try:
        require_place(path, what="a run")
    except DiskError:  # `_space` reports it
        pass
    except PikavaeError as error:
        return Check("state folder", "error", str(error), "set PIKAVAE_HOME to a folder of yours")
    return Check("state folder", "ok", str(path))


def _space(workspace: Workspace) -> Check:
    free = free_bytes(workspace.home)
    detail = f"{format_bytes(free)} free on {mount_point(workspace.home)}"
    if free < ROOM_FOR_A_RUN:
        return Check("disk", "error", detail, "the smallest run takes more: make room")
    if free < 5 * GIB:
        return Check("disk", "warning", detail, "full-size checkpoints take about 1.4 GB each: free some")
    return Check("disk", "ok", detail)


def _tracking(workspace: Workspace) -> Check:
    uri = workspace.tracking_uri
    try:
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
            return Check("tracking", "ok", f"{uri}, made at the first run")
        _ = workspace.client
    except (PikavaeError, sqlite3.Error, OSError) as error:
        told = error if isinstance(error, PikavaeError) else explain(error, workspace.home) or error
        remedy = "start the server, or unset MLFLOW_TRACKING_URI" if uri.startswith("http") else ""
        return Check("tracking", "error", str(told), remedy)
    return Check("tracking", "ok", uri)


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return Check("hub", "warning", "HF_HUB_OFFLINE is set", "hub data sets need it unset; folders and files do not")
    return Check("hub", "ok", os.environ.get("HF_ENDPOINT", "reached when a hub id is used"))


def _notifications(workspace: Workspace) -> Check:
    """Check that all addresses can be read. Nothing is sent."""
    try:
        labels = check_recipients(workspace.home)
    except UserError as error:
        return Check("notifications", "error", str(error), "`pikavae notify --test` tries it")
    return Check("notifications", "ok", ", ".join(labels) or "no address")


def _weights(name: str, field: str) -> Check:
    """Check the weights in torch's cache, which evaluations use if `field` names no file."""
    weights = OF_EVALUATION[field]
    path = weights.cache_path
    remedy = f"`curl -fL --create-dirs -o {path} {weights.address}`, or name a copy in {field}"
    if not path.is_file():
        return Check(name, "warning", f"no {weights.network}: evaluations leave out what needs it", remedy)
    if not weights.is_published(digest_of(path)):
        return Check(name, "warning", f"{path} is not the published file", remedy)
    return Check(name, "ok", str(path))
