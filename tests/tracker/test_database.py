"""MLflow's database: whole or absent while it is made, as it was while it is migrated, missed when it is taken away."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from pikavae.errors import DiskError, PikavaeError
from pikavae.tracker import database
from pikavae.tracker.client import Workspace
from pikavae.workspace.home import home

pytestmark = pytest.mark.usefixtures("real_database")


def names(path):
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def execute(path, *statements):
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def made_elsewhere(tmp_path, *, with_run=False):
    """The home's database, made without a workspace, so that MLflow keeps no connection to it."""
    path, run_id = tmp_path / "elsewhere.db", None
    store = SqlAlchemyStore(f"sqlite:///{path}", tmp_path.as_uri())
    if with_run:
        run_id = store.create_run("0", "somebody", 0, [], "a run").info.run_id
    store.engine.dispose()
    home().mkdir()
    return path.rename(home() / "mlflow.db"), run_id


def runs(path):
    with closing(sqlite3.connect(path)) as connection:
        return [run_id for (run_id,) in connection.execute("SELECT run_uuid FROM runs")]


def new_run():
    workspace = Workspace(home())
    return workspace.client.create_run(workspace.experiment_id("somewhere")).info.run_id


class Interrupted(BaseException):
    """What no handler of errors catches, as a kill."""


@pytest.mark.parametrize("failure", [OSError(28, os.strerror(28)), Interrupted()])
def test_what_stops_the_making_of_the_database_leaves_none_and_the_next_makes_it(monkeypatch, failure):
    real = database._open_with_mlflow

    def cut_short(path):
        real(path)
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(database, "_open_with_mlflow", cut_short)
        with pytest.raises((PikavaeError, Interrupted)):
            _ = Workspace(home()).client
    assert {path.name for path in home().iterdir()} == {"mlflow.lock"}
    assert Workspace(home()).client.search_experiments()


@pytest.mark.parametrize("kept", [0, 5])
def test_a_database_that_an_earlier_version_half_made_is_made_anew(tmp_path, kept):
    path, _ = made_elsewhere(tmp_path)
    for number, name in enumerate(sorted(names(path) - {"experiments"})):
        if number >= kept:
            execute(path, "PRAGMA foreign_keys = OFF", f'DROP TABLE "{name}"')
    copy = shutil.copy(path, tmp_path / "copy.db")
    with pytest.raises(Exception, match=r"already exists|duplicate column|no such"):  # what MLflow makes of it
        SqlAlchemyStore(f"sqlite:///{copy}", home().as_uri())
    assert new_run()
    assert (home() / database.UNFINISHED_NAME).is_file()


def test_a_half_migrated_database_without_runs_is_made_anew(tmp_path):
    path, _ = made_elsewhere(tmp_path)
    execute(path, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    assert new_run()


def older(path):
    """A database of an MLflow that did not know some table yet."""
    execute(path, "PRAGMA foreign_keys = OFF", "DROP TABLE scorer_versions")


@pytest.mark.parametrize("failure", [OSError(28, os.strerror(28)), ValueError("duplicate column")])
def test_a_database_with_runs_is_as_it_was_when_its_migration_fails(monkeypatch, tmp_path, failure):
    path, run_id = made_elsewhere(tmp_path, with_run=True)
    older(path)

    def cut_short(path):
        execute(path, "DROP TABLE metrics")
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(database, "_open_with_mlflow", cut_short)
        with pytest.raises(PikavaeError, match=r"the disk is full|restore it from a backup"):
            _ = Workspace(home()).client
    assert "metrics" in names(path)
    assert runs(path) == [run_id]
    assert not (home() / database.BEFORE_NAME).exists()


def test_a_killed_migration_begins_again_with_the_copy_from_before(monkeypatch, tmp_path):
    path, run_id = made_elsewhere(tmp_path, with_run=True)
    older(path)
    with monkeypatch.context() as patch:
        patch.setattr(database, "_put_back", lambda *_: (_ for _ in ()).throw(Interrupted()))
        patch.setattr(database, "_open_with_mlflow", lambda path: execute(path, "DROP TABLE runs") or 1 / 0)
        with pytest.raises(Interrupted):
            _ = Workspace(home()).client
    assert "runs" not in names(path)
    monkeypatch.setattr(database, "_open_with_mlflow", lambda path: None)
    database.make_whole(path)
    assert runs(path) == [run_id]
    assert not (home() / database.BEFORE_NAME).exists()


@pytest.mark.parametrize("replaced", ["nothing", "an empty file", "another database"])
def test_a_database_that_is_taken_away_while_it_is_used_is_missed(replaced):
    workspace = Workspace(home())
    assert workspace.client.search_experiments()
    path = home() / "mlflow.db"
    path.rename(home() / "away.db")
    if replaced == "an empty file":
        path.touch()
    if replaced == "another database":
        execute(path, "CREATE TABLE something (a)")
    assert not workspace.answers()
    for look in (workspace.require_same_store, lambda: workspace.client):
        with pytest.raises(
            DiskError, match=r"mlflow\.db: (gone|another file) since this command opened it; restore it"
        ):
            look()
    path.unlink(missing_ok=True)
    (home() / "away.db").rename(path)
    assert workspace.client.search_experiments()
