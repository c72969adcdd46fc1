"""On CUDA: steps that do not wait for the device, steps that it refuses, and what repeats bit for bit."""

import copy
import functools
import math

import pytest
import torch

from pikavae.errors import NonFiniteLossError
from pikavae.training import loop
from pikavae.training.loop import train
from pikavae.training.optimizers import build_optimizer
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper
from tests.support.prepared_sets import make_prepared, random_pictures
from tests.support.trainings import Killed, Notes, assert_equal_weights, weights
from tests.training.conftest import make_config
from tests.training.test_finite import DISCRIMINATOR, assert_same, everything, poison

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
LARGE = {"data.image_size": 192, "loss.ms_ssim_weight": 0.2}
VARIANTS = {
    "adamw, bf16": {"training.precision": "bf16"},
    "muon": {
        "training.precision": "bf16",
        "optimizer.name": "muon",
        "optimizer.max_grad_norm": 1.0,
        "training.ema_decay": 0.99,
        "training.accumulation": 2,
    },
    "discriminator": DISCRIMINATOR,
    "discriminator, fp16": {**DISCRIMINATOR, "training.precision": "fp16", "optimizer.name": "muon"},
    "equivariance": {"loss.equivariance": 1.0, "loss.reconstruction": "charbonnier"},
    "MS-SSIM": LARGE,
    "streamed": {"training.resident": False, "data.flip": True},
    "resident": {"training.resident": True, "data.flip": True},
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Six pictures to train on and two to validate, of each side in use."""
    made = {}
    for side in (16, 32, 192):
        drawn = random_pictures(8, (side, side))
        folder = tmp_path_factory.mktemp(f"of {side}") / "set"
        made[side] = make_prepared(folder, drawn[:6], drawn[6:], image_size=side)
    return made


def new_stepper(config):
    state = TrainState.fresh(config, CUDA)
    return state, Stepper(state, config, CUDA)


@pytest.fixture
def no_waiting():
    """Makes whatever waits for the device an error."""

    def switch(mode):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode(mode)

    yield functools.partial(switch, "error")
    switch("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_steps_do_not_wait_for_the_device(sets, overrides, no_waiting):
    config = make_config(**overrides)
    _, stepper = new_stepper(config)
    with stepper.open_loader(sets[config.data.image_size].train) as loader:
        for _ in range(3):  # the first ones choose algorithms and fill caches
            stepper.step(loader, 0.9)
        stepper.read()
        no_waiting()
        for _ in range(5):
            stepper.step(loader, 0.9)
        torch.cuda.set_sync_debug_mode("default")
        values = stepper.read()
    assert all(map(math.isfinite, values.values()))


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_the_device_refuses_a_step_that_is_not_finite(sets, overrides, monkeypatch):
    config = make_config(**overrides)
    pictures = sets[config.data.image_size].train
    poison(monkeypatch, 2 * config.training.accumulation + 1)
    state, stepper = new_stepper(config)
    with stepper.open_loader(pictures) as loader:
        for number in range(5):
            if number == 2:
                torch.cuda.synchronize()
                before = everything(state)
            stepper.step(loader, 0.9)
    with pytest.raises(NonFiniteLossError, match="step 3: loss nan"):
        stepper.read()
    assert_same(everything(state), before)


def test_nothing_is_written_after_a_step_that_is_not_finite(tmp_path, sets, monkeypatch):
    poison(monkeypatch, 3)
    config = make_config(**{"training.log_every": 10, "training.validate_every": 4, "training.checkpoint_every": 4})
    notes = Notes()
    with pytest.raises(NonFiniteLossError, match="step 3: "):
        train(config, sets[16], tmp_path, CUDA, notes)
    assert (notes.points, notes.kept_steps) == ([], [])


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_repeat_bit_for_bit(name):
    config = make_config(**{"optimizer.name": name, "model.channels": [32, 64], "training.ema_decay": 0.9})
    found = []
    for _ in range(2):
        state = TrainState.fresh(config, CUDA)
        optimizer = build_optimizer(state.model, config.optimizer)
        for number in range(4):
            generator = torch.Generator(CUDA).manual_seed(number)
            for parameter in state.model.parameters():
                gradient = torch.randn(parameter.shape, generator=generator, device=CUDA)
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()
        found.append(copy.deepcopy(state.model.state_dict()))
    assert_equal_weights(*found)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_resumed_run_repeats_bit_for_bit_with_cudnns_deterministic_algorithms(tmp_path, sets, name):
    """By default cuDNN may choose sums in an order that is not fixed; nothing else in a step does."""
    config = make_config(**{"optimizer.name": name, "training.precision": "bf16", "training.ema_decay": 0.9})
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        train(config, sets[16], tmp_path / "a", CUDA)
        with pytest.raises(Killed):
            train(config, sets[16], tmp_path / "b", CUDA, Notes(kill_at=5))
        assert train(config, sets[16], tmp_path / "b", CUDA).start_step == 4
    assert_equal_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_that_began_on_a_cpu_continues(tmp_path, sets, name):
    """Weights and moments of a checkpoint are in the other layout."""
    config = make_config(**{"optimizer.name": name})
    with pytest.raises(Killed):
        train(config, sets[16], tmp_path / "b", torch.device("cpu"), Notes(kill_at=5))
    assert train(config, sets[16], tmp_path / "b", CUDA).start_step == 4
    train(config, sets[16], tmp_path / "a", torch.device("cpu"))
    for key, value in weights(tmp_path / "a").items():
        torch.testing.assert_close(weights(tmp_path / "b")[key], value, rtol=0, atol=4e-3, msg=key)


def test_a_run_starts_and_ends_without_deferred_steps_as_well(tmp_path, sets, monkeypatch):
    losses = {}
    for deferred in (True, False):
        notes = Notes()
        monkeypatch.setattr(loop, "Stepper", functools.partial(Stepper, deferred=deferred))
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            train(make_config(), sets[16], tmp_path / str(deferred), CUDA, notes)
        losses[deferred] = notes.values("train/loss")
    assert losses[True] == losses[False]
