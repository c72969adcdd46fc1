"""Archives of pictures: what is in them is read as beside files."""

import pytest

from pikavae.config import DataConfig
from pikavae.data.captions.clean import clean_caption
from pikavae.data.files import members
from pikavae.data.files.left_out import missing_line
from pikavae.data.prepare import prepare
from tests.support.archives import PICTURES, captions_of, sources, tar, zipped
from tests.support.pictures import png

MAKERS = {
    "x.tar": tar,
    "x.tar.gz": lambda path, files: tar(path, files, "w:gz"),
    "x.tgz": lambda path, files: tar(path, files, "w:gz"),
    "x.tar.xz": lambda path, files: tar(path, files, "w:xz"),
    "x.tar.bz2": lambda path, files: tar(path, files, "w:bz2"),
    "X.ZIP": zipped,
}


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
