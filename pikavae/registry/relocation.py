"""MLflow's database of a state folder that was moved: it holds absolute addresses, which are rewritten here.

All else in the folder names other things by what they are called below it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pikavae.registry.anchor import KEEPER_TAG
from pikavae.registry.store import local_folder
from pikavae.views import VIEW_TAG

DATABASE_NAME = "mlflow.db"
BACKUP_NAME = "mlflow-before-relocation.db"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Where the database has addresses of files."""
OUR_EXPERIMENTS = f"""
    SELECT artifact_location FROM experiments WHERE name = 'pikavae-production' OR experiment_id IN
    (SELECT experiment_id FROM experiment_tags WHERE key = '{VIEW_TAG}')
"""
BELOW_HOME = ("artifacts", "production")
"""The folders in which the experiments that pikavae makes keep their files."""


def recorded_homes(database: Path) -> list[Path]:
    """The state folders below which pikavae's experiments keep their files, by the database; none in a new one."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "experiment_tags"} <= tables:
            return []
        locations = [str(location) for (location,) in connection.execute(OUR_EXPERIMENTS)]
    folders = [folder for folder in map(local_folder, locations) if folder is not None]
    return sorted({folder.parents[1] for folder in folders if folder.parent.name in BELOW_HOME})


def moved_from(home: Path) -> Path | None:
    """The folder that this home's database still names instead of it; None when all is well.

    Two paths to one folder (a mount, a link) are not two homes; a copy of one that is still there is.
    """
    database = home / DATABASE_NAME
    for old in recorded_homes(database):
        if old != home and not _is_same_file(old / DATABASE_NAME, database):
            return old
    return None


def rewrite(database: Path, old: Path, new: Path, *, dry_run: bool) -> Mapping[str, int]:
    """Make every address that begins with `old` begin with `new`, in one transaction, after a backup beside the file.

    Args:
        database: MLflow's; nothing else may be at work with it.
        old: what the addresses begin with, an absolute path.
        new: what they shall begin with, an absolute path.
        dry_run: only count.

    Returns:
        How many addresses, by `table.column`.

    Raises:
        sqlite3.DatabaseError: it cannot be written; it is as it was.
    """
    counts: Counter[str] = Counter()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        changes = [
            (table, column, row, address)
            for table, column in COLUMNS
            for row, value in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            if (address := _moved(value, old, new)) is not None
        ]
        for row, keeper in connection.execute(f"SELECT rowid, value FROM experiment_tags WHERE key = '{KEEPER_TAG}'"):
            host, _, path = keeper.partition(":")
            if path == str(old):
                changes.append(("experiment_tags", "value", row, f"{host}:{new}"))
        counts.update(f"{table}.{column}" for table, column, _, _ in changes)
        if changes and not dry_run:
            _back_up(database)
            for table, column, row, address in changes:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (address, row))
            connection.execute("COMMIT")
    return counts


def _moved(value: str | None, old: Path, new: Path) -> str | None:
    """The address below `new`; None for one that is not below `old`."""
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        if value is not None and (value == before or value.startswith(f"{before}/")):
            return after + value.removeprefix(before)
    return None


def _back_up(database: Path) -> None:
    """A whole copy of the database, whatever its journal holds, under a name of its own when it is complete."""
    backup = database.with_name(BACKUP_NAME)
    temporary = backup.with_name(f".{BACKUP_NAME}.tmp")
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(temporary)) as target:
        source.backup(target)
    temporary.replace(backup)


def _is_same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
