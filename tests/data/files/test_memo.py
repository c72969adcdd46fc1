"""The memo of hashes: what it saves, what it must not trust, and what it survives."""

import errno
import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from pikavae.data.files.memo import HashMemo, hash_file, hash_files

HOUR = 3600


@pytest.fixture
def folder(tmp_path):
    """Three files of the past, one with a name that is no UTF-8."""
    root = tmp_path / "files"
    root.mkdir()
    for name in ("a", "b", os.fsdecode(b"\xff")):
        (root / name).write_bytes(name.encode("utf-8", "surrogateescape"))
    return root


@pytest.fixture
def settled(monkeypatch):
    """The clock of the memo stands an hour ahead, so that files of this test are old."""
    now = time.time_ns
    monkeypatch.setattr("pikavae.data.files.memo.time.time_ns", lambda: now() + HOUR * 10**9)


def files_of(root):
    return [(entry.name, entry.stat()) for entry in sorted(os.scandir(root), key=lambda entry: entry.name)]


def digests(root, memo):
    return {path: digest.sha256 for path, digest in hash_files(root, files_of(root), memo).items()}


def true_digests(root):
    return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name, _ in files_of(root)}


def replace_unnoticed(path, content):
    """Other content of the same size in a file that keeps its times and inode: only a file that is read shows it."""
    memo_stat = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(memo_stat.st_atime_ns, memo_stat.st_mtime_ns))


def test_a_second_look_reads_no_file(folder, tmp_path, settled, monkeypatch):
    memo = HashMemo(tmp_path / "memo")
    expected = true_digests(folder)
    assert digests(folder, memo) == expected
    listed = files_of(folder)
    for path, _ in listed:
        (folder / path).unlink()
    assert {path: digest.sha256 for path, digest in memo.digests(folder, listed).items()} == expected


def test_without_a_memo_every_file_is_read(folder):
    assert digests(folder, None) == true_digests(folder)


@pytest.mark.parametrize("change", ["content", "size", "another file", "times set back"])
def test_a_changed_file_is_hashed_again(folder, tmp_path, settled, change):
    memo = HashMemo(tmp_path / "memo")
    digests(folder, memo)
    time.sleep(0.01)
    if change == "times set back":
        replace_unnoticed(folder / "a", b"x")
    elif change == "another file":
        (folder / "new").write_bytes(b"n")
        os.utime(folder / "new", ns=(0, (folder / "a").stat().st_mtime_ns))
        (folder / "new").replace(folder / "a")
    else:
        (folder / "a").write_bytes(b"x" if change == "content" else b"xx")
    assert digests(folder, memo) == true_digests(folder)


def test_a_file_changed_less_than_two_seconds_before_is_not_remembered(folder, tmp_path):
    memo = HashMemo(tmp_path / "memo")
    first = files_of(folder)
    memo.digests(folder, first)
    (folder / "a").write_bytes(b"z")
    # The stamp of before, as a coarse clock would give it for both contents.
    assert memo.digests(folder, first)["a"].sha256 == hashlib.sha256(b"z").hexdigest()


def test_what_is_gone_is_dropped_from_its_own_root_only(folder, tmp_path, settled):
    memo = HashMemo(tmp_path / "memo")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a").write_bytes(b"other")
    digests(folder, memo)
    digests(other, memo)
    (folder / "a").unlink()
    (other / "a").unlink()
    memo.digests(folder, files_of(folder)[:1])  # a part of the files: "b" or the other is there and stays
    assert {os.fsdecode(path) for path in memo._load(os.fsencode(folder.resolve()))} == {"b", os.fsdecode(b"\xff")}
    assert set(memo._load(os.fsencode(other.resolve()))) == {b"a"}


@pytest.mark.parametrize("damage", [b"no database at all" * 100, b"", "cut", "folder"])
def test_a_damaged_memo_costs_time_only(folder, tmp_path, settled, damage, caplog):
    memo = HashMemo(tmp_path / "memo")
    digests(folder, memo)
    if damage == "cut":
        content = memo.path.read_bytes()
        memo.path.write_bytes(content[: len(content) // 2])
    elif damage == "folder":
        memo.path.unlink()
        memo.path.mkdir()
    else:
        memo.path.write_bytes(damage)
    assert digests(folder, memo) == true_digests(folder)
    assert digests(folder, memo) == true_digests(folder)
    assert damage == b"" or "memo of hashes" in caplog.text


def test_a_file_that_is_gone_has_its_reason(folder, tmp_path):
    listed = files_of(folder)
    (folder / "a").unlink()
    for memo in (None, HashMemo(tmp_path / "memo")):
        assert hash_files(folder, listed, memo)["a"] == ("", "cannot be read: No such file or directory")


def test_several_may_use_a_new_memo_at_once(tmp_path, settled):
    roots = []
    for number in range(4):
        root = tmp_path / f"root{number}"
        root.mkdir()
        for index in range(20):
            (root / str(index)).write_bytes(bytes([number, index]))
        roots.append(root)
    memo = HashMemo(tmp_path / "memo")
    threads = [threading.Thread(target=digests, args=(root, memo)) for root in roots]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(memo._load(os.fsencode(root.resolve()))) for root in roots] == [20] * 4


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.ENOTCONN])
def test_what_the_machine_or_a_share_lacks_sets_no_picture_aside(tmp_path, monkeypatch, number):
    (tmp_path / "a.png").write_bytes(b"a picture")

    def refuse(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        hash_file(str(tmp_path / "a.png"))
