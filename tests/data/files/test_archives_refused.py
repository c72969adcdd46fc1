"""Archives that are hostile or damaged, and disks that refuse them: one line, and nothing is left behind."""

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

from pikavae.data.files import archives, members
from pikavae.errors import PikavaeError, UserError
from tests.support.archives import PICTURES, captions_of, sources, tar, zipped
from tests.support.pictures import png


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
