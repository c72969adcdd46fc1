"""Atomic writes and locks."""

import subprocess
import sys

import pytest

from pikavae.errors import PikavaeError
from pikavae.workspace.files import exclusive, folder_atomically, remove_leftovers, write_atomically

HOLD_LOCK = """
import sys
from pathlib import Path
from pikavae.workspace.files import exclusive
with exclusive(Path(sys.argv[1]), busy=""):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "old")
    write_atomically(path, b"new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_only_when_its_block_ends_well(tmp_path):
    target = tmp_path / "set"

    def fail_half_way():
        with folder_atomically(target) as temporary:
            (temporary / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with folder_atomically(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "whole").write_text("x")
        assert not target.exists()
    assert [path.name for path in target.rglob("*")] == ["sub", "whole"]


def test_a_folder_is_replaced(tmp_path):
    for content in ("old", "new"):
        with folder_atomically(tmp_path / "set") as temporary:
            (temporary / content).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["set", "new"]


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".set.0f.tmp").mkdir()
    (tmp_path / ".set.0f.tmp" / "half").touch()
    (tmp_path / ".file.0f.tmp").touch()
    (tmp_path / "set").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_lock_is_refused_while_held_and_free_after_its_holder_was_killed(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(PikavaeError, match="somebody else"), exclusive(path, busy="somebody else"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with exclusive(path, busy="somebody else"):
        pass
