"""The order of pictures of several shapes, and training on them, on random windows and on mirrored pictures."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.training.loop import train
from pikavae.training.order import BucketOrder, indices_at
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper
from tests.support.prepared_sets import make_prepared, random_pictures
from tests.support.trainings import CPU, Killed, Notes
from tests.training.conftest import make_config

BY_SHAPE = {(8, 8): list(range(0, 10)), (8, 16): list(range(10, 13)), (16, 8): [13], (24, 8): list(range(14, 31))}
SHAPE_OF = {index: shape for shape, indices in BY_SHAPE.items() for index in indices}


def batches(size, count, seed=0, start=0):
    order = BucketOrder(BY_SHAPE, size, seed)
    return [order(size * number) for number in range(start, start + count)]


@pytest.mark.parametrize("size", [1, 2, 4, 7, 31, 50])
def test_batches_are_full_and_of_one_shape(size):
    for batch in batches(size, 200):
        assert len(batch) == size
        assert len({SHAPE_OF[index] for index in batch}) == 1


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_in_the_long_run_every_picture_comes_equally_often(size):
    """After e epochs, e times or what one unfinished batch of its shape is short of that."""
    epochs = 60
    seen = Counter(index for batch in batches(size, epochs * 31 // size) for index in batch)
    assert seen.keys() == SHAPE_OF.keys()
    for index, shape in SHAPE_OF.items():
        missing = -(-2 * size // len(BY_SHAPE[shape])) + 1
        assert epochs - missing <= seen[index] <= epochs + 1


def test_while_batches_divide_the_shapes_every_epoch_shows_every_picture_once():
    order = BucketOrder({(8, 8): [0, 1, 2, 3], (8, 16): [4, 5]}, 2, seed=0)
    for epoch in range(5):
        shown = [index for number in range(3) for index in order(2 * (3 * epoch + number))]
        assert sorted(shown) == list(range(6))


@pytest.mark.parametrize("size", [2, 4, 50])
def test_a_batch_follows_from_its_position_alone(size):
    whole = batches(size, 120)
    assert batches(size, 20, start=100) == whole[100:]
    order = BucketOrder(dict(reversed(BY_SHAPE.items())), size, seed=0)
    assert [order(size * number) for number in (77, 3, 118)] == [whole[number] for number in (77, 3, 118)]
    assert batches(size, 120, seed=1) != whole


def test_batches_of_all_shapes_are_mixed():
    shapes = [SHAPE_OF[batch[0]] for batch in batches(1, 310)]
    changes = sum(a != b for a, b in pairwise(shapes))
    assert changes > 120  # of 309; 36 or so if shapes came one after the other
    assert shapes[:31] != shapes[31:62]


def test_the_order_of_runs_that_were_begun_before_stays():
    """Values written down once: another order would be another training for the same configuration."""
    assert indices_at(0, 12, num_images=10, seed=0) == [0, 7, 6, 2, 5, 9, 8, 3, 4, 1, 9, 2]


CROPS: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {
    "buckets": ({"data.crop": "buckets", "data.flip": True}, [(16, 16), (8, 32), (32, 8)]),
    "random": ({"data.crop": "random", "data.flip": True}, [(16, 16), (16, 30), (21, 16)]),
    "native": ({"data.crop": "native", "data.flip": True}, [(16, 16), (70, 95), (33, 16)]),
    "flip": ({"data.flip": True}, [(16, 16)]),
}


@pytest.fixture(params=CROPS)
def crop(request, tmp_path):
    overrides, shapes = CROPS[request.param]
    pictures = random_pictures(14, *shapes)
    name = overrides.get("data.crop", "center")
    folder = tmp_path / "prepared"
    return make_config(**overrides), make_prepared(folder, pictures[:10], pictures[10:], image_size=16, crop=name)


def test_a_run_on_such_pictures_resumes_exactly(crop, tmp_path):
    config, prepared = crop
    train(config, prepared, tmp_path / "a", CPU)
    with pytest.raises(Killed):
        train(config, prepared, tmp_path / "b", CPU, Notes(kill_at=3))
    notes = Notes()
    assert train(config, prepared, tmp_path / "b", CPU, notes).start_step == 2
    a, b = (load_file(tmp_path / run / "snapshots" / "step-00000006" / WEIGHTS_NAME) for run in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    fractions = notes.values("train/data_wait_fraction")
    assert list(fractions) == [3, 4, 5, 6]
    assert all(0 < value < 1 for value in fractions.values())


def test_augmentation_changes_what_is_learned(crop):
    config, prepared = crop
    plain = config.model_copy(update={"data": config.data.model_copy(update={"flip": False})})
    losses = []
    for settings in (config, plain):
        state = TrainState.fresh(settings, CPU)
        stepper = Stepper(state, settings, CPU)
        with stepper.open_loader(prepared.train) as loader:
            losses.append([])
            for step in range(4):
                stepper.step(loader, step / 6)
                losses[-1].append(stepper.read()["train/loss"])
    assert losses[0] != losses[1]


def test_a_loader_opened_elsewhere_in_the_stream_is_refused(prepared, config):
    state = TrainState.fresh(config, CPU)
    stepper = Stepper(state, config, CPU)
    with stepper.open_loader(prepared.train) as loader:
        state.images_seen += 2
        with pytest.raises(AssertionError, match="another position"):
            stepper.step(loader, 0.0)


@pytest.mark.parametrize(("size", "channels", "use"), [(96, 4, 128), (32, 5, 128), (48, 4, 64)])
def test_buckets_whose_sides_the_factor_does_not_divide_are_refused(size, channels, use):
    overrides = {
        "data.image_size": size,
        "data.crop": "buckets",
        "model.channels": [8] * channels,
        "model.norm_groups": 4,
    }
    if size == 48:  # its sides are multiples of 8, as the factor is
        assert isinstance(make_config(**overrides), Config)
        return
    with pytest.raises(UserError, match=f"data.crop buckets: .* use data.image_size {use}") as caught:
        make_config(**overrides)
    assert "\n" not in str(caught.value)
    make_config(**{**overrides, "data.image_size": use})
