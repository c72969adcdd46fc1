"""Pictures that do not become part of a set are counted, by kind: in the record, its line, its key and its limit."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.files.left_out import missing_counts, missing_line
from pikavae.data.prepare import prepare, prepare_inputs
from pikavae.data.record import SetRecord
from pikavae.data.split.history import INPUTS_NAME
from pikavae.errors import UserError
from pikavae.operations.stages.keys import differences
from tests.support.pictures import png


def fill(folder, count=8):
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:02d}.png").write_bytes(png(i))
    return folder


def photoshop(folder):
    for i in range(3):
        (folder / f"{i}.psd").write_bytes(b"8BPS")


def dead_links(folder):
    for i in range(3):
        (folder / f"link{i}.png").symlink_to("nowhere.png")


def metadata(folder):
    rows = "".join(json.dumps({"file_name": f"gone{i}.png", "text": "a"}) + "\n" for i in range(3))
    (folder / "metadata.jsonl").write_text(rows)


def garbage(folder):
    for i in range(3):
        (folder / f"x{i}.png").write_bytes(b"")


def hidden(folder):
    for i in range(3):
        (folder / f".x{i}.png").write_bytes(png(i))


KINDS = [
    (photoshop, 0, {".psd files": 3}, "0 unreadable, 3 left out (3 .psd files)"),
    (dead_links, 0, {"links that lead nowhere": 3}, "0 unreadable, 3 left out (3 links that lead nowhere)"),
    (
        metadata,
        0,
        {"rows of metadata files that name no picture": 3},
        "0 unreadable, 3 left out (3 rows of metadata files that name no picture)",
    ),
    (hidden, 0, {"hidden pictures": 3}, "0 unreadable, 3 left out (3 hidden pictures)"),
    (garbage, 3, {}, "3 unreadable (3 empty file), 0 left out"),
]


@pytest.mark.parametrize(("add", "num_unreadable", "left_out", "words"), KINDS, ids=lambda value: str(value)[:20])
def test_everything_missing_is_counted_limited_and_part_of_the_key(tmp_path, add, num_unreadable, left_out, words):
    plain, folder = fill(tmp_path / "plain"), fill(tmp_path / "folder")
    add(folder)
    root = tmp_path / "prepared"
    first, _ = prepare(DataConfig(source=str(plain), image_size=8, max_unreadable_fraction=0.5), root)
    assert missing_line(first.record) == "0 unreadable, 0 left out"
    with pytest.raises(UserError, match=r"data.max_unreadable_fraction 0.27: 3 of 11 pictures would be missing"):
        prepare(DataConfig(source=str(folder), image_size=8, max_unreadable_fraction=0.27), root)
    prepared, reused = prepare(DataConfig(source=str(folder), image_size=8, max_unreadable_fraction=0.5), root)
    assert not reused
    assert prepared.fingerprint != first.fingerprint
    counts = missing_counts(prepared.record)
    assert (counts.num_quarantined, counts.num_left_out, counts.left_out) == (
        num_unreadable,
        sum(left_out.values()),
        left_out,
    )
    assert missing_line(prepared.record) == words
    again, reused = prepare(DataConfig(source=str(folder), image_size=8, max_unreadable_fraction=0.5), root)
    assert reused
    assert missing_counts(again.record) == counts


def test_a_folder_of_nothing_that_is_read_says_what_is_in_it(tmp_path):
    (tmp_path / "empty").mkdir()
    photoshop(tmp_path / "empty")
    with pytest.raises(UserError, match=r"no pictures .*left out: 3 \.psd files"):
        prepare(DataConfig(source=str(tmp_path / "empty"), image_size=8), tmp_path / "prepared")


def test_a_plan_names_what_is_left_out_now_and_an_older_record_has_no_such_key(tmp_path):
    folder = fill(tmp_path / "folder")
    config = DataConfig(source=str(folder), image_size=8, max_unreadable_fraction=0.5)
    prepared, _ = prepare(config, tmp_path / "prepared")
    before = json.loads((prepared.path / INPUTS_NAME).read_text())
    photoshop(folder)
    expected = ["source left out: 3 added (0.psd, 1.psd, 2.psd)"]
    assert differences(prepare_inputs(config), before) == expected
    del before["source left out"]
    assert differences(prepare_inputs(config), before) == expected
    old = json.loads((prepared.path / "record.json").read_text())
    del old["num_left_out"], old["left_out"]
    old["set_aside"] = [{"name": "a", "reason": "is a.b"}]
    assert missing_line(SetRecord.model_validate(old)) == "0 unreadable, 1 left out (1 is a.b)"


def test_what_is_passed_over_is_that_of_now_and_makes_no_other_set(tmp_path):
    folder = fill(tmp_path / "folder")
    config = DataConfig(source=str(folder), image_size=8)
    first, _ = prepare(config, tmp_path / "prepared")
    for i in range(2):
        (folder / f"movie{i}.mov").write_bytes(b"moov")
    second, reused = prepare(config, tmp_path / "prepared")
    assert reused
    assert (first.record.ignored, second.record.ignored) == ({"source": {}}, {"source": {"other": 2}})
    assert missing_line(second.record).endswith(", 2 other files passed over")


def test_warnings_are_on_the_page_and_in_the_record(tmp_path):
    prepared, _ = prepare(DataConfig(source=str(fill(tmp_path / "folder")), image_size=16), tmp_path / "prepared")
    page = (prepared.path / "page.html").read_text()
    assert any("scaled up to 16 px" in warning for warning in prepared.record.warnings)
    assert all(warning in page for warning in prepared.record.warnings)


def frames(folder, num_frames, num_others):
    """A video, whose frames look alike, and pictures that do not."""
    folder.mkdir()
    generator = np.random.default_rng(1)

    def scene():
        return Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((32, 32))

    video = np.asarray(scene())
    for i in range(num_frames):
        Image.fromarray(np.clip(video.astype(int) + i % 3, 0, 255).astype(np.uint8)).save(folder / f"v{i:03d}.png")
    for i in range(num_others):
        scene().save(folder / f"x{i:03d}.png")
    return folder


@pytest.mark.parametrize(
    ("num_frames", "num_others", "fields", "warns"),
    [
        (27, 33, {}, False),
        (59, 1, {}, True),
        (59, 1, {"drop_duplicates": "near"}, False),
        (0, 40, {}, False),
    ],
)
def test_a_share_that_groups_of_alike_pictures_move_is_said_with_its_reason(
    tmp_path, num_frames, num_others, fields, warns
):
    folder = frames(tmp_path / "folder", num_frames, num_others)
    prepared, _ = prepare(DataConfig(source=str(folder), image_size=16, **fields), tmp_path / "prepared")
    told = [warning for warning in prepared.record.warnings if "data.validation_fraction" in warning]
    assert bool(told) == warns
    if warns:
        assert re.fullmatch(
            r"\d of 60 pictures \(\d%\) are held out for validation, where data.validation_fraction 0.1 asks for 6: "
            r"pictures that look alike stay on one side, and the largest of 1 such groups has 59; .*",
            told[0],
        )
