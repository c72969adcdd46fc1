"""Shards and index: what is written is read, in bounded memory, the same bytes each time; damage is noticed."""

import hashlib
import subprocess
import sys
import weakref
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from pikavae.data.shards.files import (
    BATCH_BYTES,
    INDEX_SCHEMA,
    SHARD_SCHEMA,
    ShardWriter,
    open_index,
    open_shard,
    write_index,
)
from pikavae.errors import DamagedFileError
from tests.support.places import ROOT
from tests.support.prepared_sets import index_batch, random_pictures, shard_columns

PICTURES = random_pictures(7, (4, 6), (9, 2))


def write(path, pictures=PICTURES):
    with ShardWriter(path) as writer:
        for i, picture in enumerate(pictures):
            writer.write(picture, **shard_columns(f"{i}.png", picture, f"ünï {i}"))
    return path


def num_open_files():
    """Of this process; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def test_a_shard_gives_back_what_was_written(tmp_path):
    table = open_shard(write(tmp_path / "a.arrow"))
    assert table.schema == SHARD_SCHEMA
    for i, (row, picture) in enumerate(zip(table.to_pylist(), PICTURES, strict=True)):
        height, width = picture.shape[:2]
        assert row == {
            **shard_columns(f"{i}.png", picture, f"ünï {i}"),
            "pixels": picture.tobytes(),
            "height": height,
            "width": width,
            "sha256": hashlib.sha256(picture.tobytes()).hexdigest(),
        }


def test_datasets_reads_the_same_rows(tmp_path):
    write(tmp_path / "a.arrow")
    rows = datasets.Dataset.from_file(str(tmp_path / "a.arrow"))
    assert [row["pixels"] for row in rows] == [picture.tobytes() for picture in PICTURES]
    assert rows[2]["perceptual_hash"] == 2**64 - 1


def test_views_of_a_larger_picture_are_stored_row_by_row(tmp_path):
    large = random_pictures(1, (8, 8))[0]
    write(tmp_path / "a.arrow", [large[1:5, 2:5], large[:, ::-1]])
    first, second = open_shard(tmp_path / "a.arrow")["pixels"].to_pylist()
    np.testing.assert_array_equal(np.frombuffer(first, np.uint8).reshape(4, 3, 3), large[1:5, 2:5])
    np.testing.assert_array_equal(np.frombuffer(second, np.uint8).reshape(8, 8, 3), large[:, ::-1])


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    assert write(tmp_path / "a.arrow").read_bytes() == write(tmp_path / "b.arrow").read_bytes()
    batch = index_batch(tmp_path / "a.arrow", 0, [0, 3], ["train", "validation"])
    for name in ("c", "d"):
        write_index(tmp_path / name, [batch])
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


def test_a_writer_keeps_no_more_than_a_batch_and_a_picture(tmp_path):
    picture = np.zeros((1024, 1024, 3), np.uint8)
    before = pa.total_allocated_bytes()  # of the whole process, other tests included
    with ShardWriter(tmp_path / "a.arrow") as writer:
        for i in range(1, 9):
            writer.write(picture, **shard_columns("x", picture))
            missing = i * picture.nbytes - (tmp_path / "a.arrow").stat().st_size
            assert missing < BATCH_BYTES
    table = open_shard(tmp_path / "a.arrow")
    assert {len(batch) for batch in table.to_batches()} == {2}  # the first picture leaves room, the second fills it
    assert pa.total_allocated_bytes() - before < BATCH_BYTES


def test_a_picture_that_was_written_is_freed(tmp_path):
    written = []
    with ShardWriter(tmp_path / "a.arrow") as writer:
        for i in range(3):
            picture = np.full((8, 8, 3), i, np.uint8)
            writer.write(picture, **shard_columns("x", picture))
            written.append(weakref.ref(picture))
            del picture
    assert all(picture() is None for picture in written)


def test_reading_copies_nothing_and_leaves_no_file_open(tmp_path):
    write(tmp_path / "a.arrow", random_pictures(3, (512, 512)))
    before, open_files = pa.total_allocated_bytes(), num_open_files()
    table = open_shard(tmp_path / "a.arrow")
    assert pa.total_allocated_bytes() - before < 1000
    assert table.num_rows == 3
    assert num_open_files() == open_files


@pytest.mark.parametrize("pictures", [[], PICTURES[:1], PICTURES])
def test_a_shard_of_any_length_can_be_read(tmp_path, pictures):
    assert open_shard(write(tmp_path / "a.arrow", pictures)).num_rows == len(pictures)


def test_the_index_gives_back_its_rows_in_order(tmp_path):
    write(tmp_path / "a.arrow")
    batches = [index_batch(tmp_path / "a.arrow", 0, [i, 0], ["train", "validation"]) for i in (5, 2)]
    write_index(tmp_path / "index.arrow", iter(batches))
    table = open_index(tmp_path / "index.arrow")
    assert table.schema == INDEX_SCHEMA
    assert table.to_pylist() == [row for batch in batches for row in batch.to_pylist()]
    assert table["row"].to_pylist() == [5, 0, 2, 0]
    assert datasets.Dataset.from_file(str(tmp_path / "index.arrow"))[2]["input_ids"] == [2] * 77


def test_a_shard_cut_anywhere_is_refused(tmp_path):
    content = write(tmp_path / "a.arrow").read_bytes()
    cut = tmp_path / "cut.arrow"
    for length in {*range(0, len(content), 97), *range(len(content) - 20, len(content))}:
        cut.write_bytes(content[:length])
        with pytest.raises(DamagedFileError, match=r"cut\.arrow"):
            open_shard(cut)


def test_a_shard_without_its_last_batch_is_refused(tmp_path):
    """Arrow itself takes a stream that ends between two batches for a shorter one."""

    def dies():
        with ShardWriter(tmp_path / "a.arrow") as writer:
            picture = np.zeros((1200, 1200, 3), np.uint8)
            for _ in range(3):
                writer.write(picture, **shard_columns("x", picture))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        dies()
    assert pa.ipc.open_stream(pa.memory_map(str(tmp_path / "a.arrow"))).read_next_batch().num_rows == 1
    with pytest.raises(DamagedFileError, match="cut short"):
        open_shard(tmp_path / "a.arrow")


@pytest.mark.parametrize("content", [b"", b"no arrow file at all, but words", b"\xff\xff\xff\xff\0\0\0\0"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.arrow").write_bytes(content)
    for opened in (open_shard, open_index):
        with pytest.raises(DamagedFileError, match=r"a\.arrow"):
            opened(tmp_path / "a.arrow")
        with pytest.raises(DamagedFileError, match=r"missing\.arrow"):
            opened(tmp_path / "missing.arrow")


def test_a_shard_is_no_index(tmp_path):
    with pytest.raises(DamagedFileError, match="columns"):
        open_index(write(tmp_path / "a.arrow"))


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_only_8_bit_rgb_is_stored(tmp_path, pixels):
    with ShardWriter(tmp_path / "a.arrow") as writer, pytest.raises(ValueError, match="uint8 is stored"):
        writer.write(pixels, **shard_columns("x", np.zeros((4, 4, 3), np.uint8)))


@pytest.mark.parametrize("change", [{"nmae": "x"}, {"sha256": "0"}, {"height": 3}])
def test_columns_are_those_of_the_schema(tmp_path, change):
    picture = PICTURES[0]
    with ShardWriter(tmp_path / "a.arrow") as writer:
        with pytest.raises(ValueError, match=next(iter(change))):
            writer.write(picture, **shard_columns("x", picture), **change)
        with pytest.raises(ValueError, match="caption"):
            writer.write(picture, **{k: v for k, v in shard_columns("x", picture).items() if k != "caption"})


def test_workers_that_write_shards_import_neither_torch_nor_datasets():
    code = "import pikavae.data.shards.files, sys; print({'torch', 'datasets', 'PIL'} & set(sys.modules))"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
