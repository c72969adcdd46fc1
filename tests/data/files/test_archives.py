"""Archives of pictures: what is in them is read as beside files, and nothing hostile in them does anything."""

import errno
import io
import os
import resource
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.captions.clean import clean_caption
from pikavae.data.files import archives, members
from pikavae.data.files.left_out import missing_line
from pikavae.data.files.memo import HashMemo
from pikavae.data.prepare import prepare
from pikavae.data.sources.open import open_sources
from pikavae.errors import PikavaeError, UserError


def png(number):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {
    name: content for i in range(6) for name, content in ((f"{i}.png", png(i)), (f"{i}.txt", b"caption %d" % i))
}


def tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


MAKERS = {
    "x.tar": tar,
    "x.tar.gz": lambda path, files: tar(path, files, "w:gz"),
    "x.tgz": lambda path, files: tar(path, files, "w:gz"),
    "x.tar.xz": lambda path, files: tar(path, files, "w:xz"),
    "x.tar.bz2": lambda path, files: tar(path, files, "w:bz2"),
    "X.ZIP": zipped,
}


def sources(path, home, **fields):
    return open_sources(DataConfig(source=str(path), **fields), HashMemo(home / "prepared"))


def captions_of(source):
    return {picture.name: picture.caption for chunk in source.chunks(1000) for picture in chunk.pictures()}


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_is_read_as_a_folder_is(tmp_path, name):
    (tmp_path / "set").mkdir()
    archive = MAKERS[name](tmp_path / "set" / name, PICTURES)
    expected = {f"{i}.png": b"caption %d" % i for i in range(6)}
    assert captions_of(sources(archive, tmp_path)["source"]) == expected
    inside = sources(tmp_path / "set", tmp_path)["source"]
    assert captions_of(inside) == {f"{name}/{key}": value for key, value in expected.items()}
    assert (inside.set_aside, inside.ignored) == ([], {})


def test_a_folder_of_shards_is_one_set_and_is_unpacked_once(tmp_path, caplog):
    (tmp_path / "set").mkdir()
    for shard in range(3):
        files = {
            f"{shard}{i}.{suffix}": PICTURES[f"{i}.{suffix}"] + b" " * shard
            for i in range(6)
            for suffix in ("png", "txt")
        }
        tar(tmp_path / "set" / f"shard-{shard}.tar", files)
    (tmp_path / "set" / "README.md").write_text("about")
    config = DataConfig(source=str(tmp_path / "set"), image_size=8, drop_duplicates="none")
    with caplog.at_level("INFO"):
        prepared, reused = prepare(config, tmp_path / "prepared")
    assert prepared.record.num_images == 18
    assert sum("unpacking" in message for message in caplog.messages) == 3
    assert missing_line(prepared.record) == "0 unreadable, 0 left out, 1 other file passed over"
    caplog.clear()
    with caplog.at_level("INFO"):
        again, reused = prepare(config, tmp_path / "prepared")
    assert reused
    assert again.fingerprint == prepared.fingerprint
    assert not any("unpacking" in message for message in caplog.messages)


def test_sides_and_a_test_split_follow_from_the_names_of_shards(tmp_path):
    (tmp_path / "set").mkdir()
    for i, name in enumerate(("train-0.tar", "train-1.tar", "val-0.tar", "test-0.tar")):
        tar(tmp_path / "set" / name, {f"{i}.png": png(i)})
    opened = sources(tmp_path / "set", tmp_path)
    assert {side: sorted(captions_of(source)) for side, source in opened.items()} == {
        "train": ["train-0.tar/0.png", "train-1.tar/1.png"],
        "validation": ["val-0.tar/2.png"],
    }
    assert [warning for source in opened.values() for warning in source.warnings] == [
        "Not used: 1 file for testing, by their names; evaluate a model on them, or name them in "
        "data.validation_source."
    ]


def test_patterns_exclude_members_and_unused_ones_are_said(tmp_path):
    (tmp_path / "set").mkdir()
    zipped(tmp_path / "set" / "a.zip", {**PICTURES, "masks/0.png": png(9), "0_mask.png": png(8)})
    zipped(tmp_path / "set" / "b.zip", {"9.png": png(9)})
    source = sources(tmp_path / "set", tmp_path, exclude=("masks", "*_mask.*", "b.zip", "*.nef"))["source"]
    assert sorted(captions_of(source)) == [f"a.zip/{i}.png" for i in range(6)]
    assert source.warnings == ["data.exclude '*.nef' names nothing in the source."]


def test_an_archive_beside_its_own_pictures_is_not_read_twice(tmp_path):
    (tmp_path / "set").mkdir()
    for name, content in PICTURES.items():
        (tmp_path / "set" / name).write_bytes(content)
    zipped(tmp_path / "set" / "download.zip", PICTURES)
    source = sources(tmp_path / "set", tmp_path)["source"]
    assert source.count() == 6
    assert [item.name for item in source.set_aside] == ["download.zip"]
    prepared, _ = prepare(DataConfig(source=str(tmp_path / "set"), image_size=8), tmp_path / "prepared")
    assert missing_line(prepared.record) == "0 unreadable, 0 left out"
    told = "What lies beside pictures in tables and archives is not read: download.zip."
    assert told in prepared.record.warnings


def test_members_that_changed_after_unpacking_are_unpacked_again(tmp_path):
    archive = tar(tmp_path / "x.tar", PICTURES)
    captions_of(sources(archive, tmp_path)["source"])
    (place,) = (path.parent for path in (tmp_path / "prepared").rglob("0.png"))
    (place / "0.png").write_bytes(b"")
    (place / "1.png").unlink()
    assert sources(archive, tmp_path)["source"].count() == 6
    assert (place / "0.png").read_bytes() == PICTURES["0.png"]


def with_link(kind, target):
    def make(path):
        tar(path, {"a.png": png(1)})
        with tarfile.open(path, "a") as archive:
            member = tarfile.TarInfo("link.png")
            member.type, member.linkname = kind, target
            archive.addfile(member)
        return path

    return make


def zip_link(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        member = zipfile.ZipInfo("link.png")
        member.create_system, member.external_attr = 3, 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    return path


def named(name):
    return lambda path: (zipped if path.suffix == ".zip" else tar)(path, {"a.png": png(1), name: png(2)})


def twice(path):
    tar(path, {"a.png": png(1)})
    return tar(path, {"a.png": png(2)}, "a")


HOSTILE = [
    ("x.tar", named("../evil.png"), "its name leads out of the archive"),
    ("x.zip", named("../evil.png"), "its name leads out of the archive"),
    ("x.zip", named("..\\evil.png"), "its name leads out of the archive"),
    ("x.tar", named("/tmp/evil.png"), "its name leads out of the archive"),
    ("x.zip", named("/tmp/evil.png"), "its name leads out of the archive"),
    ("x.zip", named("C:\\evil.png"), "its name leads out of the archive"),
    ("x.tar", named("a/../../evil.png"), "its name leads out of the archive"),
    ("x.tar", named("n" * 300 + ".png"), "its name is longer than a file's may be"),
    ("x.tar", twice, "a second member of this name"),
    ("x.tar", named("a.png/b.png"), "a second member of this name"),
    ("x.tar", with_link(tarfile.SYMTYPE, "/etc/passwd"), "a link in an archive, which is not followed"),
    ("x.tar", with_link(tarfile.SYMTYPE, ".."), "a link in an archive, which is not followed"),
    ("x.tar", with_link(tarfile.LNKTYPE, "../../outside.png"), "a link in an archive, which is not followed"),
    ("x.tar", with_link(tarfile.FIFOTYPE, ""), "a device or pipe in an archive, which is not followed"),
    ("x.tar", with_link(tarfile.CHRTYPE, ""), "a device or pipe in an archive, which is not followed"),
    ("x.zip", zip_link, "a link in an archive, which is not followed"),
    ("x.tar", named(members.MEMBERS), "its name is one of ours"),
]


@pytest.mark.parametrize(("name", "make", "reason"), HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_members_are_left_out_and_nothing_is_written_elsewhere(tmp_path, name, make, reason):
    (tmp_path / "outside.png").write_bytes(b"untouched")
    archive = make(tmp_path / name)
    before = set(tmp_path.rglob("*"))
    source = sources(archive, tmp_path)["source"]
    assert sorted(captions_of(source)) == ["a.png"]
    assert [(item.reason, item.kind) for item in source.set_aside] == [(reason, archives.LEFT_OUT)]
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "prepared") for path in made)
    assert not any("evil" in path.name for path in made)
    assert not any(path.is_symlink() for path in made)
    assert not os.path.lexists("/tmp/evil.png")
    again = sources(archive, tmp_path)["source"]
    assert again.set_aside == source.set_aside


def cut(path):
    content = tar(path, {"a.png": png(1), "b.png": bytes(5000)}).read_bytes()
    path.write_bytes(content[:3000])


def encrypted(path):
    content = bytearray(zipped(path, {"a.png": png(1)}).read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def lying(path):
    """A member that declares fewer bytes than it has."""
    content = bytearray(zipped(path, {"a.png": bytes(100_000)}).read_bytes())
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = struct.pack("<I", 10)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("x.tar", cut, "no archive that can be read, or damaged"),
        ("x.tar", lambda path: path.write_bytes(b"x" * 2000), "no archive that can be read, or damaged"),
        ("x.tar", lambda path: path.write_bytes(b""), "no archive that can be read, or damaged"),
        ("x.tar.gz", lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(50)), "no archive that can be read"),
        ("x.zip", lambda path: path.write_bytes(b"PK\3\4" + bytes(99)), "no archive that can be read, or damaged"),
        ("x.zip", lying, "no archive that can be read, or damaged"),
        ("x.zip", encrypted, "no pictures in x.zip; left out: 1 members"),
        ("x.tar", lambda path: tar(path, {"a.txt": b"text"}), "no pictures in x.tar"),
    ],
)
def test_an_archive_of_no_use_is_refused_in_one_line_and_leaves_nothing(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as refused:
        sources(tmp_path / name, tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    assert not list((tmp_path / "prepared").rglob("*.tmp"))


def test_bombs_are_refused_before_they_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FREE_BYTES", 100_000)
    bomb = zipped(tmp_path / "x.zip", {f"{i}.bmp": bytes(60_000) for i in range(10)})
    with pytest.raises(UserError, match="more than 20 times its size"):
        sources(bomb, tmp_path)
    assert not list((tmp_path / "prepared").rglob("*.bmp"))
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10_000)
    large = zipped(tmp_path / "y.zip", {"large.bmp": bytes(60_000), "a.png": png(1)})
    (aside,) = sources(large, tmp_path)["source"].set_aside
    assert aside.reason == "of 60,000 bytes, more than 10,000"
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(UserError, match="more than 3 members"):
        sources(tar(tmp_path / "z.tar", PICTURES), tmp_path)


@pytest.mark.parametrize("name", ["x.rar", "x.7z"])
def test_archives_that_are_not_read_are_said(tmp_path, name):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(b"Rar!")
    with pytest.raises(UserError, match=rf"no pictures .*'{name}': {name[1:]} is not read; unpack it"):
        sources(tmp_path / "set", tmp_path)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"0.png": png(0), "0.json": b'{"caption": "a cat", "width": 8}'}, "0.png"),
        ({"0.png": png(0), "0.png.txt": b"a cat"}, "0.png"),
        ({"img/0.png": png(0), "metadata.jsonl": b'{"file_name": "img/0.png", "text": "a cat"}\n'}, "img/0.png"),
        ({"img/0.png": png(0), "img/metadata.csv": b"file_name,text\n0.png,a cat\n"}, "img/0.png"),
    ],
)
@pytest.mark.parametrize("maker", [tar, zipped])
def test_captions_of_members_follow_the_rules_of_files(tmp_path, files, name, maker):
    archive = maker(tmp_path / ("x.zip" if maker is zipped else "x.tar"), files)
    (found,) = (clean_caption(value).text for value in captions_of(sources(archive, tmp_path)["source"]).values())
    assert found == "a cat"


def without_end(path, files):
    """A .tar whose last member is followed by nothing, as one that was cut there."""
    content = tar(path, files).read_bytes()
    end = len(content)
    while not any(content[end - 512 : end]):
        end -= 512
    path.write_bytes(content[:end])
    return path


def joined(*makers):
    """Archives one after the other in one file, as `cat` makes them and `tar --ignore-zeros` reads them."""

    def make(path):
        parts = []
        for i, maker in enumerate(makers):
            parts.append(maker(path, {name: PICTURES[name] for name in (f"{i}.png", f"{i}.txt")}).read_bytes())
        path.write_bytes(b"".join(parts))

    return make


def compressed(path, files):
    return tar(path, files, "w:gz")


@pytest.mark.parametrize(
    ("name", "make", "number", "warning"),
    [
        ("x.tar", lambda path: tar(path, PICTURES), 6, None),
        ("x.tar", lambda path: path.write_bytes(tar(path, PICTURES).read_bytes() + b"label of a tape" * 99), 6, None),
        ("x.tar", lambda path: without_end(path, PICTURES), 6, members.NO_END),
        ("x.tar", lambda path: without_end(path, {"0.png": png(0)}), 1, members.NO_END),
        ("x.tar", joined(tar, tar, tar), 3, members.CONCATENATED),
        ("x.tar", joined(without_end, tar), 2, None),
        ("x.tgz", joined(compressed, compressed), 2, members.CONCATENATED),
    ],
)
def test_a_tar_that_ends_early_or_goes_on_after_its_end_is_read_whole_and_said(tmp_path, name, make, number, warning):
    make(tmp_path / name)
    expected = [] if warning is None else [f"{name}: {warning}."]
    for _ in range(2):  # the second time it lies unpacked
        source = sources(tmp_path / name, tmp_path)["source"]
        assert sorted(captions_of(source)) == [f"{i}.png" for i in range(number)]
        assert source.warnings == expected
    inside = tmp_path / "set"
    inside.mkdir()
    (tmp_path / name).rename(inside / name)
    assert sources(inside, tmp_path)["source"].warnings == expected


def test_a_tar_with_a_damaged_header_between_members_is_refused(tmp_path):
    content = bytearray(tar(tmp_path / "x.tar", PICTURES).read_bytes())
    place = content.index(b"3.png")
    content[place : place + 5] = b"?????"
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(UserError, match=f"or damaged: no header of a member at byte {place:,}"):
        sources(tmp_path / "x.tar", tmp_path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_archive_that_is_damaged_within_is_refused(tmp_path, mode):
    path = tar(
        tmp_path / f"x.tar.{mode[2:]}", {f"{i}.png": np.random.default_rng(i).bytes(9_000) for i in range(9)}, mode
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(UserError, match="no archive that can be read, or damaged"):
        sources(path, tmp_path)


FULL, READ_ONLY = "the disk is full", "the file system is read-only"


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, FULL), (errno.EDQUOT, "the quota is used up"), (errno.EROFS, READ_ONLY)]
)
@pytest.mark.parametrize("moment", ["folder", "member", "close"])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_disk_that_refuses_the_members_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, number, words, moment, is_named
):
    (tmp_path / "set").mkdir()
    archive = tar(tmp_path / "set" / "x.tar", PICTURES)

    class Refusing(io.BytesIO):
        def write(self, _):
            if moment == "member":
                raise OSError(number, os.strerror(number))

        def close(self):
            super().close()
            if moment == "close":
                raise OSError(number, os.strerror(number))

    plain_open, plain_mkdir = Path.open, Path.mkdir

    def open_refusing(path, mode="r", *rest, **options):
        return Refusing() if mode == "xb" else plain_open(path, mode, *rest, **options)

    def mkdir_refusing(path, *rest, **options):
        if moment == "folder" and path.name.endswith(".tmp"):
            raise OSError(number, os.strerror(number), str(path))
        plain_mkdir(path, *rest, **options)

    place = archive if is_named else tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_refusing)
        patch.setattr(Path, "mkdir", mkdir_refusing)
        with pytest.raises(PikavaeError, match=words) as told:
            sources(place, tmp_path)
    message = str(told.value)
    assert message.startswith(str(tmp_path / "prepared" / "unpacked"))
    assert ("\n" in message, ".tmp" in message, "data.source" in message) == (False, False, False)
    assert [path.name for path in (tmp_path / "prepared" / "unpacked").iterdir()] == ["locks"]
    assert sources(place, tmp_path)["source"].count() == 6


def test_a_limit_of_the_system_stops_unpacking_in_one_line(tmp_path):
    archive = tar(tmp_path / "x.tar", {**PICTURES, "large.bmp": bytes(300_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(PikavaeError, match=r"large\.bmp: the file is larger than .* the limit allows; raise it"):
            sources(archive, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "prepared" / "unpacked").iterdir()] == ["locks"]
