"""Names with brackets, names that are no UTF-8, tables of paths without pictures: read, or refused in one line."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.prepare import prepare
from pikavae.data.sources.open import open_source
from pikavae.errors import UserError

BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def encoded(i):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tables(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"image": [encoded(i) for i in range(8)], "text": [f"picture {i}" for i in range(8)]}
    for name in names:
        pq.write_table(pa.table(rows), folder / "plain")
        (folder / "plain").rename(folder / name)


@pytest.mark.parametrize(
    ("folder", "pattern", "count"),
    [
        ("set [v2]", "set [v2]/*.parquet", 2),
        ("set [v2]", "set [v2]/a.parquet", 1),
        ("set [v2]", "set [v2]", 2),
        ("set [v2]/deep [x]", "set [v2]/*/*.parquet", 2),
        ("set [v2]/deep [x]", "set*/deep [x]/*.parquet", 2),
        ("what?", "what?/*.parquet", 2),
        ("st*r", "st*r/[ab].parquet", 2),
        ("plain", "plai[n]/a*", 1),
    ],
)
def test_a_pattern_in_a_folder_with_brackets_finds_the_tables(tmp_path, folder, pattern, count):
    write_tables(tmp_path / folder, "a.parquet", "b.parquet")
    source = open_source(str(tmp_path / pattern), DataConfig(source="x"), "data.source")
    assert source.count() == 8 * count


def test_names_that_are_no_utf8_are_prepared_and_recorded(tmp_path, monkeypatch):
    root = tmp_path / os.fsdecode(b"set\xff")
    (root / os.fsdecode(b"sub\xfe")).mkdir(parents=True)
    for i in range(8):
        path = root / os.fsdecode(b"sub\xfe/p\xff%d.png" % i)
        path.write_bytes(encoded(i))
        path.with_suffix(".txt").write_text(f"picture {i}")
    monkeypatch.chdir(root)
    config = DataConfig(source=".", image_size=8, validation_fraction=0.3, workers=1)
    prepared, _ = prepare(config, tmp_path / "prepared")
    captions = dict(zip(prepared.train.names, prepared.train.captions, strict=True))
    assert captions == {name: f"picture {name[-5]}" for name in captions}
    assert all(name.startswith("sub\\xfe/p\\xff") for name in captions)
    assert "sub\\xfe/p\\xff" in (prepared.path / "page.html").read_text(encoding="utf-8")
    assert prepare(config, tmp_path / "prepared")[1]


def test_tables_whose_names_are_no_utf8_are_read(tmp_path):
    write_tables(tmp_path, os.fsdecode(b"t\xff.parquet"))
    source = open_source(str(tmp_path), DataConfig(source="x"), "data.source")
    assert [p.caption for chunk in source.chunks(100) for p in chunk.pictures()] == [f"picture {i}" for i in range(8)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"bytes": None, "path": "a/0.png"}] * 4, BYTES),
        pa.array([{"bytes": None, "path": "a/0.png"}] * 4),
        pa.array([{"bytes": None, "path": None}] * 4, BYTES),
        pa.nulls(4),
        pa.array([b"no picture"] * 4),
    ],
)
@pytest.mark.parametrize("fraction", [0.05, 1.0])
def test_a_table_without_any_picture_is_refused_in_one_line(tmp_path, column, fraction):
    pq.write_table(pa.table({"image": column, "text": ["a"] * 4}), tmp_path / "t.parquet")
    config = DataConfig(source=str(tmp_path), image_size=8, max_unreadable_fraction=fraction, workers=1)
    with pytest.raises(
        UserError, match=r"none of its 4 pictures can be read \(t\.parquet#00000000 and 3 more: "
    ) as caught:
        prepare(config, tmp_path / "prepared")
    assert len(str(caught.value).splitlines()) == 1
