"""The training loop: resume, averaging, moving average, non-finite values, what it tells and what it keeps."""

import itertools
import json
import math
import time
from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.backends.debugging import aot_eager

from pikavae.errors import NonFiniteLossError, UserError
from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.presets import load_config
from pikavae.training import compiling, loop
from pikavae.training.loop import Stopwatch, progress_of, train
from pikavae.training.precision import resolve_precision
from pikavae.training.saving import best_step
from pikavae.training.state import TrainState, restore_latest
from pikavae.training.step import Stepper
from pikavae.training.validation import Validation
from pikavae.weights.published import read_snapshot
from tests.support.trainings import CPU, Killed, Notes, assert_equal_weights, weights
from tests.training.conftest import make_config


def step_of(state, config, prepared, total):
    """One optimizer step, with a loader of its own."""
    stepper = Stepper(state, config, CPU)
    with stepper.open_loader(prepared.train) as loader:
        stepper.step(loader, progress_of(state, config, total))
        return stepper.read()


VARIANTS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optimizer.name": "muon"},
    "ema": {"training.ema_decay": 0.9},
    "accumulation": {"training.accumulation": 3},
    "bf16": {"training.precision": "bf16"},
    "channels last": {"training.channels_last": True},
    "shortcuts": {"model.resample_shortcuts": True, "model.zero_init_residuals": True, "model.initial_logvar": -6.0},
    "adversarial": {
        "data.image_size": 32,
        "loss.adversarial_weight": 0.5,
        "loss.adversarial_start": 0.3,
        "loss.adversarial_warmup": 0.2,
    },
    "equivariance": {"loss.equivariance": 0.5, "loss.kl_warmup": 1.0, "loss.reconstruction": "charbonnier"},
    "decoder alone": {"training.trainable": "decoder"},
    "recomputed": {"training.activations": "checkpoint"},
    "fp16": {"training.precision": "fp16"},
    "cosine": {"optimizer.schedule": "cosine", "optimizer.warmup_steps": 2, "optimizer.max_grad_norm": 0.1},
}


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("kill_at", [1, 3, 4, 5])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, prepared, larger, overrides, kill_at):
    config = make_config(**overrides)
    prepared = larger if config.data.image_size == 32 else prepared
    undisturbed = Notes()
    train(config, prepared, tmp_path / "a", CPU, undisturbed)
    with pytest.raises(Killed):
        train(config, prepared, tmp_path / "b", CPU, Notes(kill_at))
    resumed = Notes()
    result = train(config, prepared, tmp_path / "b", CPU, resumed)

    assert result.start_step == resumed.begun == 2 * ((kill_at - 1) // 2)
    assert kill_at - result.start_step <= config.training.checkpoint_every
    assert_equal_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    for name in ("train/loss", "train/learning_rate", "val/psnr"):
        later = {step: value for step, value in undisturbed.values(name).items() if step > result.start_step}
        assert resumed.values(name) == later


def test_a_decoder_trained_alone_leaves_the_latents_as_they_are(tmp_path, prepared):
    config = make_config(**{"training.trainable": "decoder", "training.ema_decay": 0.9})
    first = TrainState.fresh(config, CPU).model.state_dict()
    train(config, prepared, tmp_path, CPU)
    for name, value in weights(tmp_path).items():
        frozen = name.startswith(("encoder.", "quant_conv."))
        assert torch.equal(value, first[name]) is frozen, name


@pytest.mark.parametrize("phase", ["before", "alone", "both"])
def test_the_discriminator_learns_alone_before_the_autoencoder_sees_it(larger, phase):
    """What it does to the weights of both, against a run without it."""
    start, warmup, progress = 0.4, 0.2, {"before": 0.39, "alone": 0.41, "both": 0.61}[phase]
    own = {"data.image_size": 32, "loss.adversarial_start": start, "loss.adversarial_warmup": warmup}
    states = {}
    for weight in (0.0, 1.0):
        config = make_config(**own, **{"loss.adversarial_weight": weight})
        states[weight] = state = TrainState.fresh(config, CPU)
        stepper = Stepper(state, config, CPU)
        with stepper.open_loader(larger.train) as loader:
            stepper.step(loader, progress)
            metrics = stepper.read()
    network = states[1.0].adversary.network.state_dict()
    fresh = TrainState.fresh(config, CPU).adversary.network.state_dict()
    moved = any(not torch.equal(value, fresh[name]) for name, value in network.items())
    assert moved is (phase != "before")
    assert ("train/discriminator" in metrics) is (phase != "before")
    same = all(
        torch.equal(a, b) for a, b in zip(states[0.0].model.parameters(), states[1.0].model.parameters(), strict=True)
    )
    assert same is (phase != "both")
    assert ("weighted/adversarial" in metrics) is (phase == "both")


def test_every_term_is_told_raw_and_weighted(prepared):
    config = make_config(**{"loss.kl_weight": 0.25, "loss.kl_warmup": 0.5, "loss.reconstruction": "l1"})
    stepper = Stepper(TrainState.fresh(config, CPU), config, CPU)
    with stepper.open_loader(prepared.train) as loader:
        stepper.step(loader, 0.25)
        metrics = stepper.read()
    assert metrics["weighted/l1"] == metrics["train/l1"]
    assert metrics["weighted/kl_nats_per_image"] == pytest.approx(0.125 * metrics["train/kl_nats_per_image"])
    assert metrics["train/loss"] == pytest.approx(metrics["weighted/l1"] + metrics["weighted/kl_nats_per_image"])


def test_pictures_too_small_for_a_loss_are_refused(prepared):
    config = make_config(**{"loss.ms_ssim_weight": 1.0})
    with pytest.raises(UserError, match="pictures of 16 pixels are too small for section loss, it needs 176"):
        Stepper(TrainState.fresh(config, CPU), config, CPU).open_loader(prepared.train)


def test_training_ends_when_patience_does_and_keeps_the_best(tmp_path, prepared, monkeypatch):
    scores = iter([10.0, 12.0, 11.0, 11.5, 13.0])
    monkeypatch.setattr(Validation, "measure", lambda *_, show: ({"val/psnr": next(scores)}, torch.zeros(1, 3, 8, 8)))
    config = make_config(**{"training.steps": 100, "training.patience": 2})
    notes = Notes()
    result = train(config, prepared, tmp_path, CPU, notes)
    assert (result.steps, result.best_step, result.snapshot.name) == (8, 4, "step-00000004")
    assert train(config, prepared, tmp_path, CPU).start_step == 8  # it does not go on


@pytest.mark.parametrize(
    ("every", "steps"),
    [(3, [3, 6, 9, 10]), ("1 epoch", [5, 10]), ("0.5 epochs", [3, 5, 8, 10]), ("2 minutes", [4, 8, 10])],
)
def test_cadence_is_in_steps_epochs_or_minutes(tmp_path, prepared, monkeypatch, every, steps):
    clock = itertools.count(step=30.0)  # seconds, at each look: one when training begins, and one at each step
    monkeypatch.setattr(loop, "Stopwatch", lambda before: Stopwatch(before, lambda: next(clock)))
    config = make_config(
        **{"training.steps": 10, "training.log_every": every, "training.validate_every": 100},
        **{"training.checkpoint_every": 100},
    )
    notes = Notes()
    train(config, prepared, tmp_path, CPU, notes)
    assert list(notes.values("train/loss")) == steps


@pytest.mark.parametrize("every", ["0 epochs", "minutes", "5 hours", "-1", "0"])
def test_a_cadence_that_is_none_is_refused(every):
    with pytest.raises(UserError, match=r"training.log_every"):
        make_config(**{"training.log_every": every})


def test_a_finished_run_is_not_trained_further(tmp_path, prepared, config):
    first = train(config, prepared, tmp_path, CPU)
    before = weights(tmp_path)
    again = train(config, prepared, tmp_path, CPU)
    assert (again.start_step, again.steps, again.snapshot) == (6, 6, first.snapshot)
    assert_equal_weights(before, weights(tmp_path))


def test_seed_alone_decides_the_weights(tmp_path, prepared, config):
    train(config, prepared, tmp_path / "a", CPU)
    torch.manual_seed(123)
    global_state = torch.get_rng_state()
    train(config, prepared, tmp_path / "b", CPU)
    assert torch.equal(torch.get_rng_state(), global_state)
    train(make_config(**{"training.seed": 1}), prepared, tmp_path / "c", CPU)
    assert_equal_weights(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not torch.equal(weights(tmp_path / "a")["quant_conv.weight"], weights(tmp_path / "c")["quant_conv.weight"])


def test_accumulated_batches_give_the_step_of_one_large_batch(prepared):
    large = make_config(**{"training.batch_size": 6})
    split = make_config(**{"training.batch_size": 2, "training.accumulation": 3})
    states = [TrainState.fresh(config, CPU) for config in (large, split)]
    metrics = [step_of(state, config, prepared, 6) for state, config in zip(states, (large, split), strict=True)]
    assert metrics[0]["train/loss"] == pytest.approx(metrics[1]["train/loss"], rel=1e-5)
    assert metrics[0]["train/gradient_norm"] == pytest.approx(metrics[1]["train/gradient_norm"], rel=1e-4)
    assert states[0].images_seen == states[1].images_seen == 6
    for a, b in zip(states[0].model.parameters(), states[1].model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-4)  # AdamW's first step is +-rate, also for tiny gradients


def test_gradients_are_clipped_to_the_configured_norm(prepared):
    config = make_config(**{"optimizer.max_grad_norm": 1e-3})
    state = TrainState.fresh(config, CPU)
    seen = {}
    state.optimizer.register_step_pre_hook(
        lambda optimizer, _args, _kwargs: seen.update(
            norm=torch.stack([p.grad.norm() for g in optimizer.param_groups for p in g["params"]]).norm().item()
        )
    )
    metrics = step_of(state, config, prepared, 6)
    assert seen["norm"] == pytest.approx(1e-3, rel=1e-3)
    assert metrics["train/gradient_norm"] > 1e-3


@pytest.mark.parametrize("poisoned", ["encoder.conv_in.weight", "decoder.conv_out.bias"])
def test_a_non_finite_loss_stops_before_the_step_and_says_where(prepared, poisoned):
    config = make_config()
    state = TrainState.fresh(config, CPU)
    step_of(state, config, prepared, 6)
    with torch.no_grad():
        state.model.get_parameter(poisoned).view(-1)[0] = math.nan
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    with pytest.raises(NonFiniteLossError, match=r"step 2: loss nan, mse nan, kl_nats_per_image .*learning rate 0.001"):
        step_of(state, config, prepared, 6)
    after = state.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name != poisoned)
    assert state.step == 1


def test_snapshots_hold_the_moving_average(tmp_path, prepared):
    config = make_config(**{"training.ema_decay": 0.5, "training.steps": 3, "training.checkpoint_every": 3})
    train(config, prepared, tmp_path, CPU)
    state = TrainState.fresh(config, CPU)
    average = {name: value.clone() for name, value in state.model.named_parameters()}
    for step in (1, 2, 3):
        step_of(state, config, prepared, 3)
        decay = min(0.5, (1 + step) / (10 + step))
        average = {name: decay * average[name] + (1 - decay) * p for name, p in state.model.named_parameters()}
    saved = weights(tmp_path, 3)
    for name, expected in average.items():
        torch.testing.assert_close(saved[name], expected.detach(), msg=name)


def test_points_previews_and_checkpoints_come_at_their_cadence_and_at_the_end(tmp_path, prepared):
    config = make_config(**{"training.steps": 7, "training.log_every": 4, "training.preview_images": 3})
    notes = Notes()
    result = train(config, prepared, tmp_path, CPU, notes)
    assert list(notes.values("train/loss")) == [4, 7]
    assert [step for step, _ in notes.previews] == [0, 3, 6, 7]
    assert all(picture.shape == (3, 3, 16, 16) and picture.dtype == torch.float32 for _, picture in notes.previews)
    assert list(notes.values("val/psnr")) == [2, 4, 6, 7]
    assert notes.kept_steps == [2, 4, 6, 7]
    assert result.images_seen == 14
    assert result.best_step == best_step(
        json.loads((tmp_path / "checkpoints/step-00000007/state.json").read_text())["scores"]
        and notes.values("val/psnr")
    )


def test_pruning_keeps_the_last_and_the_best(tmp_path, prepared):
    config = make_config(**{"training.steps": 12, "training.keep_checkpoints": 1, "optimizer.learning_rate": 0.05})
    notes = Notes()
    result = train(config, prepared, tmp_path, CPU, notes)
    kept = {int(path.name.removeprefix("step-")) for path in (tmp_path / "snapshots").iterdir()}
    assert kept == {12, result.best_step}
    assert set(notes.dropped_steps) == set(notes.kept_steps) - kept
    checkpoints = sorted((tmp_path / "checkpoints").iterdir())
    assert len(checkpoints) == 2
    resolved = resolve_precision(config, CPU)
    assert all(load_config(folder / "pikavae.yaml") == resolved for folder in checkpoints)


def test_a_budget_in_minutes_ends_the_run_and_the_learning_rate_with_it(tmp_path, prepared, monkeypatch):
    clock = itertools.count(step=0.02)  # seconds, at each look
    monkeypatch.setattr(loop, "Stopwatch", lambda before: Stopwatch(before, lambda: next(clock)))
    config = make_config(
        **{
            "training.steps": 10**6,
            "training.minutes": 1.0 / 60,
            "optimizer.schedule": "cosine",
            "training.checkpoint_every": 10**6,
        }
    )
    notes = Notes()
    result = train(config, prepared, tmp_path, CPU, notes)
    assert 20 <= result.steps <= 50
    rates = notes.values("train/learning_rate")
    assert 0 < rates[result.steps] < 0.05 * rates[1]
    read_snapshot(result.snapshot)


def test_a_budget_that_ends_while_scores_are_measured_is_used_up_by_one_more_step(tmp_path, prepared, monkeypatch):
    """So that the last step is measured and saved as every other."""
    measure = Validation.measure

    def slow(*arguments, **more):
        time.sleep(0.4)
        return measure(*arguments, **more)

    monkeypatch.setattr(Validation, "measure", slow)
    endless = {"training.steps": 10**6, "training.checkpoint_every": 10**6, "training.validate_every": 1}
    result = train(make_config(**endless, **{"training.minutes": 0.3 / 60}), prepared, tmp_path, CPU)
    read_snapshot(result.snapshot)


def test_epochs_set_the_number_of_steps(tmp_path, prepared):
    config = make_config(**{"training.epochs": 3, "training.batch_size": 4})
    assert train(config, prepared, tmp_path, CPU).steps == math.ceil(3 * 10 / 4)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, prepared, config, caplog):
    train(config, prepared, tmp_path, CPU)
    newest = tmp_path / "checkpoints" / "step-00000006" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    state = TrainState.fresh(config, CPU)
    restore_latest(state, tmp_path / "checkpoints")
    assert state.step == 4
    assert "optimizer.pt" in caplog.text


@pytest.mark.parametrize("threads", [1, 2])
def test_other_threads_than_the_checkpoints_are_told(tmp_path, prepared, config, caplog, threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        train(config, prepared, tmp_path, CPU)
        torch.set_num_threads(threads)
        restore_latest(TrainState.fresh(config, CPU), tmp_path / "checkpoints")
    finally:
        torch.set_num_threads(before)
    assert ("resumes with 2 CPU threads instead of 1" in caplog.text) is (threads == 2)


def test_fp16_skips_an_overflowing_step_and_lowers_the_scale(prepared):
    config = make_config(**{"training.precision": "fp16"})
    state = TrainState.fresh(config, CPU)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = state.model.get_parameter("quant_conv.weight").clone()
    step_of(state, config, prepared, 6)
    assert torch.equal(state.model.get_parameter("quant_conv.weight"), before)
    assert state.scaler.get_scale() < 2.0**60


def test_training_learns(tmp_path, prepared):
    config = make_config(
        **{
            "training.steps": 60,
            "training.validate_every": 60,
            "training.checkpoint_every": 60,
            "optimizer.name": "muon",
            "optimizer.learning_rate": 5e-3,
            **VARIANTS["shortcuts"],
        }
    )
    notes = Notes()
    train(config, prepared, tmp_path, CPU, notes)
    losses = notes.values("train/loss")
    assert losses[60] < losses[1] / 4


def test_a_compiled_model_trains_to_the_same_weights_under_the_same_names(tmp_path, prepared, monkeypatch):
    """Compiled for its graph alone: a machine without a C++ compiler has no other backend."""
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(compiling, "compile_blocks", partial(compiling.compile_blocks, backend=count))
    monkeypatch.setattr(compiling, "compiler_failure", lambda device: None)
    plain, compiled = make_config(), make_config(**{"training.compile": True})
    for name, config in (("plain", plain), ("compiled", compiled)):
        train(config, prepared, tmp_path / name, CPU)
    assert graphs
    weights, expected = (
        load_file(tmp_path / name / "snapshots" / "step-00000006" / WEIGHTS_NAME) for name in ("compiled", "plain")
    )
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5, msg=partial("{}: {}".format, name))
