"""The state folder at another place: after it was moved, renamed, or restored from a backup."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pikavae.errors import PikavaeError, UserError
from pikavae.files import exclusive
from pikavae.home import home
from pikavae.registry.relocation import BACKUP_NAME, DATABASE_NAME, moved_from, recorded_homes, rewrite


@dataclass(frozen=True)
class Relocated:
    """What `relocate` did, or with `dry_run` would do.

    Attributes:
        old: what the addresses began with; None when all were of this folder already.
        new: the state folder.
        addresses: how many were rewritten, by `table.column` of MLflow's database.
        backup: the database as it was before; None when nothing was written.
    """

    old: Path | None
    new: Path
    addresses: Mapping[str, int]
    backup: Path | None


def relocate(old: str | None = None, *, dry_run: bool = False) -> Relocated:
    """Make MLflow's database name the files of this state folder where they are now.

    Args:
        old: where the folder was; by default what the database says.
        dry_run: change nothing.

    Raises:
        UserError: there is no such folder as `old` in the database, or no database here.
        BusyError: something works in the folder.
        PikavaeError: the database cannot be written; it is as it was.
    """
    database = home() / DATABASE_NAME
    if not database.is_file():
        raise UserError(
            f"store relocate: no {DATABASE_NAME} in {home()}; set PIKAVAE_HOME to the folder that was moved"
        )
    try:
        with ExitStack() as held:
            for lock in sorted(_locks(home())):
                busy = (
                    f"store relocate: {lock.relative_to(home())} is held: something runs in {home()}; let it end first"
                )
                held.enter_context(exclusive(lock, busy=busy))
            before = moved_from(home()) if old is None else Path(old).expanduser().absolute()
            counts = {} if before in {None, home()} else rewrite(database, before, home(), dry_run=dry_run)
            if old is not None and not counts and before != home():
                known = ", ".join(map(str, recorded_homes(database))) or "none"
                raise UserError(
                    f"store relocate: --from {old}: no address begins with it; those of pikavae begin with: {known}"
                )
    except sqlite3.DatabaseError as error:
        raise PikavaeError(f"store relocate: {database}: {error}; nothing was changed") from None
    written = bool(counts) and not dry_run
    return Relocated(before if counts else None, home(), counts, home() / BACKUP_NAME if written else None)


def _locks(folder: Path) -> set[Path]:
    """The locks of whatever writes in a home, where such a thing ever ran."""
    patterns = ("*.lock", "runs/*.lock", "runs/*/*.lock", "evaluations/*.lock", "prepared/locks/*.lock")
    return {folder / "mlflow.lock", *(path for pattern in patterns for path in folder.glob(pattern))}
