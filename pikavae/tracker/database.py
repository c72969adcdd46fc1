"""Makes MLflow's database file and migrates it to a newer MLflow. An interruption leaves the database as it was.

MLflow itself does both in place and in many steps. If a kill or a full disk stops it between two of them, it leaves a
file that it then refuses.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

from pikavae.errors import DiskError, PikavaeError
from pikavae.workspace.disks import explain, path_in_errors
from pikavae.workspace.files import sync

logger = logging.getLogger(__name__)

BEFORE_NAME = "mlflow-before-migration.db"
"""The name of the copy of the database during a migration. If it exists, the migration did not end."""
UNFINISHED_NAME = "mlflow-unfinished.db"
BESIDE = ("-wal", "-shm", "-journal")
"""The endings of the files that SQLite keeps beside a database."""
OF_A_USER = ("runs", "registered_models", "logged_models", "trace_info", "experiment_tags")
"""Tables that are empty in a database that nobody has used."""


def make_whole(database: Path) -> None:
    """Make the database, restart an attempt that was cut short, or migrate the database, whichever is necessary.

    The caller holds a lock that prevents all others from opening it.

    Raises:
        PikavaeError: the database has runs and cannot be migrated to the installed version of MLflow.
        OSError: the disk refused; the database is unchanged.
    """
    before = database.with_name(BEFORE_NAME)
    if before.exists():
        logger.warning("%s: an earlier migration was interrupted; it starts again from the copy made before", database)
        _put_back(before, database)
    for leftover in database.parent.glob(".mlflow*.tmp*"):
        leftover.unlink()
    tables = _tables(database)
    if not tables:
        _make(database)
    elif _is_unused(database, tables) and not _is_current(database, tables):
        aside = database.with_name(UNFINISHED_NAME)
        logger.warning("%s: it was left unfinished; it is created again, and the old file is now %s", database, aside)
        _drop_beside(database)
        database.replace(aside)
        _make(database)
    elif _expected_tables() - tables:
        _migrate(database, before)


def stamp_of(database: Path) -> tuple[int, int] | None:
    """Return device and inode, which differ if another file takes the name; None if there is no file."""
    try:
        found = database.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def require_same(database: Path, stamp: tuple[int, int] | None) -> None:
    """Check that a database is still the file that was opened.

    Raises:
        DiskError: it was removed or replaced, and what is written is lost.
    """
    if stamp is not None and stamp_of(database) != stamp:
        what = "another file" if database.exists() and database.stat().st_size else "gone"
        raise DiskError(
            f"MLflow store {database}: {what} since this command opened it; restore it, and run the same command "
            f"to deliver what was trained"
        )


def _make(database: Path) -> None:
    """Make the database under another name, and rename it when it is whole."""
    temporary = database.with_name(f".{database.name}.{uuid.uuid4().hex}.tmp")
    try:
        _open_with_mlflow(temporary)
        with path_in_errors(database):
            sync(temporary)
            _drop_beside(database)
            temporary.replace(database)
            sync(database.parent)
    finally:
        for path in (temporary, *(Path(f"{temporary}{ending}") for ending in BESIDE)):
            path.unlink(missing_ok=True)


def _migrate(database: Path, before: Path) -> None:
    """Let MLflow migrate the database in place, and restore a copy if that fails."""
    logger.info("%s: is brought to the version of MLflow that is installed", database)
    temporary = before.with_name(f".{before.name}.tmp")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(temporary)) as target:
        source.backup(target)
    sync(temporary)
    temporary.replace(before)
    sync(before.parent)
    try:
        _open_with_mlflow(database)
    except Exception as error:
        _put_back(before, database)
        if (told := explain(error, database)) is not None:
            raise told from error
        reason = " ".join(str(error).split())[:300]
        raise PikavaeError(
            f"MLflow store {database}: it cannot be brought to the version of MLflow that is installed ({reason}); "
            f"restore it from a backup, or move it away and begin with an empty one"
        ) from error
    before.unlink()


def _open_with_mlflow(database: Path) -> None:
    """Let MLflow open a file, which makes missing tables, and close it again."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(f"sqlite:///{database}", (database.parent / "artifacts").as_uri())
    store.engine.dispose()


def _put_back(before: Path, database: Path) -> None:
    _drop_beside(database)
    before.replace(database)
    sync(database.parent)


def _drop_beside(database: Path) -> None:
    """Remove SQLite's files beside a database that is discarded; SQLite would use them for the next one."""
    for ending in BESIDE:
        Path(f"{database}{ending}").unlink(missing_ok=True)


def _tables(database: Path) -> set[str]:
    """Return the names of the tables; none if the file is missing or empty."""
    if not database.exists():
        return set()
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _expected_tables() -> set[str]:
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401  importing it registers the tables

    return set(Base.metadata.tables)


def _is_unused(database: Path, tables: set[str]) -> bool:
    """Return True if the database holds only what MLflow writes when it makes one."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        return not any(
            connection.execute(f"SELECT EXISTS (SELECT 1 FROM {name})").fetchone()[0]
            for name in OF_A_USER
            if name in tables
        )


def _is_current(database: Path, tables: set[str]) -> bool:
    """Return True if the database has all tables, as the newest migration leaves them."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    if _expected_tables() - tables or "alembic_version" not in tables:
        return False
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
        found = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    return found == [(_get_latest_schema_revision(),)]
