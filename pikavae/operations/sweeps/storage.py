"""Open the database of studies: a file of its own in the home, or the team's, which PIKAVAE_SWEEPS_URL names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pikavae.errors import PikavaeError, TransientError, UserError
from pikavae.workspace.disks import explain
from pikavae.workspace.files import exclusive, make_folder

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

SWEEPS_NAME = "sweeps.db"
SWEEPS_URL = "PIKAVAE_SWEEPS_URL"
"""The environment variable with the address of the team's database. It may hold a password, so it is no flag: command
lines are recorded with each run."""
TRIES, SECONDS_BETWEEN_TRIES = 4, 1.0
"""How often the team's database is tried, in which another machine may be making the tables."""
SQLITE_SECONDS = 30
"""How long a process waits for another that writes an SQLite file."""
OWN_TABLE = "studies"
VERSION_TABLE = "alembic_version"
"""The table in which MLflow, Prefect and Optuna each keep the version of their own tables."""


def is_shared() -> bool:
    """Return True if the studies are in a database that other state folders may use too."""
    return bool(os.environ.get(SWEEPS_URL))


def shown_url(home: Path) -> str:
    """Return where the studies are, without a password."""
    from sqlalchemy.engine import make_url

    url = os.environ.get(SWEEPS_URL)
    return make_url(url).render_as_string(hide_password=True) if url else str(home / SWEEPS_NAME)


def open_storage(home: Path) -> RDBStorage:
    """Open the database, and make its tables if it has none.

    Raises:
        UserError: the address is none, its driver is missing, or the database is that of MLflow or Prefect.
        PikavaeError: the file is damaged, or another version of Optuna made it.
        TransientError: nothing answers at the address.
    """
    import optuna
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = os.environ.get(SWEEPS_URL) or f"sqlite:///{home / SWEEPS_NAME}"
    make_folder(home)
    with exclusive(home / "sweeps.lock"):  # else two processes would make the same tables
        try:
            _refuse_foreign(url)
            with translating(home):
                return _connect(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            said = " ".join(str(error).split("\n")[0].split())
            raise UserError(
                f"{SWEEPS_URL}: {said}; give an address of SQLAlchemy such as postgresql+psycopg://USER@HOST/NAME, and "
                f"install its driver (for this one `pip install 'pikavae[postgres]'`)"
            ) from None
        except RuntimeError as error:
            said = " ".join(str(error).split())
            raise PikavaeError(f"{shown_url(home)}: {said}") from None


def _connect(url: str) -> RDBStorage:
    """Connect, and make the tables; try again while another machine may be making them in the same database."""
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    waits = {"connect_args": {"timeout": SQLITE_SECONDS}} if url.startswith("sqlite") else {}
    for _ in range(TRIES - 1 if is_shared() else 0):
        try:
            return RDBStorage(url, engine_kwargs=waits)
        except (StorageInternalError, SQLAlchemyError):
            time.sleep(SECONDS_BETWEEN_TRIES)
    return RDBStorage(url, engine_kwargs=waits)


def _refuse_foreign(url: str) -> None:
    """Refuse a database with tables of another program that keeps its version where Optuna does."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import DatabaseError

    if SWEEPS_URL not in os.environ:
        return
    engine = create_engine(url)
    try:
        tables = {*inspect(engine).get_table_names()}
    except DatabaseError:  # RDBStorage reports it
        return
    finally:
        engine.dispose()
    if VERSION_TABLE in tables and OWN_TABLE not in tables:
        raise UserError(
            f"{SWEEPS_URL}: this database holds the tables of another program, such as MLflow or Prefect, which those "
            f"of sweeps would damage; make a database of its own"
        )


@contextmanager
def translating(home: Path) -> Iterator[None]:
    """Raise what the database refuses as an error in one line.

    Raises:
        TransientError: the team's database does not answer, or refused.
        PikavaeError: the file is damaged; or as `disks.explain`.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        said = " ".join(str(getattr(cause, "orig", None) or cause).split())[:300]
        if is_shared():
            raise TransientError(
                f"{shown_url(home)}: {said}; when the database answers, the same command resumes the sweep"
            ) from error
        if (explained := explain(error, home)) is not None:
            raise explained from error
        raise PikavaeError(
            f"{shown_url(home)}: {said}; restore it from {home / 'backups'}, or move it away: the same command begins "
            f"the sweep anew and finds all finished trainings again"
        ) from error
