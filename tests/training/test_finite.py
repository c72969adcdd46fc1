"""Steps that are not finite, read at once and later: never applied, reported with their own number."""

import copy
import functools
import itertools
import math
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pikavae.errors import NonFiniteLossError
from pikavae.training import finite, loop, step
from pikavae.training.loop import train
from pikavae.training.losses import Term, autoencoder_terms
from pikavae.training.processes import backend_of
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper
from tests.support.places import ROOT
from tests.support.trainings import CPU, Notes
from tests.training.conftest import make_config

DISCRIMINATOR: dict[str, Any] = {
    "data.image_size": 32,
    "loss.adversarial_weight": 0.5,
    "loss.adversarial_start": 0.0,
    "loss.adversarial_warmup": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {"training.ema_decay": 0.9},
    "muon": {"optimizer.name": "muon", "training.ema_decay": 0.9},
    "clipped": {"optimizer.max_grad_norm": 0.1, "optimizer.schedule": "cosine", "training.accumulation": 2},
    "discriminator": {**DISCRIMINATOR, "optimizer.name": "muon"},
    "fp16": {"training.precision": "fp16", "training.ema_decay": 0.9},
}
DEFERRED = pytest.mark.parametrize("deferred", [True, False], ids=["deferred", "at once"])
CHANGES = pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)


def poison(monkeypatch, bad_step, value=math.nan):
    """Multiplies the loss of one step, counted from 1, by a number that makes it not finite."""
    calls = iter(range(1, 1000))

    def terms(*arguments):
        factor = value if next(calls) == bad_step else 1.0
        return {name: Term(term.raw * factor, term.weight) for name, term in autoencoder_terms(*arguments).items()}

    monkeypatch.setattr(step, "autoencoder_terms", terms)


def everything(state):
    """All tensors of a state, with its counters."""
    parts = [state.model.state_dict(), state.optimizer.state_dict()["state"]]
    parts += [state.ema.state_dict()] if state.ema else []
    if state.adversary:
        parts += [state.adversary.network.state_dict(), state.adversary.optimizer.state_dict()["state"]]
    return copy.deepcopy([*parts, state.step, state.images_seen])


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_same(a[name], b[name])
    elif isinstance(a, list):
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert torch.equal(a, b) if torch.is_tensor(a) else a == b


def take(prepared, config, count, *, deferred):
    """A state after some steps, and its stepper."""
    state = TrainState.fresh(config, CPU)
    stepper = Stepper(state, config, CPU, deferred=deferred)
    with stepper.open_loader(prepared.train) as loader:
        for number in range(count):
            stepper.step(loader, number / 10)
    return state, stepper


@CHANGES
def test_deferred_steps_are_the_same_bit_for_bit(prepared, larger, overrides):
    config = make_config(**overrides)
    pictures = larger if config.data.image_size == 32 else prepared
    (now, at_once), (later, deferred) = (take(pictures, config, 4, deferred=way) for way in (False, True))
    ours, expected = deferred.read(), at_once.read()
    assert_same(everything(later), everything(now))
    assert {**ours, "train/data_wait_fraction": 0} == {**expected, "train/data_wait_fraction": 0}


class Reads(TorchDispatchMode):
    """Counts how often the number in a tensor is read, which waits for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@CHANGES
def test_a_deferred_step_reads_no_number(prepared, larger, monkeypatch, overrides):
    monkeypatch.setattr(step, "transform_at", lambda *_, **__: None)  # it draws a number on the CPU, and reads it
    config = make_config(**overrides)
    pictures = larger if config.data.image_size == 32 else prepared
    state, stepper = take(pictures, config, 0, deferred=True)
    with stepper.open_loader(pictures.train) as loader:
        for _ in range(2):
            with Reads() as reads:
                stepper.step(loader, 0.9)
    assert reads.count == 0
    with Reads() as reads:
        state.model.decoder.conv_out.bias[0].item()
    assert reads.count == 1


@CHANGES
def test_a_deferred_step_that_is_not_finite_and_those_after_it_change_nothing(prepared, larger, monkeypatch, overrides):
    config = make_config(**overrides)
    pictures = larger if config.data.image_size == 32 else prepared
    before, _ = take(pictures, config, 2, deferred=False)
    poison(
        monkeypatch, 2 * config.training.accumulation + 1, math.inf if "training.ema_decay" in overrides else math.nan
    )
    state, stepper = take(pictures, config, 4, deferred=True)
    assert stepper.last_loss() is None
    with pytest.raises(NonFiniteLossError, match=r"step 3: loss (nan|inf|-inf), mse (nan|inf)"):
        stepper.read()
    assert_same(everything(state), everything(before))
    assert everything(state)[-2:] == [2, 4 * config.training.accumulation]


@DEFERRED
@pytest.mark.parametrize("of", ["autoencoder", "discriminator"])
def test_a_gradient_that_is_not_finite_refuses_the_step(prepared, larger, deferred, of):
    """The losses are finite: only a backward pass overflows."""
    config = make_config(**VARIANTS["muon"] if of == "autoencoder" else DISCRIMINATOR)
    pictures = prepared if of == "autoencoder" else larger
    state, stepper = take(pictures, config, 1, deferred=deferred)
    before = everything(state)
    weights = state.model.encoder.conv_in if of == "autoencoder" else state.adversary.network.layers[0]
    weights.weight.register_hook(lambda gradient: gradient * math.inf)

    def two_more():
        with stepper.open_loader(pictures.train) as loader:
            for _ in range(2):
                stepper.step(loader, 0.0)
        stepper.read()

    norms = r"norm (nan|inf)" if of == "autoencoder" else r"norm \d+\.\d+, the discriminator's (nan|inf)"
    with pytest.raises(NonFiniteLossError, match=rf"step 2: loss -?\d+\.\d+, .*gradient {norms}, learning rate"):
        two_more()
    assert_same(everything(state), before)


def test_the_values_are_read_after_so_many_steps_at_the_latest(prepared, monkeypatch):
    monkeypatch.setattr(finite, "MOST_UNREAD", 3)
    poison(monkeypatch, 2)
    with pytest.raises(NonFiniteLossError, match="step 2: "):
        take(prepared, make_config(), 3, deferred=True)


def test_a_discriminator_that_overflows_in_fp16_is_skipped_alone(larger):
    config = make_config(**DISCRIMINATOR, **{"training.precision": "fp16", "optimizer.name": "muon"})
    state = TrainState.fresh(config, CPU)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)  # which the autoencoder bears
    stepper = Stepper(state, config, CPU)
    first = everything(state)
    next(state.adversary.network.parameters()).register_hook(lambda gradient: gradient * math.inf)
    with stepper.open_loader(larger.train) as loader:
        stepper.step(loader, 0.9)
    assert_same(state.adversary.network.state_dict(), first[2])
    assert not torch.equal(state.model.decoder.conv_in.weight, first[0]["decoder.conv_in.weight"])


def test_the_discriminator_learns_without_the_scalers_factor(larger):
    """Adam hides a factor in the weights, not in its moments, which would mix factors of different steps."""
    norms = []
    for precision in ("float32", "fp16"):
        state, _ = take(larger, make_config(**DISCRIMINATOR, **{"training.precision": precision}), 1, deferred=False)
        moments = [of["exp_avg"] for of in state.adversary.optimizer.state.values()]
        norms.append(torch.nn.utils.get_total_norm(moments).item())
    assert norms[1] == pytest.approx(norms[0], rel=0.05)


def test_a_scale_that_the_adaptive_weight_does_not_bear_is_lowered(larger):
    """The adversarial gradient alone overflows. With weight 0 the loss does not, and the scaler would not notice."""
    config = make_config(**DISCRIMINATOR, **{"training.precision": "fp16"})
    state = TrainState.fresh(config, CPU)
    stepper, steps = Stepper(state, config, CPU), []
    with stepper.open_loader(larger.train) as loader:
        for _ in range(8):
            before = state.scaler.get_scale()
            stepper.step(loader, 0.9)
            steps.append((stepper.read()["weighted/adversarial"] == 0.0, state.scaler.get_scale() < before))
    assert steps[0] == (True, True)
    assert (False, False) in steps
    assert all(without_weight == lowered for without_weight, lowered in steps)


CADENCES = ("log_every", "preview_every", "validate_every", "checkpoint_every")
RARELY = {f"training.{name}": 100 for name in CADENCES}


@pytest.mark.parametrize("cadence", [*CADENCES, "none"])
def test_nothing_is_written_after_a_deferred_step_that_is_not_finite(tmp_path, prepared, monkeypatch, cadence):
    monkeypatch.setattr(loop, "Stepper", functools.partial(Stepper, deferred=True))
    poison(monkeypatch, 3)
    every = RARELY if cadence == "none" else {**RARELY, f"training.{cadence}": 2}
    notes = Notes()
    with pytest.raises(NonFiniteLossError, match=r"step 3: .*checkpoints up to step (0|2) are whole"):
        train(make_config(**every), prepared, tmp_path, CPU, notes)
    assert {of for of, _, _ in notes.points} <= {2}
    assert [of for of, _ in notes.previews] == ([0, 2] if cadence == "preview_every" else [0])
    assert notes.kept_steps == ([2] if cadence == "checkpoint_every" else [])


def test_told_to_stop_after_a_deferred_step_that_is_not_finite_it_saves_nothing(tmp_path, prepared, monkeypatch):
    """Nothing else is due there: a checkpoint would count steps that its weights do not have."""
    monkeypatch.setattr(loop, "Stepper", functools.partial(Stepper, deferred=True))
    poison(monkeypatch, 3)
    asked = itertools.count(1)
    with pytest.raises(NonFiniteLossError, match="step 3: "):
        train(make_config(**RARELY), prepared, tmp_path, CPU, should_stop=lambda: next(asked) >= 4)
    assert not list((tmp_path / "checkpoints").glob("*"))


def test_a_run_with_deferred_steps_is_that_without(tmp_path, prepared, monkeypatch):
    """Its points are those of its steps, and its progress has the loss that was read last."""
    config = make_config(**{"training.log_every": 2, "training.preview_every": 100})
    losses, notes = [], {}
    for name in ("at once", "deferred"):
        notes[name] = Notes()
        monkeypatch.setattr(loop, "Stepper", functools.partial(Stepper, deferred=name == "deferred"))
        monkeypatch.setattr(notes[name], "on_step", lambda state, loss, progress: losses.append(loss))
        train(config, prepared, tmp_path / name, CPU, notes[name])
    expected, found = losses[:6], losses[6:]
    assert found == [None, expected[1], expected[1], expected[3], expected[3], expected[5]]
    for name in ("train/loss", "train/gradient_norm", "val/psnr"):
        assert notes["deferred"].values(name) == notes["at once"].values(name)


PROGRAM = """
import sys
import torch
from pathlib import Path
from pikavae.data.prepared.dataset import open_prepared
from pikavae.errors import NonFiniteLossError
from pikavae.training import step
from pikavae.training.processes import join, leave
from pikavae.training.state import TrainState
from tests.training.conftest import make_config

torch.set_num_threads(1)
processes, device = join("cpu")
config = make_config(**{"training.ema_decay": 0.9, "optimizer.name": "muon"})
state = TrainState.fresh(config, device)
stepper = step.Stepper(state, config, device, processes, deferred=True)
terms_of = step.autoencoder_terms
with stepper.open_loader(open_prepared(Path(sys.argv[1])).train) as loader:
    for number in range(1, 5):
        if number == 3 and processes.rank == 1:
            step.autoencoder_terms = lambda *a: {n: step.Term(t.raw / 0.0, t.weight) for n, t in terms_of(*a).items()}
        stepper.step(loader, 0.0)
        step.autoencoder_terms = terms_of
try:
    stepper.read()
except NonFiniteLossError as error:
    sums = [sum(weight.double().sum().item() for weight in model.parameters()) for model in (state.model, state.ema)]
    print(state.step, state.images_seen, sums, str(error).split(":")[0])
processes.wait()
leave()
"""


@pytest.mark.slow
def test_all_processes_refuse_the_step_that_is_not_finite_in_one(prepared):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(prepared.path)],
            cwd=ROOT,
            env={**os.environ, **address, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    first, second = (process.communicate(timeout=240)[0] for process in running)
    assert first == second
    assert first.startswith("2 4 [")
    assert first.endswith("step 3\n")


def test_gradients_go_by_nccl_on_cuda_and_the_hosts_words_by_gloo():
    assert backend_of("cuda") == "cuda:nccl,cpu:gloo"
    assert backend_of("cpu") == backend_of("mps") == "gloo"
