"""Rewrites the absolute addresses in MLflow's database after the state folder was moved.

All other files in the folder use paths relative to it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pikavae.tracker.mlflow_files import local_folder
from pikavae.tracker.tags import KEEPER_TAG, VIEW_TAG

DATABASE_NAME = "mlflow.db"
BACKUP_NAME = "mlflow-before-relocation.db"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""The tables and columns of the database that hold addresses of files."""
OUR_EXPERIMENTS = f"""
    SELECT artifact_location FROM experiments WHERE name = 'pikavae-production' OR experiment_id IN
    (SELECT experiment_id FROM experiment_tags WHERE key = '{VIEW_TAG}')
"""
BELOW_HOME = ("artifacts", "production")
"""The folders in which the experiments that pikavae makes keep their files."""


def recorded_homes(database: Path) -> list[Path]:
    """Return the state folders that the database names for pikavae's experiments; none for a new database."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "experiment_tags"} <= tables:
            return []
        locations = [str(location) for (location,) in connection.execute(OUR_EXPERIMENTS)]
    folders = [folder for folder in map(local_folder, locations) if folder is not None]
    return sorted({folder.parents[1] for folder in folders if folder.parent.name in BELOW_HOME})


def moved_from(home: Path) -> Path | None:
    """Return another folder that this home's database still names; None if it names only this home.

    Two paths to one folder (a mount, a link) are one home. A copy whose original still exists is a second home.
    """
    database = home / DATABASE_NAME
    for old in recorded_homes(database):
        if old != home and not _is_same_file(old / DATABASE_NAME, database):
            return old
    return None


def rewrite(database: Path, old: Path, new: Path, *, dry_run: bool) -> Mapping[str, int]:
    """Replace `old` by `new` at the start of every address, in one transaction, after a backup beside the file.

    Args:
        database: MLflow's database; nothing else may use it meanwhile.
        old: the absolute path that the addresses begin with.
        new: the absolute path that they begin with afterwards.
        dry_run: count the addresses without a change.

    Returns:
        The number of addresses by `table.column`.

    Raises:
        sqlite3.DatabaseError: the database cannot be written; it is unchanged.
    """
    counts: Counter[str] = Counter()
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        changes = [
            (table, column, row, address)
            for table, column in COLUMNS
            for row, value in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            if (address := _new_address(value, old, new)) is not None
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


def _new_address(value: str | None, old: Path, new: Path) -> str | None:
    """Return the address below `new`; None if the value is not below `old`."""
    for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
        if value is not None and (value == before or value.startswith(f"{before}/")):
            return after + value.removeprefix(before)
    return None


def _back_up(database: Path) -> None:
    """Copy the database, including what its journal holds, and give the copy its name when it is complete."""
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
