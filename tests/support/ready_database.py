"""MLflow's database of a new home, copied from one that MLflow made: its many migrations take seconds.

Tests of how the database is made ask for `real_database`.
"""

import shutil
import sqlite3
from contextlib import closing
from unittest import mock

import pytest

from pikavae.tracker import database

OPEN_WITH_MLFLOW = database._open_with_mlflow


@pytest.fixture(autouse=True, scope="session")
def ready_database(tmp_path_factory):
    """Make the first database of the session by MLflow, and copy it wherever another one would be made."""
    made = tmp_path_factory.mktemp("database") / "mlflow.db"

    def copy_or_open(path):
        if path.exists():
            OPEN_WITH_MLFLOW(path)
            return
        if not made.exists():
            OPEN_WITH_MLFLOW(made)
        shutil.copyfile(made, path)
        with closing(sqlite3.connect(path)) as connection, connection:
            artifacts = (path.parent / "artifacts" / "0").as_uri()
            connection.execute("UPDATE experiments SET artifact_location = ?", (artifacts,))

    with mock.patch.object(database, "_open_with_mlflow", copy_or_open):
        yield


@pytest.fixture
def real_database(monkeypatch):
    """Let MLflow make every database."""
    monkeypatch.setattr(database, "_open_with_mlflow", OPEN_WITH_MLFLOW)
