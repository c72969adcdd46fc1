"""Backups of a database that is in use: whole or absent, and the newest are kept."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest

from pikavae.errors import DamagedFileError
from pikavae.workspace import backups
from pikavae.workspace.backups import back_up, copies_of


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()
    return path


@pytest.fixture
def clock(monkeypatch):
    """The time of the next backup, as a list of one."""
    times = [datetime(2026, 1, 1, tzinfo=UTC)]

    class Clock(datetime):
        @classmethod
        def now(cls, zone=None):
            return times[0]

    monkeypatch.setattr(backups, "datetime", Clock)
    return times


def rows(path):
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]


def test_a_copy_has_what_was_committed_while_others_write(database, tmp_path):
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("INSERT INTO t VALUES (2)")
        writer.commit()  # in the write-ahead log, not yet in the file
        writer.execute("INSERT INTO t VALUES (3)")
        copy = back_up(database, tmp_path / "copies", keep=2)
    assert rows(copy) == [1, 2]
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_the_newest_stay_and_none_is_made_within_an_hour(database, tmp_path, clock):
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "some-of-mine.db").write_text("a user's own")
    (folder / ".some-20260101T000000Z.db.0.tmp").write_text("a killed backup's")
    made = []
    for hours in (0, 0.9, 2, 3, 4):
        clock[0] = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
        made.append(back_up(database, folder, keep=2))
    assert [copy and copy.name for copy in made] == [
        "some-20260101T000000Z.db",
        None,
        *(f"some-20260101T0{hour}0000Z.db" for hour in (2, 3, 4)),
    ]
    assert copies_of(database, folder) == made[-2:]
    assert sorted(path.name for path in folder.iterdir()) == [*(path.name for path in made[-2:]), "some-of-mine.db"]


def test_a_clock_that_was_ahead_hinders_no_backup(database, tmp_path, clock):
    clock[0] += timedelta(days=400)
    back_up(database, tmp_path, keep=9)
    clock[0] -= timedelta(days=400)
    assert back_up(database, tmp_path, keep=9) is not None


def test_a_damaged_database_removes_no_copy(database, tmp_path, clock):
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE INDEX i ON t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(5000)])
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    copies = tmp_path / "copies"
    good = back_up(database, copies, keep=1)
    content = bytearray(database.read_bytes())
    content[8192:40_960] = bytes(32_768)
    database.write_bytes(content)
    clock[0] += timedelta(days=1)
    with pytest.raises((DamagedFileError, sqlite3.DatabaseError)):
        back_up(database, copies, keep=1)
    assert [*copies.iterdir()] == [good]
