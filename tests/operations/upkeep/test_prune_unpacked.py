"""Prune removes what was unpacked of archives that are gone or were changed, and nothing that somebody reads."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from flows.cli import main
from pikavae.config import DataConfig
from pikavae.data.prepare import prepare
from pikavae.workspace.files import exclusive
from pikavae.workspace.home import home
from tests.support import commands


@pytest.fixture
def folder(isolated, tmp_path):
    """Two archives of four pictures each, prepared."""
    (tmp_path / "set").mkdir()
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(tmp_path / "set" / name, "w") as archive:
            for i in range(4):
                buffer = io.BytesIO()
                pixels = np.random.default_rng([i, ord(name[0])]).integers(0, 256, (8, 8, 3), np.uint8)
                Image.fromarray(pixels).save(buffer, "PNG")
                archive.writestr(f"{i}.png", buffer.getvalue())
    make(tmp_path / "set")
    return tmp_path / "set"


def make(source):
    return prepare(DataConfig(source=str(source), image_size=8, drop_duplicates="none", workers=1), home() / "prepared")


def unpacked():
    return sorted(path.name for path in (home() / "prepared" / "unpacked").glob("?" * 64))


def views():
    return list((home() / "prepared" / "unpacked" / "views").iterdir())


def delete(archive):
    archive.unlink()


def change(archive):
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("note.md", "more")


def move(archive):
    archive.rename(archive.with_name("moved.zip"))


def test_members_of_archives_that_are_there_stay(folder):
    before = unpacked()
    assert commands.prune() == []
    assert (len(before), unpacked(), len(views())) == (2, before, 1)


@pytest.mark.parametrize("lose", [delete, change, move])
def test_members_of_an_archive_that_is_gone_go_and_are_made_again(folder, lose, capsys):
    before = unpacked()
    lose(folder / "a.zip")
    assert main(["prune", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "would go unpacked, 0.0 MB: its archive is gone or was changed" in told
    assert unpacked() == before
    removed = commands.prune()
    assert [item.what for item in removed] == ["unpacked", "unpacked"]  # the members, and the links to them
    assert removed[0].bytes > 4 * 192
    assert len(unpacked()) == 1
    assert views() == []
    assert commands.prune() == []
    prepared, _ = make(folder)
    assert prepared.record.num_images == (4 if lose is delete else 8)


@pytest.mark.parametrize("lock", ["locks", "unpacked/locks"])
def test_nothing_that_was_unpacked_goes_while_a_preparation_runs(folder, lock, caplog):
    (folder / "a.zip").unlink()
    held = sorted((home() / "prepared" / lock).iterdir())[0]
    with exclusive(held), caplog.at_level("INFO"):
        assert commands.prune() == []
        assert commands.prune(dry_run=True) == []
    assert "kept what was unpacked of archives: a preparation runs" in caplog.text
    assert len(unpacked()) == 2
    assert len(commands.prune()) == 2


def test_what_a_killed_unpacking_left_goes(folder):
    left = home() / "prepared" / "unpacked" / f".{'ab' * 32}.{os.urandom(16).hex()}.tmp"
    left.mkdir()
    (left / "0.png").write_bytes(b"half")
    (item,) = commands.prune()
    assert (item.bytes, item.reason) == (4, "a killed process had begun to write it")
    assert not left.exists()
