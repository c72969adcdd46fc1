"""A tiny autoencoder learns the latents of a larger one, as a diffusion model gets them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.posterior import PointPosterior
from pikavae.model.snapshot import write_snapshot
from pikavae.presets import parse_config
from pikavae.training.loop import train
from pikavae.training.memory import estimate
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper
from pikavae.training.teacher import Teacher
from pikavae.weights.published import read_snapshot
from pikavae.workspace.run_record import TeacherRecord
from tests.support.trainings import CPU, Killed, Notes, assert_equal_weights, weights
from tests.training.conftest import make_config

FACTOR, SHIFT = 3.0, 0.25
TINY = {"model.kind": "tiny", "model.latent_channels": 3}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(1)
    write_snapshot(folder, AutoencoderKL(make_config(**{"model.latent_channels": 3}).model), image_size=16, config="")
    return TeacherRecord(folder=str(folder), scaling_factor=FACTOR, shift_factor=SHIFT)


@pytest.mark.parametrize(
    "overrides",
    [
        {"training.ema_decay": 0.9, "loss.equivariance": 0.5, "loss.kl_warmup": 1.0},
        {"optimizer.name": "muon", "training.activations": "checkpoint", "optimizer.max_grad_norm": 0.1},
    ],
    ids=["adamw", "muon"],
)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, prepared, teacher, overrides):
    config, undisturbed, resumed = make_config(**TINY, **overrides), Notes(), Notes()
    train(config, prepared, tmp_path / "a", CPU, undisturbed, teacher=teacher)
    with pytest.raises(Killed):
        train(config, prepared, tmp_path / "b", CPU, Notes(3), teacher=teacher)
    train(config, prepared, tmp_path / "b", CPU, resumed, teacher=teacher)
    assert resumed.begun == 2
    assert_equal_weights(weights(tmp_path / "b"), weights(tmp_path / "a"))
    for name in ("val/psnr", "val/psnr_of_teacher_latents", "train/latent"):
        later = {step: value for step, value in undisturbed.values(name).items() if step > 2}
        assert later
        assert {step: value for step, value in resumed.values(name).items() if step > 2} == later
    assert not undisturbed.values("val/kl_nats_per_image")
    assert not undisturbed.values("train/kl_nats_per_image")


def test_the_loss_is_the_authors(prepared, teacher):
    config = make_config(**TINY, **{"loss.latent_weight": 0.5, "training.accumulation": 1})
    state = TrainState.fresh(config, CPU)
    stepper = Stepper(state, config, CPU, teacher=Teacher(teacher, CPU))
    with stepper.open_loader(prepared.train) as loader:
        images = next(iter(loader)).clone()
    with stepper.open_loader(prepared.train) as loader:
        larger, before = read_snapshot(Path(teacher.folder)), state.model
        with torch.no_grad():
            target = (larger.encode(images).mean - SHIFT) * FACTOR
            latents = before.encode(images).mode()
            pictures = before.decode(target)
        stepper.step(loader, 0.0)
    values = stepper.read()
    assert values["train/mse"] == pytest.approx(F.mse_loss(pictures, images).item(), rel=1e-5)
    assert values["train/latent"] == pytest.approx(F.mse_loss(latents, target).item(), rel=1e-5)
    assert values["train/loss"] == pytest.approx(values["train/mse"] + 0.5 * values["train/latent"], rel=1e-6)


def test_a_teacher_of_flux2s_form_gives_its_normalised_latents_unpacked(tmp_path):
    torch.manual_seed(2)
    model = AutoencoderKL(make_config(**{"model.latent_channels": 3, "model.latent_norm": True}).model).eval()
    model.bn.running_mean.copy_(torch.randn(12))
    model.bn.running_var.copy_(torch.rand(12) + 0.1)
    write_snapshot(tmp_path, model, image_size=16, config="")
    images = 2 * torch.rand(2, 3, 16, 8) - 1
    with torch.no_grad():
        packed = model.normalise(model.encode(images)).mode()
    given = Teacher(TeacherRecord(folder=str(tmp_path), scaling_factor=1.0, shift_factor=0.0), CPU).latents(images)
    torch.testing.assert_close(given, F.pixel_shuffle(packed, 2))


def test_each_half_learns_its_own_part(prepared, teacher):
    """What is asked of one half does not move the other."""
    after = {}
    asked_for: dict[str, dict[str, Any]] = {
        "both": {},
        "latents": {"loss.latent_weight": 9.0},
        "pictures": {"loss.reconstruction": "l1"},
    }
    for name, asked in asked_for.items():
        config = make_config(**TINY, **asked, **{"optimizer.eps": 1.0})  # so that the gradient's length counts
        state = TrainState.fresh(config, CPU)
        stepper = Stepper(state, config, CPU, teacher=Teacher(teacher, CPU))
        with stepper.open_loader(prepared.train) as loader:
            stepper.step(loader, 0.0)
        after[name] = state.model.state_dict()
    changed = {
        other: {
            name.partition(".")[0] for name in after["both"] if not torch.equal(after["both"][name], after[other][name])
        }
        for other in ("latents", "pictures")
    }
    assert changed == {"latents": {"encoder"}, "pictures": {"decoder"}}


def test_it_learns(tmp_path, prepared, teacher):
    steps = {"training.steps": 40, "training.checkpoint_every": 40, "training.validate_every": 10}
    notes = Notes()
    train(
        make_config(**TINY, **steps, **{"optimizer.learning_rate": 3e-3}),
        prepared,
        tmp_path,
        CPU,
        notes,
        teacher=teacher,
    )
    for name, least in (("val/psnr", 2.0), ("val/psnr_of_teacher_latents", 1.0)):
        scores = notes.values(name)
        assert scores[40] > scores[10] + least, (name, scores)
    latent = notes.values("train/latent")
    assert latent[40] < 0.5 * latent[1]
    model = read_snapshot(tmp_path / "snapshots" / "step-00000040")
    assert isinstance(model.encode(torch.zeros(1, 3, 16, 16)), PointPosterior)


def test_without_a_teacher_it_learns_its_own_latents(tmp_path, prepared):
    notes = Notes()
    train(make_config(**TINY, **{"loss.adversarial_weight": 0.0}), prepared, tmp_path, CPU, notes)
    assert notes.values("train/mse").keys() == notes.values("train/loss").keys()
    assert not notes.values("train/latent")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"training.teacher": "champion"}, "it teaches a tiny autoencoder, and model.kind is kl; set model.like taesd"),
        ({**TINY, "training.start": "champion", "training.grow_latents": True}, "a tiny autoencoder cannot grow"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_a_kind_are_refused(overrides, said):
    with pytest.raises(UserError, match=said):
        make_config(**overrides)


def test_its_memory_is_estimated():
    tree = {"data": {"image_size": 32}, "model": {"like": "taesd"}, "training": {"device": "cpu"}}
    needed = estimate(parse_config(tree, overrides={"training.batch_size": 2}))
    assert needed.weights == 4 * (1_222_532 + 1_222_531)
    assert needed.total > needed.activations > 0
