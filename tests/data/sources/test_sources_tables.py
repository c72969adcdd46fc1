"""Parquet and Arrow files: pictures, rows without pictures, damage, and ranges of rows as chunks."""

import itertools
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pikavae.config import DataConfig
from pikavae.data.sources.open import open_sources
from pikavae.data.sources.tables import MAX_PARTS, pack
from pikavae.errors import TransientError, UserError
from tests.support.tables import STRUCT, content, contents_of, opened, pictures_of, refused, table, write

# What a picture may be stored as


@pytest.mark.parametrize(
    "column_type",
    [STRUCT, pa.struct({"path": pa.string(), "bytes": pa.large_binary()}), pa.struct({"bytes": pa.binary()})],
)
def test_structs_with_bytes_are_pictures(tmp_path, column_type):
    images = pa.array([{"bytes": content(i), "path": f"{i}.png"} for i in range(3)], STRUCT)
    if column_type.num_fields == 1:
        images = pa.array([{"bytes": content(i)} for i in range(3)], column_type)
    source = opened(write(tmp_path / "t.parquet", pa.table({"image": images})))
    assert contents_of(source) == [content(i) for i in range(3)]


@pytest.mark.parametrize("column_type", [pa.binary(), pa.large_binary(), pa.binary(len(content(0))), pa.binary_view()])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_plain_bytes_are_pictures(tmp_path, column_type, suffix):
    rows = pa.table({"anything": pa.array([content(i) for i in range(3)], pa.binary()).cast(column_type)})
    assert contents_of(opened(write(tmp_path / f"t{suffix}", rows))) == [content(i) for i in range(3)]


@pytest.mark.parametrize("options", [{}, {"file_format": True}, {"compression": "zstd"}, {"max_chunksize": 2}])
def test_arrow_files_of_every_form_are_read(tmp_path, options):
    source = opened(write(tmp_path / "t.ARROW".lower(), table(range(7), text=[f"c{i}" for i in range(7)]), **options))
    assert [(p.name, p.content, p.caption) for p in pictures_of(source, 3)] == [
        (f"t.arrow#{i:08d}", content(i), f"c{i}") for i in range(7)
    ]


def test_files_of_pandas_and_of_datasets_are_read(tmp_path):
    frame = pandas.DataFrame({"image": [content(0), content(1)], "text": ["a", None]}, index=[7, 9])
    frame.to_parquet(tmp_path / "pandas.parquet")
    rows = {"image": [{"bytes": content(i), "path": None} for i in range(2)], "text": ["a", None]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    stored = datasets.Dataset.from_dict(rows, features=features)
    datasets.disable_progress_bars()
    stored.to_parquet(tmp_path / "datasets.parquet")
    stored.save_to_disk(tmp_path / "saved")
    for path in ("pandas.parquet", "datasets.parquet", "saved/data-00000-of-00001.arrow"):
        source = opened(tmp_path / path)
        assert [(p.content, p.caption) for p in pictures_of(source)] == [(content(0), "a"), (content(1), None)]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "null instead of a picture"),
        ({"bytes": None, "path": None}, "null instead of a picture"),
        ({"bytes": None, "path": ""}, "null instead of a picture"),
        ({"bytes": None, "path": "SECRET"}, "holds a path instead of a picture: SECRET; store its bytes"),
        ({"bytes": b"", "path": "SECRET"}, ""),
    ],
)
def test_a_row_without_bytes_has_its_reason_and_no_path_is_opened(tmp_path, value, problem):
    secret = tmp_path / "secret.png"
    secret.write_bytes(content(9))
    value = value and {key: str(secret) if part == "SECRET" else part for key, part in value.items()}
    rows = pa.table({"image": pa.array([{"bytes": content(0), "path": None}, value], STRUCT), "text": ["a", "b"]})
    first, second = pictures_of(opened(write(tmp_path / "t.parquet", rows)))
    assert (first.content, first.problem) == (content(0), "")
    assert second.content == (None if problem else b"")
    assert second.problem == problem.replace("SECRET", str(secret))
    assert (second.name, second.caption, second.transient) == ("t.parquet#00000001", "b", False)


# Damage


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("damage", ["empty", "cut", "no such file at all", "zeros"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = write(tmp_path / f"t{suffix}", table(range(200), text=["a"] * 200))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "zeros": bytes(1000)}.get(damage, damage.encode()))
    assert refused(path).startswith(f"{path}: not a readable {suffix} file, or damaged: ")


def test_damage_inside_a_file_is_found_where_it_is_read(tmp_path):
    path = write(tmp_path / "t.parquet", table(range(2000)), row_group_size=500, compression="gzip")
    whole = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(2).column(0).data_page_offset
    whole[start : start + 2000] = bytes(2000)
    path.write_bytes(whole)
    source = opened(path)
    assert source.count() == 2000
    good, _, bad, _ = source.chunks(500)
    assert [p.content for p in good.pictures()] == [content(i) for i in range(500)]
    with pytest.raises(UserError, match=r"t\.parquet: not a readable \.parquet file, or damaged"):
        list(bad.pictures())


def test_a_damaged_offset_of_an_arrow_file_does_not_end_the_process(tmp_path):
    path = write(tmp_path / "t.arrow", pa.table({"image": [content(i) for i in range(100)]}))
    whole = path.read_bytes()
    offsets = b"".join((i * len(content(0))).to_bytes(4, "little") for i in range(3))
    assert whole.count(offsets) == 1
    path.write_bytes(whole.replace(offsets, offsets[:4] + b"\xff\xff\xff\x7f" + offsets[8:]))
    code = (
        "import sys; from pikavae.config import DataConfig; from pikavae.data.sources.open import open_source\n"
        "source = open_source(sys.argv[1], DataConfig(), 'data.source')\n"
        "print(sum(1 for chunk in source.chunks(100) for _ in chunk.pictures()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1  # an exception; a signal would be negative
    assert "UserError" in done.stderr
    assert "t.arrow: not a readable .arrow file, or damaged" in done.stderr


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_no_rows_are_no_chunks(tmp_path, suffix):
    source = opened(write(tmp_path / f"t{suffix}", table([], text=pa.array([], pa.string()))))
    assert (source.count(), list(source.chunks(10))) == (0, [])


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_file_that_changes_after_it_was_listed_is_worth_another_try(tmp_path, change):
    path = write(tmp_path / "t.parquet", table())
    (chunk,) = opened(path).chunks(100)
    path.unlink()
    if change == "replaced":
        write(path, table([4, 5, 6]))
    with pytest.raises(TransientError, match=r"t\.parquet: .* while it was being read; run the command again"):
        list(chunk.pictures())


# Chunks


@pytest.mark.parametrize(
    ("groups", "size", "ranges"),
    [
        ([], 4, []),
        ([0], 4, []),
        ([3], 4, [(0, 3)]),
        ([4], 4, [(0, 4)]),
        ([5], 4, [(0, 2), (2, 5)]),
        ([2, 2, 2], 4, [(0, 4), (4, 6)]),
        ([3, 3, 0, 1], 4, [(0, 3), (3, 7)]),
        ([1, 9, 1], 4, [(0, 1), (1, 4), (4, 7), (7, 10), (10, 11)]),
        ([10, 10], 5, [(0, 5), (5, 10), (10, 15), (15, 20)]),
    ],
)
def test_groups_of_rows_are_joined_and_cut(groups, size, ranges):
    assert list(pack(groups, size)) == ranges


def test_a_group_is_cut_into_a_bounded_number_of_parts():
    ranges = list(pack([10_000], 1))
    assert len(ranges) == MAX_PARTS
    assert ranges[0][0] == 0
    assert ranges[-1][1] == 10_000
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ranges))
    with pytest.raises(ValueError, match="expected at least 1"):
        list(pack([1], 0))


@pytest.mark.parametrize("size", [1, 7, 10, 64, 1000])
@pytest.mark.parametrize("group", [1, 10, 33, 100])
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_chunks_cover_every_row_once_and_are_read_by_themselves(tmp_path, size, group, suffix):
    options = {"row_group_size": group} if suffix == ".parquet" else {"max_chunksize": group}
    source = opened(write(tmp_path / f"t{suffix}", table(range(100), text=[str(i) for i in range(100)]), **options))
    chunks = [pickle.loads(pickle.dumps(chunk)) for chunk in source.chunks(size)]
    assert all(len(pickle.dumps(chunk)) < 1000 for chunk in chunks)
    found = [list(chunk.pictures()) for chunk in reversed(chunks)][::-1]
    assert [len(pictures) for pictures in found] == [chunk.count for chunk in chunks]
    assert [(p.name, p.content, p.caption) for pictures in found for p in pictures] == [
        (f"t{suffix}#{i:08d}", content(i), str(i)) for i in range(100)
    ]
    assert source.count() == 100


def test_an_added_file_changes_no_other_chunk(tmp_path):
    for name in ("b", "d"):
        write(tmp_path / f"{name}.parquet", table(range(ord(name), ord(name) + 10)), row_group_size=5)
    before = [chunk.content for chunk in opened(tmp_path).chunks(4)]
    for name in ("a", "c", "sub/e"):
        write(tmp_path / f"{name}.parquet", table(range(5)))
    after = [chunk.content for chunk in opened(tmp_path).chunks(4)]
    assert [content for content in before if content not in after] == []
    assert len(after) == len(before) + 3 * 2
    assert {content["file"] for content in after} == {
        "a.parquet",
        "b.parquet",
        "c.parquet",
        "d.parquet",
        "sub/e.parquet",
    }


def test_a_moved_file_has_the_same_content(tmp_path):
    here = write(tmp_path / "here" / "t.parquet", table())
    shutil.copytree(here.parent, tmp_path / "there")
    sources = [opened(path) for path in (here, here.parent, tmp_path / "there", tmp_path / "there" / "*.parquet")]
    assert all(source.content() == sources[0].content() for source in sources)


def test_files_of_one_name_in_several_folders_stay_apart(tmp_path):
    for number, folder in enumerate(("one", "two")):
        write(tmp_path / folder / "t.parquet", table([number]))
    source = opened(tmp_path / "*" / "t.parquet")
    assert {p.name: p.content for p in pictures_of(source)} == {
        "one/t.parquet#00000000": content(0),
        "two/t.parquet#00000000": content(1),
    }
    assert set(source.content()) == {"one/t.parquet", "two/t.parquet", "columns"}


@pytest.mark.parametrize(
    ("files", "sides"),
    [
        (["train.parquet", "validation.parquet", "test.parquet"], {"train": ["train"], "validation": ["validation"]}),
        (["train-0.parquet", "val-0.parquet"], {"train": ["train-0"], "validation": ["val-0"]}),
        (
            ["data/train-0.parquet", "data/validation-0.arrow"],
            {"train": ["data/train-0"], "validation": ["data/validation-0"]},
        ),
        (
            ["train/0.parquet", "validation/0.parquet", "test/0.parquet"],
            {"train": ["train/0"], "validation": ["validation/0"]},
        ),
        (["a.parquet", "b.parquet"], {"source": ["a", "b"]}),
        (["a.parquet", "test.parquet"], {"source": ["a"]}),
    ],
)
def test_validation_files_of_a_folder_are_a_source_of_their_own(tmp_path, files, sides):
    for name in files:
        write(tmp_path / name, table())
    opened_sides = open_sources(DataConfig(source=str(tmp_path)))
    assert {
        side: sorted(str(Path(name).with_suffix("")) for name in source.content() if name != "columns")
        for side, source in opened_sides.items()
    } == sides


def test_a_single_column_of_text_in_a_folder_of_tables_keeps_litter_on_record(tmp_path):
    write(tmp_path / "t.parquet", table())
    (tmp_path / "._t.parquet").write_bytes(b"\0\5\x16\7")
    (tmp_path / "x.png").mkdir()
    source = opened(tmp_path)
    assert source.ignored == {"litter": 1}
    assert [item.name for item in source.set_aside] == ["x.png"]
