"""The stream of training pictures: three ways, the same bits; flips and windows; errors and the end of the thread."""

import subprocess
import sys
import threading
import time
import traceback
from functools import partial

import numpy as np
import pytest
import torch

from pikavae.data.prepared.augment import centre_window, window_at
from pikavae.data.prepared.loader import READ_AHEAD, Loader, choose_layout, choose_way
from pikavae.errors import DamagedFileError
from pikavae.presets import parse_config
from tests.support.places import ROOT
from tests.support.prepared_sets import make_prepared, random_pictures

CPU = torch.device("cpu")
WAYS = ("direct", "streamed", "resident")


def config(crop="center", batch_size=2, **training):
    tree = {
        "data": {"image_size": 8, "crop": crop, "flip": True},
        "model": {"channels": [8, 8], "norm_groups": 4},
        "training": {"batch_size": batch_size, "seed": 5, **training},
    }
    return parse_config(tree)


def any_order(position, *, count, num_images):
    return [(7 * (position + i)) % num_images for i in range(count)]


def of_one_shape(position, *, count, side):
    indices = side.by_shape[side.shapes[position // count % len(side.shapes)]]
    return [indices[(position + i) % len(indices)] for i in range(count)]


def stream(side, config, way, position=0, device=CPU):
    count = config.training.batch_size
    if config.data.crop == "buckets":
        order = partial(of_one_shape, count=count, side=side)
    else:
        order = partial(any_order, count=count, num_images=len(side))
    return Loader(side, order, position, config, device, way)


def first(loader, count):
    with loader:
        return [next(loader).clone() for _ in range(count)]


SHAPES = {"center": [(8, 8)], "random": [(8, 8), (8, 13), (16, 8)], "buckets": [(8, 8), (8, 16), (16, 8)]}
SHAPES["native"] = [(8, 8), (30, 41), (16, 9)]


@pytest.fixture(params=SHAPES)
def kind(request, tmp_path):
    """A way to crop, its training pictures, and the set."""
    pictures = random_pictures(11, *SHAPES[request.param])
    prepared = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8, crop=request.param)
    return request.param, pictures, prepared


def assert_equal(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.shape == other.shape
        assert torch.equal(one.contiguous().view(torch.int32), other.contiguous().view(torch.int32))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_bits_that_follow_from_the_pictures(kind, way, layout):
    crop, pictures, prepared = kind
    settings = config(crop, channels_last=layout is torch.channels_last)
    loader = stream(prepared.train, settings, way, position=4)
    batches = first(loader, 9)
    for number, batch in enumerate(batches):
        assert batch.is_contiguous(memory_format=layout)
        assert (batch.dtype, batch.device) == (torch.float32, CPU)
        position = 4 + 2 * number
        for i, index in enumerate(loader._order(position)):
            picture = pictures[index]
            shape = picture.shape[:2] if crop == "buckets" else (8, 8)
            window = window_at(position + i, picture.shape[:2], shape, seed=5, flip=True)
            seen = picture[window.top : window.top + shape[0], window.left : window.left + shape[1]]
            seen = torch.from_numpy((seen[:, ::-1] if window.flip else seen).copy()).permute(2, 0, 1)
            assert torch.equal(batch[i], seen.float() / 127.5 - 1)
    assert loader.position == 4 + 2 * 9
    assert loader.seconds_waited > 0


def test_the_channels_are_innermost_on_cuda_unless_somebody_says_otherwise():
    assert (
        choose_layout("cuda", None) is choose_layout("cpu", True) is choose_layout("cuda", True) is torch.channels_last
    )
    assert (
        choose_layout("cpu", None)
        is choose_layout("mps", None)
        is choose_layout("cuda", False)
        is torch.contiguous_format
    )


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["streamed", "resident"])
def test_a_gpu_gets_the_bits_that_a_cpu_gets(kind, way):
    crop, _, prepared = kind
    expected = first(stream(prepared.train, config(crop), "direct"), 20)
    seen = first(stream(prepared.train, config(crop), way, device=torch.device("cuda")), 20)
    assert_equal([batch.cpu() for batch in seen], expected)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_two_batches_of_two_are_one_of_four(tmp_path, crop):
    pictures = random_pictures(11, *SHAPES[crop])
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8, crop=crop).train
    small = first(stream(side, config(crop, 2), "direct"), 6)
    large = first(stream(side, config(crop, 4), "direct"), 3)
    assert torch.equal(torch.cat(small), torch.cat(large))


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_opened_later_goes_on_with_the_same_batches(kind, way):
    crop, _, prepared = kind
    whole = first(stream(prepared.train, config(crop), way), 8)
    assert_equal(first(stream(prepared.train, config(crop), way, position=6), 5), whole[3:])


def test_validation_is_neither_mirrored_nor_moved(kind):
    crop, pictures, prepared = kind
    (image,) = prepared.validation.batch([0])["pixel_values"]
    shape = pictures[0].shape[:2] if crop == "buckets" else (8, 8)
    window = centre_window(pictures[0].shape[:2], shape).slices(shape)
    assert torch.equal(image, torch.from_numpy(pictures[0][window].copy()).permute(2, 0, 1).float() / 127.5 - 1)


def test_without_flips_and_room_every_picture_is_seen_as_it_is():
    assert {window_at(i, (8, 8), (8, 8), seed=0, flip=False) for i in range(200)} == {(0, 0, False)}


def test_windows_and_flips_are_uniform_and_independent_of_each_other():
    windows = [window_at(i, (10, 11), (8, 8), seed=0, flip=True) for i in range(12_000)]
    counts = np.zeros((3, 4, 2))
    for window in windows:
        counts[window.top, window.left, int(window.flip)] += 1
    assert np.abs(counts / 12_000 - 1 / 24).max() < 0.01  # five standard deviations
    assert windows != [window_at(i, (10, 11), (8, 8), seed=1, flip=True) for i in range(12_000)]
    unmirrored = [window_at(i, (10, 11), (8, 8), seed=0, flip=False) for i in range(100)]
    assert [window[:2] for window in unmirrored] == [window[:2] for window in windows[:100]]  # flips move no window


@pytest.mark.parametrize("way", ["direct", "streamed"])
def test_a_damaged_shard_is_an_error_of_the_batch_that_needs_it(tmp_path, way):
    pictures = random_pictures(8, (8, 8))
    prepared = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8)
    shard = prepared.path / "shards" / "00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-30])
    loader = Loader(prepared.train, lambda position: [position, position + 1], 0, config(), CPU, way)
    with loader:
        for _ in range(2):
            next(loader)
        with pytest.raises(DamagedFileError, match=r"00001\.arrow") as caught:
            next(loader)
    assert "open_shard" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert not threads()


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pikavae-loader")]


def test_the_thread_reads_a_few_batches_ahead_and_ends_with_the_block(tmp_path):
    pictures = random_pictures(8, (8, 8))
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8).train
    asked = []

    def order(position):
        asked.append(position)
        return [position % 8, 0]

    def fails():
        with Loader(side, order, 0, config(), CPU, "streamed") as loader:
            for _ in range(5):
                next(loader)
            assert len(threads()) == 1
            time.sleep(0.3)  # for the thread to read as much as it will
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert not threads()
    assert asked == [2 * i for i in range(5 + READ_AHEAD)]


def test_a_process_that_forgets_to_close_its_loader_ends_all_the_same(tmp_path):
    pictures = random_pictures(8, (8, 8))
    make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8)
    code = (
        "import sys, torch; from pathlib import Path; from pikavae.config import Config;"
        "from pikavae.data.prepared.loader import Loader; from pikavae.data.prepared.dataset import open_prepared;"
        "side = open_prepared(Path(sys.argv[1])).train;"
        "loader = Loader(side, lambda position: [position % 8], 0, Config(), torch.device('cpu'), 'streamed');"
        "print(next(loader).shape[0]); sys.exit(3)"
    )
    root = ROOT
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (3, "1", "")


def test_the_cpu_reads_directly_and_a_gpu_keeps_what_fits(tmp_path, monkeypatch):
    pictures = random_pictures(8, (8, 8))  # 1536 bytes in all
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8).train
    assert {choose_way(side, wanted, CPU) for wanted in (None, True, False)} == {"direct"}
    gpu = torch.device("cuda")
    for memory, expected in ((4 * 1536, "resident"), (4 * 1536 - 1, "streamed")):
        monkeypatch.setattr("pikavae.data.prepared.loader.memory_of", lambda device, memory=memory: memory)
        assert choose_way(side, None, gpu) == expected
        assert (choose_way(side, True, gpu), choose_way(side, False, gpu)) == ("resident", "streamed")


def test_a_set_larger_than_an_upload_is_kept_whole(tmp_path, monkeypatch):
    pictures = random_pictures(11, *SHAPES["random"])
    side = make_prepared(tmp_path / "set", pictures, pictures[:1], image_size=8, crop="random").train
    expected = first(stream(side, config("random"), "direct"), 12)
    for upload in (1, 500, 1000):
        monkeypatch.setattr("pikavae.data.prepared.loader.UPLOAD_BYTES", upload)
        assert_equal(first(stream(side, config("random"), "resident"), 12), expected)
