"""Folders of pictures: what is taken, what is set aside and why, and how they fall into chunks."""

import hashlib
import io
import json
import os
import pickle
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.files.listing import printable
from pikavae.data.files.memo import HashMemo
from pikavae.data.sources.folders import split_by_prefix
from pikavae.data.sources.open import open_source
from pikavae.errors import UserError


def encoded(kind, colour=(200, 10, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, kind)
    return buffer.getvalue()


PNG = encoded("PNG")


def picture(number):
    return encoded("PNG", (number % 256, number // 256, 7))


def fill(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def opened(root, **fields):
    return open_source(str(root), DataConfig(source=str(root), **fields), "data.source")


def pictures_of(source, size=1000):
    return {picture.name: picture for chunk in source.chunks(size) for picture in chunk.pictures()}


def captions_of(source):
    return {name: picture.caption for name, picture in pictures_of(source).items()}


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


# Chunks


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
