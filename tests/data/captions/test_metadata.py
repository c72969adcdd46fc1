"""Captions from metadata.csv and metadata.jsonl: every form they come in, and what is refused by name and row."""

import json
import os

import pytest

from pikavae.config import DataConfig
from pikavae.data.sources.open import open_source
from pikavae.errors import UserError

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = ("x.png", "y.png", "sub/z.png")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def opened(root, **fields):
    return open_source(str(root), DataConfig(source=str(root), **fields), "data.source")


def captions_of(source):
    return {picture.name: picture.caption for chunk in source.chunks(100) for picture in chunk.pictures()}


def write(folder, content, name="metadata.csv"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


@pytest.mark.parametrize(
    "content",
    [
        "file_name,text\nx.png,a cat\n",
        "file_name,text\nx.png,a cat",
        "\ufefffile_name,text\nx.png,a cat\n",
        "file_name,text\r\nx.png,a cat\r\n",
        "file_name,text\rx.png,a cat\r",
        "text,file_name\na cat,x.png\n",
        '"file_name","text"\n"x.png","a cat"\n',
        "\nfile_name,text\n\nx.png,a cat\n\n".lstrip("\n"),
        "file_name,text\n./x.png,a cat\n",
        "file_name,text\n.\\x.png,a cat\n",
        "file_name,text\nsub/../x.png,a cat\n".replace("sub/../", "./"),
        "file_name,caption\nx.png,a cat\n",
        "file_name,title\nx.png,a cat\n",
        "file_name,url,text\nx.png,http://there,a cat\n",
        "file_name,id,title\nx.png,7,a cat\n",
        "file_name,text,caption\nx.png,a cat,another\n",
    ],
)
def test_one_row_gives_one_caption_and_the_others_are_kept_without(folder, content):
    source = opened(write(folder, content))
    assert captions_of(source) == {"x.png": "a cat", "y.png": None, "sub/z.png": None}
    assert source.set_aside == []
    assert source.count() == 3


@pytest.mark.parametrize(
    ("field", "caption"),
    [
        ('"one, two"', "one, two"),
        ('"two\nlines"', "two\nlines"),
        ('"two\r\nlines"', "two\r\nlines"),
        ('"said ""hi"""', 'said "hi"'),
        ("a\u2028b\u0085c", "a\u2028b\u0085c"),
        ("ピカチュウ", "ピカチュウ"),
        ("a\x00b", "a\x00b"),
        ("", ""),
        (" ", " "),
    ],
)
def test_a_field_of_a_csv_file_is_taken_as_it_is(folder, field, caption):
    source = opened(write(folder, f"file_name,text\nx.png,{field}\ny.png,after\n"))
    assert captions_of(source) == {"x.png": caption, "y.png": "after", "sub/z.png": None}


@pytest.mark.parametrize(
    ("lines", "caption"),
    [
        ('{"file_name": "x.png", "text": "a cat"}\n', "a cat"),
        ('\ufeff{"file_name": "x.png", "text": "a cat"}\r\n\r\n', "a cat"),
        ('{"file_name": "x.png", "text": "a\u2028b"}', "a\u2028b"),
        ('{"file_name": "x.png", "text": ["a", "b"]}', ["a", "b"]),
        ('{"file_name": "x.png", "text": null}', None),
        ('{"file_name": "x.png", "text": 7}', 7),
        ('{"file_name": "x.png", "text": {"de": "x"}}', {"de": "x"}),
        ('{"file_name": "x.png", "text": "\\ud800"}', "\ud800"),
        ('{"file_name": "x.png", "label": 3, "title": "a cat"}\n{"file_name": "y.png"}', "a cat"),
        ('{"file_name": "x.png", "label": 3}', None),
    ],
)
def test_a_value_of_a_jsonl_file_is_taken_as_it_is(folder, lines, caption):
    source = opened(write(folder, lines, "metadata.jsonl"))
    assert captions_of(source) == {"x.png": caption, "y.png": None, "sub/z.png": None}
    json.dumps(dict(source.content()), ensure_ascii=False).encode()


@pytest.mark.parametrize("name", ["sub/z.png", "sub\\z.png", "./sub//z.png", ".\\sub\\z.png"])
def test_names_of_windows_and_of_shells_lead_to_the_same_file(folder, name):
    assert captions_of(opened(write(folder, f"file_name,text\n{name},yes\n")))["sub/z.png"] == "yes"


def test_a_backslash_in_a_name_is_found_first(folder):
    (folder / "sub\\z.png").write_bytes(PNG)
    captions = captions_of(opened(write(folder, "file_name,text\nsub\\z.png,yes\n")))
    assert (captions["sub\\z.png"], captions["sub/z.png"]) == ("yes", None)


@pytest.mark.parametrize(("written", "stored"), [("\u00e9.png", "e\u0301.png"), ("e\u0301.png", "\u00e9.png")])
def test_a_name_in_the_other_unicode_form_is_found_if_it_is_the_only_one(folder, written, stored):
    (folder / stored).write_bytes(PNG)
    write(folder, f"file_name,text\n{written},yes\n")
    assert captions_of(opened(folder))[stored] == "yes"
    (folder / written).write_bytes(PNG)
    captions = captions_of(opened(folder))
    assert (captions[written], captions[stored]) == ("yes", None)


def test_a_name_that_is_no_utf8_is_found_by_its_printable_form(folder):
    (folder / os.fsdecode(b"\xff.png")).write_bytes(PNG)
    assert captions_of(opened(write(folder, "file_name,text\n\\xff.png,yes\n")))["\\xff.png"] == "yes"


@pytest.mark.parametrize(
    ("rows", "caption", "set_aside"),
    [
        ("x.png,one\nx.png,one\n", "one", []),
        ("x.png,one\n./x.png,two\n", "one", [("row 2", "another caption for 'x.png'; that of row 1 counts")]),
        ("x.png,one\nno.png,two\n", "one", [("row 2", "names 'no.png', which is not there")]),
        (
            "no.png,a\n\n.png,b\n",
            None,
            [("row 1", "names 'no.png', which is not there"), ("row 2", "names '.png', which is not there")],
        ),
        ("X.PNG,one\n", "one", []),
    ],
)
def test_rows_that_fit_no_picture_or_an_earlier_row_go_on_record(folder, rows, caption, set_aside):
    source = opened(write(folder, f"file_name,text\n{rows}"))
    assert captions_of(source)["x.png"] == caption
    assert [item[:2] for item in source.set_aside] == [(f"metadata.csv {row}", reason) for row, reason in set_aside]


def test_metadata_files_of_sub_folders_count_from_their_own_folder_and_come_first(folder):
    write(folder, "file_name,text\nx.png,top\nsub/z.png,from above\n")
    write(folder, "file_name,text\nz.png,own\n", "sub/metadata.csv")
    source = opened(folder)
    assert captions_of(source) == {"x.png": "top", "y.png": None, "sub/z.png": "own"}
    assert [item[:2] for item in source.set_aside] == [
        ("metadata.csv row 2", "another caption for 'sub/z.png'; that of a deeper metadata file counts")
    ]


def test_caption_files_are_read_where_the_metadata_has_no_caption(folder):
    for name in ("x.txt", "y.txt", "sub/z.txt"):
        (folder / name).write_text("beside")
    write(folder, "file_name,text\ny.png,from above\n")
    write(folder, '{"file_name": "z.png", "text": null}', "sub/metadata.jsonl")
    source = opened(folder)
    assert captions_of(source) == {"x.png": b"beside", "y.png": "from above", "sub/z.png": b"beside"}
    assert source.ignored == {"captions beside pictures": 1}
    assert source.warnings == [
        "1 picture has captions that differ (y.png): a row of a list counts before files beside the picture, and of "
        "these .txt before .caption before .json."
    ]


def test_only_captions_and_not_the_rest_of_a_metadata_file_are_content(folder):
    before = opened(write(folder, "file_name,text\nx.png,one\n")).content()
    assert opened(write(folder, "id,file_name,text\r\n7,x.png,one\r\n")).content() == before
    after = opened(write(folder, "file_name,text\nx.png,two\n")).content()
    assert [name for name in before if before[name] != after[name]] == ["x.png"]


def test_columns_may_be_named(folder):
    write(folder, "file_name,title,description\nx.png,short,long\n")
    source = opened(folder, caption_column="description")
    assert captions_of(source)["x.png"] == "long"
    assert source.columns == {"caption": "description"}


def test_what_was_guessed_is_said(folder, caplog):
    source = opened(write(folder, "file_name,title\nx.png,a cat\n"))
    assert source.columns == {"caption": "title"}
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}/metadata.csv: captions are taken from the column 'title'"
    ]


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        ("file_name,text\n/etc/x.png,a\n", {}, "metadata.csv row 1: '/etc/x.png' leaves the folder"),
        ("file_name,text\nx.png,a\n../x.png,a\n", {}, "metadata.csv row 2: '../x.png' leaves the folder"),
        ("file_name,text\nsub/../x.png,a\n", {}, "metadata.csv row 1: 'sub/../x.png' leaves the folder"),
        ("file_name,text\n..\\x.png,a\n", {}, "metadata.csv row 1: '..\\\\x.png' leaves the folder"),
        ("file_name,text\nC:\\x.png,a\n", {}, "metadata.csv row 1: 'C:\\\\x.png' leaves the folder"),
        ("file_name,text\n\\\\host\\x.png,a\n", {}, "leaves the folder"),
        ("file_name,text\n,a\n", {}, "metadata.csv row 1: file_name '' is not a file name"),
        ("file_name,text\nx.png,one, two\n", {}, "metadata.csv row 1: 3 fields under 2 columns; put a caption that"),
        (
            "subject,text\nx,a\n",
            {},
            "row 1: no column `file_name`; columns, separated by commas, are 'subject', 'text'",
        ),
        ("file_name,text,text\nx.png,a,b\n", {}, "metadata.csv row 1: two columns of one name"),
        ("", {}, "metadata.csv: empty; it needs a header"),
        (b"file_name,text\nx.png,\x83L\n", {}, "metadata.csv: byte 21 (0x83) is not UTF-8; save the file as UTF-8"),
        (b"\xef\xbb\xbffile_name,text\nx.png,caf\xe9\n", {}, "metadata.csv: byte 27 (0xe9) is not UTF-8"),
        (
            'file_name,text\nx.png,"' + "open " * 30_000,
            {},
            "not CSV: field larger than field limit (131072); is a double",
        ),
        (
            "file_name,title,about\nx.png,a,b\n",
            {},
            "title, about may hold the captions; name one in data.caption_column",
        ),
        (
            "file_name,title\nx.png,a\n",
            {"caption_column": "text"},
            "data.caption_column 'text': no such column in",
        ),
    ],
)
def test_a_csv_file_that_cannot_be_understood_is_refused_in_one_line(folder, content, fields, message):
    source = opened(write(folder, content), **fields)
    with pytest.raises(UserError) as caught:
        source.content()
    assert message in str(caught.value)
    assert "metadata.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "x.png"}\n{"file_name": \n', "metadata.jsonl line 2: not JSON: "),
        ("\n[1]\n", "metadata.jsonl line 2: list instead of an object"),
        ('"x.png"', "metadata.jsonl line 1: str instead of an object"),
        ("[" * 100_000, "metadata.jsonl line 1: not JSON: "),
        ('{"text": "a"}', "metadata.jsonl row 1: no `file_name`; columns are 'text'"),
        ('{"file_name": 7, "text": "a"}', "metadata.jsonl row 1: file_name 7 is not a file name"),
        ('{"file_name": null, "text": "a"}', "metadata.jsonl row 1: file_name None is not a file name"),
        ('{"file_name": "../x.png", "text": "a"}', "metadata.jsonl row 1: '../x.png' leaves the folder"),
        (b'{"file_name": "\x83.png"}', "metadata.jsonl: byte 15 (0x83) is not UTF-8"),
    ],
)
def test_a_jsonl_file_that_cannot_be_understood_is_refused_in_one_line(folder, content, message):
    source = opened(write(folder, content, "metadata.jsonl"))
    with pytest.raises(UserError) as caught:
        list(source.chunks(10))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_two_metadata_files_of_one_folder_are_refused(folder):
    write(folder, "file_name,text\nx.png,a\n")
    write(folder, '{"file_name": "x.png", "text": "b"}', "metadata.jsonl")
    with pytest.raises(UserError, match=r"metadata\.csv: a metadata\.jsonl is beside it; keep the one"):
        opened(folder).content()


def test_metadata_files_with_captions_in_different_columns_are_refused(folder):
    write(folder, "file_name,title\nx.png,a\n")
    write(folder, "file_name,about\nz.png,a\n", "sub/metadata.csv")
    with pytest.raises(
        UserError, match=r"metadata\.csv: its captions are in 'title' and those of another .* in 'about'"
    ):
        opened(folder).content()
