"""Preparation over time: what is made again, what is remembered, duplicates, and kills."""

import json
import random
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.prepare import prepare
from pikavae.data.shards import make
from pikavae.data.split.history import History
from pikavae.data.sprites.draw import draw_sprite
from pikavae.errors import PikavaeError, TransientError
from tests.data.test_prepare import contents, sets
from tests.support.forked import prepare_in_small_shards
from tests.support.forking import fork


@pytest.fixture
def sprites(tmp_path):
    """Forty drawn pictures as files with captions, no two alike."""
    folder = tmp_path / "sprites"
    folder.mkdir()
    for number in range(40):
        add_sprite(folder, number)
    return folder


def add_sprite(folder, number, seed=0, name=None):
    sprite = draw_sprite(seed, number)
    path = folder / f"{name or sprite.name}.png"
    sprite.image.save(path)
    path.with_suffix(".txt").write_text(sprite.caption)
    return path


def config(source, **fields):
    return DataConfig(**{"source": str(source), "image_size": 32, "validation_fraction": 0.3, "workers": 1, **fields})


def sides(prepared):
    return {
        **dict.fromkeys(prepared.train.names, "train"),
        **dict.fromkeys(prepared.validation.names, "validation"),
    }


def reencoded(path, target, quality=90):
    with Image.open(path) as image:
        image.convert("RGB").save(target, quality=quality)


# What is made again


def test_one_more_picture_makes_its_shard_alone(sprites, tmp_path, monkeypatch):
    monkeypatch.setattr(make, "MAX_PICTURES", 8)
    root = tmp_path / "prepared"
    prepare(config(sprites), root)
    before = {path: path.stat().st_ino for path in (root / "shards").iterdir()}
    assert len(before) > 10
    add_sprite(sprites, 100)
    told = []
    after, reused = prepare(config(sprites), root, progress=lambda done, total: told.append((done, total)))
    assert not reused
    assert len(after.train) + len(after.validation) == 41
    made = [path for path in (root / "shards").glob("*.arrow") if path not in before]
    assert len(made) in {1, 2}  # two where the shard was full and was split
    assert {path: path.stat().st_ino for path in before} == before
    assert told[-1] == (41, 41)
    assert told[0][0] >= 33


def test_sets_share_what_they_have_in_common_and_outlive_each_other(sprites, tmp_path):
    root = tmp_path / "prepared"
    first, _ = prepare(config(sprites), root)
    second, _ = prepare(config(sprites, validation_fraction=0.2), root)
    expected = contents(second.path)
    for shard in first.path.glob("shards/*"):
        assert shard.samefile(second.path / "shards" / shard.name)
    shutil.rmtree(first.path)
    shutil.rmtree(root / "shards")
    again, reused = prepare(config(sprites, validation_fraction=0.2), root)
    assert reused
    assert contents(again.path) == expected


def test_settings_of_the_split_and_the_tokens_decode_nothing_again(sprites, tmp_path):
    root = tmp_path / "prepared"
    first, _ = prepare(config(sprites), root)
    shards = {path: path.stat().st_mtime_ns for path in (root / "shards").iterdir()}
    prepare(config(sprites, near_duplicate_distance=None), root)
    prepare(config(sprites, tokenizer=str(first.path / "tokenizer")), root)
    assert {path: path.stat().st_mtime_ns for path in (root / "shards").iterdir()} == shards
    prepare(config(sprites, background=(0, 0, 0)), root)
    assert len(list((root / "shards").iterdir())) == 2 * len(shards)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_processes_changes_nothing(sprites, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(make, "MAX_PICTURES", 8)
    expected, _ = prepare(config(sprites, workers=2), tmp_path / "two")
    found, _ = prepare(config(sprites, workers=workers), tmp_path / "other")
    assert found.fingerprint == expected.fingerprint
    assert contents(found.path) == contents(expected.path)


def test_a_file_that_changes_meanwhile_spoils_no_set(sprites, tmp_path, monkeypatch):
    from pikavae.data import prepare as module
    from pikavae.data.shards.workers import map_in_processes

    root = tmp_path / "prepared"

    def change_first(*args, **kwargs):
        add_sprite(sprites, 5, seed=9, name=draw_sprite(0, 0).name)
        return map_in_processes(*args, **kwargs)

    monkeypatch.setattr(module, "map_in_processes", change_first)
    with pytest.raises(TransientError, match="changed after it was listed; run the command again"):
        prepare(config(sprites), root)
    assert sets(root) == []
    monkeypatch.undo()
    assert len(prepare(config(sprites), root)[0].train) > 0


def test_a_process_that_dies_is_said_with_its_pictures(sprites, tmp_path, monkeypatch):
    from pikavae.data.shards import workers

    monkeypatch.setattr(workers, "SERVE", "import os, sys; sys.stdin.buffer.read(10); os.kill(os.getpid(), 9)")
    with pytest.raises(PikavaeError, match=r"ended with signal 9, .* it was at one of .*sprite.*png"):
        prepare(config(sprites), tmp_path / "prepared")
    assert sets(tmp_path / "prepared") == []


def test_a_picture_too_large_for_a_process_is_set_aside_and_the_rest_goes_on(sprites, tmp_path, monkeypatch):
    from pikavae.data import prepare as module

    monkeypatch.setattr(module, "WORKER_BYTES", 200 * 2**20)
    monkeypatch.setattr(module, "BYTES_PER_PIXEL", 0)
    Image.fromarray(np.zeros((8000, 9000, 3), np.uint8)).save(sprites / "vast.png", compress_level=1)
    prepared, _ = prepare(config(sprites), tmp_path / "prepared")
    assert prepared.record.num_images == 40
    (aside,) = prepared.record.quarantined
    assert aside.name == "vast.png"
    assert "memory" in aside.reason


# Duplicates and sides


def test_duplicates_share_a_side_and_are_counted(sprites, tmp_path):
    originals = sorted(sprites.glob("*.png"))
    for number, path in enumerate(originals[:10]):
        reencoded(path, sprites / f"zz-copy-{number}.jpg")
    shutil.copy(originals[0], sprites / "zz-same.png")
    prepared, _ = prepare(config(sprites), tmp_path / "prepared")
    found = sides(prepared)
    for number, path in enumerate(originals[:10]):
        assert found[f"zz-copy-{number}.jpg"] == found[path.name]
    assert found["zz-same.png"] == found[originals[0].name]
    record = prepared.record
    assert (record.num_exact_duplicates, record.num_near_duplicates) == (1, 10)
    pairs = json.loads((prepared.path / "duplicates.json").read_text())
    assert len(pairs) >= 11
    apart, _ = prepare(config(sprites, near_duplicate_distance=None), tmp_path / "prepared")
    assert apart.record.num_near_duplicates == 0


@pytest.mark.parametrize(("which", "left"), [("none", 43), ("exact", 42), ("near", 40)])
def test_duplicates_can_be_dropped(sprites, tmp_path, which, left):
    originals = sorted(sprites.glob("*.png"))
    reencoded(originals[3], sprites / "zz-a.jpg")
    reencoded(originals[7], sprites / "zz-b.jpg")
    shutil.copy(originals[5], sprites / "zz-c.png")
    prepared, _ = prepare(config(sprites, drop_duplicates=which), tmp_path / "prepared")
    assert prepared.record.num_images == left
    assert prepared.record.num_dropped == 43 - left
    assert {path.name for path in originals} <= set(sides(prepared))
    assert len(prepared.record.unused) == 43 - left


def test_old_sides_are_kept_while_pictures_come_and_go_and_a_bridge_is_set_aside(sprites, tmp_path):
    root = tmp_path / "prepared"
    first, _ = prepare(config(sprites), root)
    old = sides(first)
    one, other = first.train.names[0], first.validation.names[0]
    with Image.open(sprites / one) as a, Image.open(sprites / other) as b:
        bridge = [np.asarray(Image.blend(a.convert("RGB"), b.convert("RGB"), i / 30)) for i in range(1, 30)]
    for i, pixels in enumerate(bridge):
        Image.fromarray(pixels).save(sprites / f"zz-bridge-{i:02d}.png")
    for number in range(50, 60):
        add_sprite(sprites, number)
    grown, _ = prepare(config(sprites, near_duplicate_distance=10), root)
    found = sides(grown)
    assert {name: side for name, side in found.items() if name in old} == old
    blends = [f"zz-bridge-{i:02d}.png" for i in range(29)]
    assert grown.record.num_bridging == sum(name not in found for name in blends) > 0
    again, reused = prepare(config(sprites, near_duplicate_distance=10), root)
    assert reused
    assert again.fingerprint == grown.fingerprint
    (sprites / one).unlink()
    shrunk, _ = prepare(config(sprites), root)
    assert {name: side for name, side in sides(shrunk).items() if name in old} == {
        name: side for name, side in old.items() if name != one
    }


def test_a_duplicate_of_an_old_picture_joins_it_whatever_its_own_hash(sprites, tmp_path):
    root = tmp_path / "prepared"
    first, _ = prepare(config(sprites), root)
    old = sides(first)
    for number, name in enumerate(old):
        reencoded(sprites / name, sprites / f"zz-{number:02d}.jpg", quality=85 + number % 10)
    grown, _ = prepare(config(sprites), root)
    found = sides(grown)
    assert grown.record.num_near_duplicates == 40
    for number, (name, side) in enumerate(old.items()):
        assert found[name] == found[f"zz-{number:02d}.jpg"] == side
    alone, _ = prepare(config(sprites), tmp_path / "elsewhere")
    assert alone.fingerprint == json.loads((alone.path / "record.json").read_text())["fingerprint"]


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe\0",
    b'{"sets": {}}',
    b'{"sets": {}, "sides": {"nowhere": ["00"]}}',
    b"[" * 10**5,
]


def test_a_damaged_memory_of_sides_is_made_again_from_the_sets(sprites, tmp_path, caplog):
    root = tmp_path / "prepared"
    old, _ = prepare(config(sprites), root)
    (path,) = (root / "history").glob("*.json")
    whole = History.of(config(sprites), root)
    for damaged in DAMAGED:
        path.write_bytes(damaged)
        remade = History.of(config(sprites), root)
        assert (remade.sets, remade.sides) == (whole.sets, whole.sides), damaged
    assert prepare(config(sprites), root)[1]
    assert f"{path}: damaged" in caplog.text
    assert "made again from 1 prepared sets" in caplog.text
    assert History.of(config(sprites), root) == whole
    assert path.with_suffix(".damaged").read_bytes() == damaged
    path.write_bytes(DAMAGED[0])
    add_sprite(sprites, 300)
    assert sides(old).items() <= sides(prepare(config(sprites), root)[0]).items()


def test_a_validation_source_of_its_own_leaks_nothing(sprites, tmp_path):
    validation = tmp_path / "validation"
    validation.mkdir()
    for number in range(200, 208):
        add_sprite(validation, number)
    originals = sorted(sprites.glob("*.png"))
    shutil.copy(originals[0], validation / "same.png")
    reencoded(originals[1], validation / "near.jpg")
    prepared, _ = prepare(config(sprites, validation_source=str(validation)), tmp_path / "prepared")
    assert len(prepared.validation) == 10
    assert prepared.record.num_leaked == 2
    assert not {originals[0].name, originals[1].name} & set(prepared.train.names)


def test_the_page_shows_what_the_record_says(sprites, tmp_path):
    (sprites / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    reencoded(sorted(sprites.glob("sprite*.png"))[0], sprites / "zz.jpg")
    prepared, _ = prepare(config(sprites), tmp_path / "prepared")
    page = (prepared.path / "page.html").read_text(encoding="utf-8")
    assert prepared.fingerprint in page
    assert "broken.png" in page
    assert prepared.record.quarantined[0].reason in page


@pytest.mark.parametrize("crop", ["random", "buckets"])
def test_other_crops_store_pictures_in_their_own_shape(tmp_path, crop):
    folder = tmp_path / "shapes"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i, (width, height) in enumerate([(60, 40), (40, 60), (50, 50), (200, 20), (33, 97), (64, 48)]):
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    prepared, _ = prepare(config(folder, crop=crop), tmp_path / "prepared")
    shapes = {
        name: side.stored_shape(i)
        for side in (prepared.train, prepared.validation)
        for i, name in enumerate(side.names)
    }
    if crop == "random":
        assert shapes["0.png"] == (32, 48)
        assert shapes["3.png"] == (32, 64)
        assert min(map(min, shapes.values())) == 32
    else:
        assert all(h % 8 == w % 8 == 0 and h * w <= 32 * 32 for h, w in shapes.values())
        assert shapes["2.png"] == (32, 32)
        assert shapes["0.png"][0] < shapes["0.png"][1]


# Kills


@pytest.mark.slow
def test_a_killed_preparation_is_gone_on_with_and_gives_the_same_bytes(sprites, tmp_path):
    for number in range(100, 700):
        add_sprite(sprites, number)

    def start(root):
        return fork(prepare_in_small_shards, sprites, root)

    def run(root):
        process = start(root)
        process.join()
        assert process.exitcode == 0

    run(tmp_path / "first")  # the process that is forked from starts with it
    began = time.monotonic()
    run(tmp_path / "undisturbed")
    seconds = time.monotonic() - began
    (name,) = sets(tmp_path / "undisturbed")
    expected = contents(tmp_path / "undisturbed" / name)
    generator, root, resumed = random.Random(0), tmp_path / "killed", 0
    for attempt in range(4):
        shutil.rmtree(root, ignore_errors=True)
        for _ in range(1 + attempt % 3):
            process = start(root)
            time.sleep(generator.uniform(0.2, 0.9) * seconds)
            process.kill()
            process.join()
        resumed += any((root / "shards").glob("*.json"))
        run(root)
        assert sets(root) == [name]
        assert contents(root / name) == expected
    assert resumed >= 2
