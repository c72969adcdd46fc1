"""Disks and folders that refuse: one line that names the place and the remedy, whoever meets it, and nothing lost."""

import errno
import io
import json
import os
import pickle
import sqlite3
from contextlib import closing

import pytest
from mlflow.exceptions import MlflowException
from safetensors import SafetensorError
from sqlalchemy import create_engine, text

from flows import cli
from pikavae.errors import DiskError, PikavaeError, UserError
from pikavae.workspace import disks
from pikavae.workspace.disks import diagnose, explain, path_in_errors
from pikavae.workspace.files import folder_atomically, make_folder, write_atomically
from pikavae.workspace.home import home
from tests.support import commands
from tests.support.configs import tiny

REMEDY = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there or have it raised",
    errno.EROFS: "mount it for writing",
    errno.EACCES: "let the user",
    errno.EPERM: "let the user",
    errno.ENOTDIR: "move it away",
    errno.EISDIR: "move it away",
    errno.EIO: "look at the system's log",
    errno.ESTALE: "mount it again",
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENOENT: "put it back",
}


@pytest.mark.parametrize("number", REMEDY)
@pytest.mark.parametrize("named", [True, False])
def test_an_error_of_the_system_is_told_with_its_place_and_remedy(tmp_path, number, named):
    path = tmp_path / ".model.0123456789abcdef0123456789abcdef.tmp" / "weights"
    told = explain(OSError(number, os.strerror(number), *([str(path)] if named else [])), tmp_path)
    assert isinstance(told, PikavaeError)
    message = str(told)
    assert message.startswith(f"{tmp_path / 'model' / 'weights' if named else tmp_path}: ")
    assert REMEDY[number] in message
    assert "\n" not in message
    assert type(pickle.loads(pickle.dumps(told))) is type(told)


SEEN = [
    OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device"),  # pyarrow
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"),  # torch.save
    RuntimeError("[enforce fail at inline_container.cc:424] . PytorchStreamWriter failed writing file data/0"),
    Exception("No space left on device (os error 28)"),  # tokenizers
    MlflowException("(sqlite3.OperationalError) database or disk is full [SQL: INSERT INTO metrics"),
    MlflowException("(sqlite3.OperationalError) disk I/O error [SQL: UPDATE runs"),
]
"""What libraries raised when a small file system was full."""


@pytest.mark.parametrize("error", SEEN)
def test_a_full_disk_is_recognised_in_the_words_of_every_library(tmp_path, monkeypatch, error):
    monkeypatch.setattr(disks, "free_bytes", lambda path: 0)  # some only say that something failed
    assert str(explain(error, tmp_path)).startswith(f"{tmp_path}: the disk is full (0 bytes free on ")
    with (
        pytest.raises(Exception, match=r"the disk is full|No space left|disk I/O|unexpected|failed|is full") as caught,
        path_in_errors(tmp_path / "a"),
    ):
        raise error
    assert str(tmp_path) in str(caught.value) + str(getattr(caught.value, "filename", ""))


def full_database(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE numbers (a)")
    connection.execute("PRAGMA max_page_count = 2")  # SQLite then says what it says on a full disk
    return connection


def test_a_full_disk_is_recognised_in_sqlite_sqlalchemy_and_mlflow(tmp_path):
    with closing(full_database(tmp_path / "a.db")) as connection, pytest.raises(sqlite3.OperationalError) as caught:
        connection.execute("INSERT INTO numbers VALUES (?)", ["x" * 10**5])
    assert "the disk is full" in str(explain(caught.value, tmp_path))
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        with pytest.raises(Exception, match="full") as caught:
            connection.execute(text("INSERT INTO numbers VALUES (:a)"), {"a": "x" * 10**5})
    engine.dispose()
    assert "the disk is full" in str(explain(caught.value, tmp_path))
    assert "the disk is full" in str(explain(MlflowException(str(caught.value)), tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        OSError("no answer"),
        ValueError("a bug"),
        KeyError("name"),
        TimeoutError(),
    ],
)
def test_what_no_disk_did_is_not_laid_to_one(tmp_path, error):
    assert explain(error, tmp_path) is None


def test_an_error_that_says_nothing_is_explained_by_the_place(tmp_path, monkeypatch):
    error = RuntimeError("disk I/O error")
    assert explain(error, tmp_path) is None
    assert "it is gone" in str(explain(error, tmp_path / "gone"))
    (tmp_path / "a file").write_text("")
    assert isinstance(diagnose(tmp_path / "a file" / "home"), UserError)
    monkeypatch.setattr(disks, "free_bytes", lambda path: 100)
    assert "the disk is full (100 bytes free on" in str(explain(error, tmp_path))


def test_a_home_that_was_there_is_not_made_anew():
    make_folder(home() / "runs")
    (home() / "runs").rmdir()
    home().rmdir()
    for write in (
        lambda: write_atomically(home() / "runs" / "a", "b"),
        lambda: folder_atomically(home() / "runs" / "a").__enter__(),
    ):
        with pytest.raises(FileNotFoundError, match=str(home())) as caught:
            write()
        assert (
            str(explain(caught.value, home())) == f"{home()}: it is gone; put it back, and run the same command again"
        )
    assert not home().exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize(
    "words", [["models", "list"], ["prepare", "--data.sprites_count", "24", "--data.workers", "1"]]
)
def test_a_command_on_a_disk_that_refuses_says_one_line(monkeypatch, capsys, words, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        assert cli.main(words) in {1, 2}
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pikavae: ")]
    assert len(said) == 1
    assert str(home()) in said[0]
    assert disks.REFUSALS[number].what in said[0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_worker_that_finds_no_room_blames_the_disk_and_not_the_picture(
    folder_of_pictures, monkeypatch, tmp_path, number
):
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault" / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('serve' in word for word in sys.orig_argv):\n"
        "    import pyarrow, os\n"
        f"    def refuse(*_): raise OSError({number}, os.strerror({number}))\n"
        "    pyarrow.OSFile = refuse\n"
    )
    config = tiny(**{"data.source": str(folder_of_pictures), "data.workers": 1})
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(tmp_path / "fault"))
        with pytest.raises(DiskError, match=disks.REFUSALS[number].what) as caught:
            commands.prepare(config)
    assert "picture" not in str(caught.value).replace(str(tmp_path), "")
    assert not list(home().glob("prepared/shards/*.json"))
    assert commands.prepare(config).prepared_set.record.num_quarantined == 0


def test_what_a_command_prints_and_finds_no_room_is_a_line(monkeypatch, capsys):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sys.stdout", Full())
    assert cli.main(["doctor", "--json"]) == 1
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["home is a file", "a file above", "no such link"])
def test_doctor_works_in_a_bad_place(tmp_path, monkeypatch, capsys, way):
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    place = {"home is a file": file, "a file above": file / "a" / "b", "no such link": tmp_path / "loop" / "a"}[way]
    monkeypatch.setenv("PIKAVAE_HOME", str(place))
    assert cli.main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["state folder"]["status"] == "error"
    assert str(tmp_path) in checks["state folder"]["detail"]
