"""Prepared sets as they are read: pixels, shapes, conversion, many shards, damage, and what is imported for it."""

import hashlib
import os
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import torch
from torchvision import transforms

from pikavae.data.prepared.dataset import PictureSet, open_prepared, to_float
from pikavae.data.shards.files import INDEX_SCHEMA, SHARD_SCHEMA, open_index
from pikavae.errors import DamagedFileError
from tests.support.places import ROOT
from tests.support.prepared_sets import make_prepared, random_pictures

TRAIN, VALIDATION = random_pictures(9, (16, 16)), random_pictures(3, (16, 16), seed=1)


@pytest.fixture
def prepared(tmp_path):
    return make_prepared(tmp_path / "set", TRAIN, VALIDATION, image_size=16)


def test_both_sides_have_their_pictures_in_the_order_of_the_index(prepared):
    for side, pictures in ((prepared.train, TRAIN), (prepared.validation, VALIDATION)):
        assert len(side) == len(pictures)
        for i, picture in enumerate(pictures):
            np.testing.assert_array_equal(side.pixels([i])[0].permute(1, 2, 0).numpy(), picture)
        together = side.pixels(range(len(side)))
        assert (together.shape, together.dtype) == ((len(side), 3, 16, 16), torch.uint8)
        assert torch.equal(side.pixels([2, 0]), together[[2, 0]])
        assert side.hashes == [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
        assert side.digest == hashlib.sha256("\n".join(side.hashes).encode()).hexdigest()[:32]
    assert prepared.validation.names == ["0009.png", "0010.png", "0011.png"]
    assert prepared.validation.captions[0] == "validation picture 9"
    assert (prepared.fingerprint, prepared.train.image_size) == ("0" * 16, 16)


def test_a_batch_has_pictures_and_token_ids(prepared):
    batch = prepared.train.batch([5, 1])
    assert (batch["pixel_values"].shape, batch["pixel_values"].dtype) == ((2, 3, 16, 16), torch.float32)
    assert (batch["input_ids"].dtype, batch["input_ids"].tolist()) == (torch.int64, [[1] * 77, [1] * 77])
    expected = torch.tensor(np.stack([TRAIN[5], TRAIN[1]])).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert torch.equal(batch["pixel_values"], expected)


@pytest.mark.parametrize("shape", [(256, 1, 1), (2, 128, 3), (128, 2, 3)])
def test_all_256_values_become_the_floats_of_torchvision_bit_for_bit(shape):
    pixels = np.resize(np.arange(256, dtype=np.uint8), shape)
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    ours = to_float(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    theirs = to_tensor(pixels)
    assert torch.equal(ours.view(torch.int32), theirs.contiguous().view(torch.int32))
    assert len(ours.unique()) == 256
    assert (ours.min(), ours.max(), ours.dtype) == (-1.0, 1.0, torch.float32)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_floats():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_float(pixels.cuda()).cpu(), to_float(pixels))


@pytest.mark.parametrize("crop", ["random", "native"])
def test_of_larger_pictures_the_centre_is_shown(tmp_path, crop):
    pictures = random_pictures(6, (8, 8), (8, 13), (16, 8))
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8, crop=crop).train
    assert side.shapes == [(8, 8)]
    assert [side.stored_shape(i) for i in range(3)] == [(8, 8), (8, 13), (16, 8)]
    shown = side.pixels(range(6)).permute(0, 2, 3, 1).numpy()
    for seen, picture in zip(shown, pictures, strict=True):
        top, left = (picture.shape[0] - 8) // 2, (picture.shape[1] - 8) // 2
        np.testing.assert_array_equal(seen, picture[top : top + 8, left : left + 8])


@pytest.mark.parametrize("crop", ["center", "random", "buckets", "native"])
def test_only_pictures_of_their_own_resolution_can_be_read_whole(tmp_path, crop):
    pictures = random_pictures(2, (8, 8), (40, 24))
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8, crop=crop).train
    for index, picture in enumerate(pictures):
        whole = side.whole_pixels(index)
        if crop != "native":
            assert whole is None
        else:
            np.testing.assert_array_equal(whole.permute(1, 2, 0).numpy(), picture)


def test_of_buckets_a_batch_is_of_one_shape(tmp_path):
    pictures = random_pictures(7, (8, 16), (16, 8), (8, 8))
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8, crop="buckets").train
    assert side.shapes == [(8, 8), (8, 16), (16, 8)]
    assert side.by_shape == {(8, 8): [2, 5], (8, 16): [0, 3, 6], (16, 8): [1, 4]}
    assert [side.shape(i) for i in range(3)] == [(8, 16), (16, 8), (8, 8)]
    assert side.batch([6, 0])["pixel_values"].shape == (2, 3, 8, 16)
    for ask in (side.batch, side.pixels):
        with pytest.raises(ValueError, match="one shape, not of 8x16, 16x8"):
            ask([0, 1])
    assert list(side.batches(2)) == [[2, 5], [0, 3], [6], [1, 4]]
    assert side.first_alike(2) == [0, 3]
    assert side.first_alike(9) == [0, 3, 6]
    assert side.num_bytes == sum(picture.size for picture in pictures)


def test_pictures_of_one_shape_come_in_their_order(prepared):
    assert list(prepared.train.batches(4)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert prepared.train.first_alike(3) == [0, 1, 2]


def test_thousands_of_shards_need_few_open_files(tmp_path):
    """More shards than a process may have files open, most of them read."""
    count = 1100
    pictures = random_pictures(count, (4, 4))
    script = (
        "import resource, sys, torch; from pathlib import Path;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200));"
        "from pikavae.data.prepared.dataset import open_prepared;"
        "side = open_prepared(Path(sys.argv[1])).train;"
        "print(int(side.pixels(range(len(side))).sum()), len(side))"
    )
    make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=4, pictures_per_shard=1)
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "set")], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [str(sum(int(p.sum()) for p in pictures)), str(count)], done.stderr


def test_a_shard_is_mapped_only_when_a_picture_of_it_is_asked_for(prepared):
    shards = sorted((prepared.path / "shards").iterdir())
    shards[1].unlink()
    assert prepared.train.pixels([0, 3]).shape == (2, 3, 16, 16)
    with pytest.raises(DamagedFileError, match=shards[1].name):
        prepared.train.pixels([4])


def test_shards_can_be_read_from_after_their_files_are_gone(prepared):
    """A set that is being replaced stays whole for whoever reads it."""
    before = prepared.train.pixels(range(9))
    shutil.rmtree(prepared.path)
    assert torch.equal(prepared.train.pixels(range(9)), before)


@pytest.mark.parametrize("name", ["index.arrow", "shards/00001.arrow", "record.json"])
@pytest.mark.parametrize("damage", ["missing", "longer", "shorter"])
def test_damaged_sets_are_refused(prepared, name, damage):
    file = prepared.path / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content + b"0" if damage == "longer" else content[:-1])
    with pytest.raises(DamagedFileError, match=file.name):
        open_prepared(prepared.path)


def test_a_shard_whose_sizes_contradict_its_pixels_is_refused(tmp_path):
    columns = {field.name: pa.nulls(2, field.type) for field in SHARD_SCHEMA}
    columns["pixels"] = pa.array([bytes(12), bytes(15)], pa.large_binary())
    columns["height"] = columns["width"] = pa.array([2, 2], pa.int32())
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SHARD_SCHEMA) as stream:
        stream.write_table(pa.table(columns, schema=SHARD_SCHEMA))
    rows = {field.name: pa.nulls(1, field.type) for field in INDEX_SCHEMA}
    rows["shard"] = rows["row"] = pa.array([0], pa.int32())
    rows["height"] = rows["width"] = pa.array([2], pa.int32())
    side = PictureSet(pa.table(rows, schema=INDEX_SCHEMA), [tmp_path / "a.arrow"], 2, "center")
    with pytest.raises(DamagedFileError, match="other sizes"):
        side.pixels([0])


def test_an_index_in_several_batches_is_one(prepared):
    assert open_index(prepared.path / "index.arrow")["side"].num_chunks == 3
    assert prepared.train.input_ids.tolist() == [[i % 4] * 77 for i in range(9)]


def test_reading_needs_no_data_set_library(prepared):
    code = (
        "import sys; sys.modules['datasets'] = sys.modules['transformers'] = None;"
        "from pathlib import Path; from pikavae.data.prepared.dataset import open_prepared;"
        "import pikavae.training.loop;"
        "print(open_prepared(Path(sys.argv[1])).train.batch([0])['pixel_values'].shape)"
    )
    root = ROOT
    command = [sys.executable, "-c", code, str(prepared.path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert "[1, 3, 16, 16]" in done.stdout, done.stderr
