"""A folder's chunks: they cover it once, follow from content alone, and change little with it."""

import os
import pickle

import pytest

from pikavae.config import DataConfig
from pikavae.data.files.memo import HashMemo
from pikavae.data.sources.folders import split_by_prefix
from pikavae.data.sources.open import open_source
from tests.support.folders import PNG, fill, opened, picture


def names_by_chunk(source, size):
    return [set(chunk.content) for chunk in source.chunks(size)]


@pytest.mark.parametrize("size", [1, 3, 10, 64, 1000])
def test_chunks_are_disjoint_cover_everything_and_are_small(tmp_path, size):
    names = {f"{i:03d}.png" for i in range(200)}
    source = opened(fill(tmp_path, dict.fromkeys(names, PNG)))
    chunks = names_by_chunk(source, size)
    assert set.union(*chunks) == names
    assert sum(map(len, chunks)) == 200
    assert max(map(len, chunks)) <= size
    assert len(chunks) <= 4 * -(-200 // size)
    assert chunks == names_by_chunk(opened(tmp_path), size)


def test_chunks_are_pickled_small_and_read_by_themselves(tmp_path):
    source = opened(fill(tmp_path, {f"{i}.png": picture(i) * 50 for i in range(64)}))
    for chunk in source.chunks(16):
        pickled = pickle.dumps(chunk)
        assert len(pickled) < 250 * chunk.count + 500
        again = pickle.loads(pickled)
        assert again.content == chunk.content
        assert [(p.name, p.content) for p in again.pictures()] == [
            (name, picture(int(name[:-4])) * 50) for name in sorted(chunk.content)
        ]


def test_an_added_picture_changes_one_chunk_or_splits_one(tmp_path):
    source = opened(fill(tmp_path, {f"{i:03d}.png": PNG for i in range(300)}))
    before = [dict(chunk.content) for chunk in source.chunks(16)]
    for i in range(300, 340):
        (tmp_path / f"{i}.png").write_bytes(PNG)
        after = [dict(chunk.content) for chunk in opened(tmp_path).chunks(16)]
        gone = [content for content in before if content not in after]
        new = [content for content in after if content not in before]
        assert len(gone) == 1
        assert sum(map(len, new)) == len(gone[0]) + 1
        before = after


def test_a_changed_caption_changes_one_chunk(tmp_path):
    files = {f"{i:02d}.png": PNG for i in range(40)} | {f"{i:02d}.txt": "old" for i in range(40)}
    before = [dict(chunk.content) for chunk in opened(fill(tmp_path, files)).chunks(8)]
    (tmp_path / "07.txt").write_text("new")
    source = opened(tmp_path)
    after = [dict(chunk.content) for chunk in source.chunks(8)]
    ((old, new),) = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert [name for name in old if old[name] != new[name]] == ["07.png"]


def test_a_moved_folder_has_the_same_content(tmp_path):
    files = {"a/x.png": PNG, "a/x.txt": "one", "y": picture(2)}
    here, there = (opened(fill(tmp_path / name, files)) for name in ("here", "there"))
    assert here.content() == there.content()
    assert [c.content for c in here.chunks(1)] == [c.content for c in there.chunks(1)]


def test_a_memo_gives_the_same_content(tmp_path):
    root = fill(tmp_path / "root", {"x.png": PNG, "x.txt": "one", os.fsdecode(b"\xff.png"): PNG})
    for path in root.iterdir():
        os.utime(path, ns=(0, 0))
    memo = HashMemo(tmp_path / "memo")
    config = DataConfig(source=str(root))
    contents = [open_source(str(root), config, "data.source", memo).content() for _ in range(2)]
    assert contents == [opened(root).content()] * 2


def test_equal_keys_end_the_splitting():
    assert list(split_by_prefix([5] * 4, 2)) == [(0, 4)]
    with pytest.raises(ValueError, match="expected at least 1"):
        list(split_by_prefix([1], 0))
