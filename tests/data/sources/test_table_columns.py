"""The columns of a table: named or guessed, of which type, and the same in all files."""

import pyarrow as pa
import pytest

from pikavae.data.captions.clean import clean_caption
from tests.support.tables import STRUCT, content, contents_of, opened, pictures_of, refused, table, write


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array(["/etc/passwd"]), "str"),
        (pa.array([[1, 2]]), "list of int64"),
        (pa.array([[[1]]]), "list of list of int64"),
        (pa.array([7]), "int64"),
        (pa.array([{"path": "x.png"}]), "struct<path: string>"),
        (pa.array([{"bytes": "x"}]), "struct<bytes: string>"),
        (pa.array([True]), "bool"),
    ],
)
def test_a_column_of_anything_else_is_refused_by_its_type(tmp_path, column, kind):
    path = write(tmp_path / "t.parquet", pa.table({"image": column}))
    for fields in ({}, {"image_column": "image"}):
        assert refused(path, **fields).startswith(
            f"data.image_column 'image': holds {kind}, not pictures, in t.parquet"
        )


def test_a_column_of_paths_is_told_that_they_are_never_opened(tmp_path):
    path = write(tmp_path / "t.parquet", pa.table({"image": ["x.png"]}))
    assert "a path or address in a table is never opened" in refused(path)


# Captions


@pytest.mark.parametrize(
    ("column", "text", "note"),
    [
        (pa.array(["a cat"]), "a cat", ""),
        (pa.array(["a cat"], pa.large_string()), "a cat", ""),
        (pa.array(["a cat"]).dictionary_encode(), "a cat", ""),
        (pa.array([b"a cat"]), "a cat", ""),
        (pa.array([b"caf\xe9"]), "café", "read as Windows-1252"),
        (pa.array([b"caf\xe9"]).view(pa.string()), "café", "read as Windows-1252"),
        (pa.array([b"\x83L\x83c"]).view(pa.string()), "", "not UTF-8"),
        (pa.array([None], pa.string()), "", "missing"),
        (pa.array([None]), "", "missing"),
        (pa.array([float("nan")]), "", "missing"),
        (pa.array([7]), "7", "number"),
        (pa.array([["a cat", "a dog"]]), "a cat", "list"),
        (pa.array([{"de": "x"}]), "", "not text"),
        (pa.array([1], pa.timestamp("ns")), "", "not text"),
        (pa.array([True]), "", "not text"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_captions_of_every_type_are_taken_as_they_are(tmp_path, column, text, note, suffix):
    images = pa.array([{"bytes": content(0), "path": None}], STRUCT)
    source = opened(write(tmp_path / f"t{suffix}", pa.table({"image": images, "text": column})))
    (picture,) = pictures_of(source)
    caption = clean_caption(picture.caption)
    assert (picture.content, caption.text, caption.note) == (content(0), text, note)


def test_a_list_of_what_is_no_utf8_is_no_text_in_parquet(tmp_path):
    rows = table([0], text=pa.array([[b"caf\xe9"]]).view(pa.list_(pa.string())))
    (picture,) = pictures_of(opened(write(tmp_path / "t.parquet", rows)))
    assert clean_caption(picture.caption).note == "not text"


# Columns


@pytest.mark.parametrize(
    ("columns", "image", "caption"),
    [
        ({"image": "picture", "text": "str"}, "image", "text"),
        ({"image": "bytes", "caption": "str"}, "image", "caption"),
        ({"image": "bytes", "caption": "str", "text": "str"}, "image", "text"),
        ({"image": "bytes", "thumbnail": "bytes", "title": "str"}, "image", "title"),
        ({"jpg": "bytes", "url": "str", "title": "str"}, "jpg", "title"),
        ({"jpg": "picture", "file_name": "str", "ID": "str"}, "jpg", None),
        ({"jpg": "bytes", "image": "str", "title": "int"}, "jpg", "image"),
        ({"jpg": "bytes", "text": "int"}, "jpg", "text"),
        ({"a.b": "bytes", "c.d": "str"}, "a.b", "c.d"),
        ({"bild": "picture", "beschreibung": "str"}, "bild", "beschreibung"),
        ({"画像": "bytes", "説明": "str"}, "画像", "説明"),
    ],
)
def test_columns_are_guessed_where_one_is_possible(tmp_path, columns, image, caption):
    values = {
        "picture": pa.array([{"bytes": content(0), "path": None}], STRUCT),
        "bytes": pa.array([content(0)]),
        "str": pa.array(["a cat"]),
        "int": pa.array([7]),
    }
    source = opened(write(tmp_path / "t.parquet", pa.table({name: values[kind] for name, kind in columns.items()})))
    assert source.columns == {"image": image, "caption": caption}
    assert source.content()["columns"] == source.columns
    (picture,) = pictures_of(source)
    assert picture.content == content(0)
    assert picture.caption == (None if caption is None else 7 if columns[caption] == "int" else "a cat")


def test_what_was_guessed_is_said_once(tmp_path, caplog):
    source = opened(write(tmp_path / "t.parquet", pa.table({"jpg": [content(0)], "title": ["a"], "id": ["b"]})))
    source.content()
    pictures_of(source)
    assert [record.getMessage() for record in caplog.records] == [
        "t.parquet: pictures are taken from the column 'jpg'",
        "t.parquet: captions are taken from the column 'title'",
    ]


def test_guessed_and_named_columns_are_one_content(tmp_path):
    path = write(tmp_path / "t.parquet", table(text=["a", "b", "c"]))
    guessed, named = opened(path), opened(path, image_column="image", caption_column="text")
    assert guessed.content() == named.content()
    assert [c.content for c in guessed.chunks(2)] == [c.content for c in named.chunks(2)]


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (
            pa.table({"a": [b"x"], "b": [b"x"]}),
            {},
            "t.parquet: a, b may hold the pictures; name one in data.image_column",
        ),
        (pa.table({"a": ["x"], "b": [1]}), {}, "t.parquet: no column holds pictures; it has a (str), b (int64)"),
        (
            pa.table({"image": [b"x"], "title": ["x"], "about": ["y"]}),
            {},
            "t.parquet: title, about may hold the captions; name one in data.caption_column",
        ),
        (
            pa.table({"image": [b"x"], "text": ["x"]}),
            {"image_column": "img"},
            "data.image_column 'img': no such column in",
        ),
        (
            pa.table({"image": [b"x"], "te\nxt": ["x"]}),
            {"caption_column": "title"},
            "data.caption_column 'title': no such column in t.parquet; it has 'te\\nxt'",
        ),
        (
            pa.table([pa.array([b"x"]), pa.array(["a"]), pa.array(["b"])], names=["image", "text", "text"]),
            {},
            "t.parquet: two columns are named 'text'; rename one",
        ),
        (pa.table({}), {}, "t.parquet: no column holds pictures; it has no columns"),
    ],
)
def test_columns_that_are_not_there_or_not_clear_are_listed(tmp_path, rows, fields, message):
    assert refused(write(tmp_path / "t.parquet", rows), **fields).startswith(message)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (pa.table({"image": [b"x"], "text": [7]}), "b.parquet: its column 'text' is int64, in a.parquet it is str;"),
        (
            pa.table({"image": [b"x"], "title": ["x"]}),
            "b.parquet: its column 'text' is not there, in a.parquet it is str;",
        ),
        (table([1], text=["x"]), "b.parquet: its column 'image' is pictures, in a.parquet it is bytes;"),
        (pa.table({"text": ["x"]}), "b.parquet: its column 'image' is not there, in a.parquet it is bytes;"),
    ],
)
def test_files_that_disagree_are_refused_by_file_and_column(tmp_path, second, message):
    write(tmp_path / "a.parquet", pa.table({"image": [b"x"], "text": ["x"]}))
    write(tmp_path / "b.parquet", second)
    assert refused(tmp_path).startswith(message)


@pytest.mark.parametrize(
    "second",
    [
        pa.table({"image": [content(1)], "text": pa.array([None])}),
        pa.table({"text": pa.array(["x"], pa.large_string()), "image": [content(1)], "more": [1]}),
    ],
)
def test_files_that_agree_in_what_is_used_are_one_source(tmp_path, second):
    write(tmp_path / "a.parquet", pa.table({"image": [content(0)], "text": ["x"]}))
    write(tmp_path / "b.parquet", second)
    assert contents_of(opened(tmp_path)) == [content(0), content(1)]
