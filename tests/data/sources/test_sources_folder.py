"""Folders of pictures: what is taken, and what is set aside and why."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import pytest

from pikavae.data.files.listing import printable
from pikavae.errors import UserError
from tests.support.folders import PNG, captions_of, encoded, fill, opened, picture, pictures_of


@pytest.mark.parametrize(
    "name",
    [
        "x.png",
        "X.PNG",
        "a b.jpeg",
        "sub/deep/x.webp",
        'quote".png',
        "it's.png",
        "new\nline.png",
        "tab\t.png",
        "caf\u00e9.png",
        "cafe\u0301.png",
        "ピカ.png",
        "صورة.png",
        "😀.png",
        "%20&?#.png",
        "-rf.png",
        "back\\slash.png",
        "n" * 251 + ".png",
        ("長" * 83) + ".gif",
        "two.dots.png",
        "trailing .png",
        "con.png",
    ],
)
def test_every_name_is_kept_exactly(tmp_path, name):
    source = opened(fill(tmp_path, {name: PNG}))
    assert {name: picture.content for name, picture in pictures_of(source).items()} == {name: PNG}
    assert source.content() == {name: [hashlib.sha256(PNG).hexdigest(), None]}
    assert (source.count(), source.set_aside, source.ignored) == (1, [], {})


def test_the_two_unicode_forms_of_a_name_are_two_pictures(tmp_path):
    source = opened(fill(tmp_path, {"\u00e9.png": picture(1), "e\u0301.png": picture(2)}))
    found = pictures_of(source)
    assert {name: item.content for name, item in found.items()} == {"\u00e9.png": picture(1), "e\u0301.png": picture(2)}


def test_names_that_are_no_utf8_become_printable_and_stay_apart(tmp_path):
    names = {os.fsdecode(b"\xff.png"): "\\xff.png", "\\xff.png": "\\x5cxff.png", "\\x5cxff.png": "\\x5cx5cxff.png"}
    source = opened(fill(tmp_path, {name: picture(i) for i, name in enumerate(names)}))
    assert {name: item.content for name, item in pictures_of(source).items()} == {
        shown: picture(i) for i, shown in enumerate(names.values())
    }
    json.dumps(dict(source.content()), ensure_ascii=False).encode()
    assert [printable(name) for name in names] == list(names.values())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain", PNG),
        ("photo.jpg_large", encoded("JPEG")),
        ("photo.dat", encoded("GIF")),
        ("photo.bin", encoded("WEBP")),
        ("0123abcd", encoded("TIFF")),
        ("picture.x", encoded("BMP")),
        ("picture.y", encoded("AVIF")),
        ("picture.z", encoded("PPM")),
        ("note.txt", PNG),
        ("photo.heic", encoded("JPEG")),
        ("wrong.jpg", PNG),
    ],
)
def test_the_content_decides_where_the_suffix_does_not(tmp_path, name, content):
    source = opened(fill(tmp_path, {name: content, "other.png": picture(9)}))
    assert pictures_of(source)[name].content == content
    assert source.set_aside == []


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (".DS_Store", b"\0\0\0\1Bud1", "litter"),
        ("Thumbs.db", PNG, "litter"),
        ("desktop.ini", b"", "litter"),
        ("._x.png", b"\0\5\x16\7", "litter"),
        ("sub/._x.png", b"\0\5\x16\7", "litter"),
        ("__MACOSX/._x.png", b"\0\5\x16\7", "litter"),
        ("__MACOSX/x.png", PNG, "litter"),
        (".gitattributes", b"", "hidden"),
        (".cache/x.png", PNG, "hidden"),
        ("README.md", b"BMW drives", "other"),
        ("notes.txt", b"P5 is a file format", "other"),
        ("empty", b"", "other"),
        ("x.json", b"{}", "other"),
        ("movie.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0", "other"),
    ],
)
def test_what_is_no_picture_is_passed_over_and_counted(tmp_path, name, content, kind):
    source = opened(fill(tmp_path, {name: content, "other.png": PNG}))
    assert list(pictures_of(source)) == ["other.png"]
    assert (source.ignored, source.set_aside) == ({kind: 1}, [])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.svg", b"<svg/>", ".svg is not read; convert it to .png"),
        ("x.PSD", b"8BPS", ".psd is not read; convert it to .png"),
        ("x.dng", encoded("TIFF"), ".dng is not read; convert it to .png"),
        (".x.png", PNG, "hidden: its name begins with a dot"),
        ("t.parquet", b"PAR1", "a table beside pictures is not read"),
    ],
)
def test_what_looks_like_a_picture_and_is_not_read_is_set_aside(tmp_path, name, content, reason):
    source = opened(fill(tmp_path, {name: content, "other.png": PNG}))
    assert list(pictures_of(source)) == ["other.png"]
    assert [item[:2] for item in source.set_aside] == [(name, reason)]


@pytest.mark.parametrize("name", ["x.png", "x.txt"])
def test_a_folder_named_like_a_file_is_recorded_and_its_pictures_are_read(tmp_path, name):
    source = opened(fill(tmp_path, {f"{name}/inside.png": PNG, "x.jpg": PNG}))
    assert captions_of(source) == {f"{name}/inside.png": None, "x.jpg": None}
    assert [item[:2] for item in source.set_aside] == [
        (name, "a folder with the suffix of a file; what is in it is read as usual")
    ]


def test_equal_names_in_sub_folders_are_two_pictures(tmp_path):
    source = opened(fill(tmp_path, {"a/x.png": picture(1), "b/x.png": picture(2), "a/x.txt": "one"}))
    assert {n: (p.content, p.caption) for n, p in pictures_of(source).items()} == {
        "a/x.png": (picture(1), b"one"),
        "b/x.png": (picture(2), None),
    }


@pytest.mark.parametrize(
    ("name", "target", "reason"),
    [
        (
            "link.png",
            "../secret.png",
            "a link that leaves the folder; name the folder that it leads to in data.links_into",
        ),
        (
            "link.png",
            "/etc/hostname",
            "a link that leaves the folder; name the folder that it leads to in data.links_into",
        ),
        ("link.png", "nothing.png", "a link that leads nowhere"),
        ("link.png", "link.png", "cannot be read: Too many levels of symbolic links"),
        ("sub/loop", "..", "a link to a folder; what is in it is read where it lies"),
        ("sub/loop", ".", "a link to a folder; what is in it is read where it lies"),
        ("out", "../outside", "a link that leaves the folder; name the folder that it leads to in data.links_into"),
    ],
)
def test_links_that_lead_elsewhere_are_set_aside(tmp_path, name, target, reason):
    root = fill(tmp_path / "root", {"sub/x.png": PNG})
    fill(tmp_path, {"secret.png": PNG, "outside/x.png": PNG, "root2/x.png": PNG})
    (root / name).symlink_to(target)
    source = opened(root)
    assert list(pictures_of(source)) == ["sub/x.png"]
    assert [item[:2] for item in source.set_aside] == [(name, reason)]


def test_a_link_to_a_file_of_the_folder_is_that_file(tmp_path):
    root = fill(tmp_path / "root", {"sub/x.png": PNG, "sub/x.txt": "a caption"})
    (root / "link.png").symlink_to("sub/x.png")
    (tmp_path / "door").symlink_to(root)
    for path in (root, tmp_path / "door"):
        source = opened(path)
        assert {n: p.content for n, p in pictures_of(source).items()} == {"link.png": PNG, "sub/x.png": PNG}
        assert source.set_aside == []


def test_a_pipe_is_never_opened(tmp_path):
    os.mkfifo(fill(tmp_path, {"other.png": PNG}) / "x.png")
    assert [item[:2] for item in opened(tmp_path).set_aside] == [("x.png", "neither a file nor a folder")]


@pytest.fixture
def without_rights():
    """A folder that is reached without the rights of the superuser, who may read everything."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        user = os.geteuid()
        yield root, lambda: os.seteuid(65534) if user == 0 else None
        os.seteuid(user)
        for path in root.rglob("*"):
            path.chmod(0o755)


def test_what_may_not_be_read_has_its_reason(without_rights):
    root, drop_rights = without_rights
    fill(root, {"a.png": PNG, "b.png": PNG, "c": PNG, "closed/x.png": PNG, "a.txt": "caption", "b.txt": "caption"})
    for name in ("b.png", "c", "closed", "a.txt"):
        (root / name).chmod(0)
    drop_rights()
    source = opened(root)
    found = pictures_of(source)
    assert (found["a.png"].content, found["a.png"].caption) == (PNG, None)
    assert (found["b.png"].content, found["b.png"].problem) == (None, "cannot be read: Permission denied")
    assert not found["b.png"].transient
    assert source.content()["b.png"][0] == "cannot be read: Permission denied"
    assert [item[:2] for item in source.set_aside] == [
        ("c", "cannot be read: Permission denied"),
        ("closed/", "cannot be listed: Permission denied"),
        ("a.txt", "cannot be read: Permission denied"),
    ]


def test_files_that_change_between_listing_and_reading_are_told_from_bad_ones(tmp_path):
    names = ("gone.png", "changed.png", "caption.png", "caption_gone.png", "kept.png")
    files = {**dict.fromkeys(names, PNG), "caption.txt": "old", "caption_gone.txt": "old"}
    source = opened(fill(tmp_path, files))
    (chunk,) = source.chunks(100)
    (tmp_path / "gone.png").unlink()
    (tmp_path / "changed.png").write_bytes(picture(3))
    (tmp_path / "caption.txt").write_text("new")
    (tmp_path / "caption_gone.txt").unlink()
    assert {p.name: (p.content, p.problem, p.transient) for p in chunk.pictures()} == {
        "gone.png": (None, "vanished after it was listed", True),
        "changed.png": (None, "changed after it was listed", True),
        "caption.png": (None, "changed after it was listed", True),
        "caption_gone.png": (None, "vanished after it was listed", True),
        "kept.png": (PNG, "", False),
    }


def test_a_picture_that_vanished_before_it_was_hashed_has_its_reason(tmp_path):
    source = opened(fill(tmp_path, {"a.png": PNG, "b.png": PNG}))
    (tmp_path / "a.png").unlink()
    assert pictures_of(source)["a.png"].problem == "cannot be read: No such file or directory"
    assert pictures_of(source)["b.png"].content == PNG


# Sidecars


@pytest.mark.parametrize(
    ("files", "caption"),
    [
        ({}, None),
        ({"x.txt": "a cat"}, b"a cat"),
        ({"x.TXT": "a cat"}, b"a cat"),
        ({"x.caption": "a cat"}, b"a cat"),
        ({"x.txt": ""}, b""),
        ({"x.txt": b"\xef\xbb\xbfcat"}, b"\xef\xbb\xbfcat"),
        ({"x.txt": b"caf\xe9"}, b"caf\xe9"),
        ({"X.txt": "written otherwise"}, b"written otherwise"),
        ({"sub/x.txt": "another file's"}, None),
        ({"x.txt": "a" * 80_000}, b"a" * 80_000),
        ({"x.txt": "é" * 80_000}, "é".encode() * 39_999),
        ({"x.txt": "x" + "長" * 80_000}, b"x" + "長".encode() * 26_666),
    ],
)
def test_text_beside_a_picture_is_its_caption(tmp_path, files, caption):
    assert captions_of(opened(fill(tmp_path, {"x.png": PNG, **files}))) == {"x.png": caption}


def test_of_two_caption_files_one_counts_and_the_other_is_recorded(tmp_path):
    source = opened(fill(tmp_path, {"x.png": PNG, "x.txt": "this", "x.caption": "that"}))
    assert captions_of(source) == {"x.png": b"this"}
    assert [item[:2] for item in source.set_aside] == [("x.caption", "x.txt is beside it and counts")]


def test_pictures_of_one_stem_share_a_caption_file(tmp_path):
    assert captions_of(opened(fill(tmp_path, {"x.png": PNG, "x.jpg": PNG, "x": PNG, "x.txt": "all"}))) == {
        "x.png": b"all",
        "x.jpg": b"all",
        "x": b"all",
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "the folder holds no pictures and no .parquet, .arrow, .tar or .zip files"),
        ({"x.psd": b"-"}, "left out: 1 .psd files, such as 'x.psd': .psd is not read; convert it to .png"),
        ({"test.parquet": b"-"}, "the folder holds no pictures"),
    ],
)
def test_a_folder_without_pictures_is_refused(tmp_path, files, message):
    with pytest.raises(UserError) as caught:
        opened(fill(tmp_path, files))
    assert str(caught.value).startswith(f"data.source {str(tmp_path)!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "a/" * 3000, "nul\0byte", "~nobody_of_this_name/x", "**x/*.parquet"])
def test_a_name_that_the_system_refuses_is_said_in_one_line(name):
    with pytest.raises(UserError) as caught:
        opened(name)
    assert str(caught.value).startswith("data.source ")
    assert len(str(caught.value).splitlines()) == 1
