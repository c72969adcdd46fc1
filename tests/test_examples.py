"""The example that trains a latent diffusion model: what it reads, that it resumes, draws and measures."""

import json
import os
import signal

import pytest
import torch
from PIL import Image

from examples.diffusion import measuring
from examples.diffusion.__main__ import PROMPTS_NAME, RESULT_NAME, SAMPLES_NAME, main
from examples.diffusion.latents import NO_WORD, LatentSet
from examples.diffusion.model import Drawer, draw, loss_of, mean_loss
from examples.diffusion.training import STATE_NAME, Settings, Training, train
from pikavae.errors import PreemptedError, UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.weights.published import read_snapshot
from tests.support import commands
from tests.support.configs import tiny_on_cpu as tiny

QUICK = Settings(batch_size=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The latents of an untrained model, of 8 cells a side, and the model's folder."""
    folder = tmp_path_factory.mktemp("diffusion")
    torch.set_num_threads(1)
    model = _untrained(folder / "model", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIKAVAE_HOME", str(folder / "home"))
        commands.encode(str(model), tiny(**{"data.sprites_count": 40}), folder / "latents", logvar=False)
    return folder


def _untrained(folder, seed):
    folder.mkdir()
    torch.manual_seed(seed)
    write_snapshot(folder, AutoencoderKL(tiny().model), image_size=16, config=tiny().to_yaml())
    return folder


@pytest.fixture
def data(place):
    return LatentSet(place / "latents")


def run(place, out, *words, model="model"):
    given = [str(place / "latents"), "--model", str(place / model), "--out", str(out), "--threads", "1"]
    return main([*given, "--batch-size", "2", *words])


def weights(folder):
    return torch.load(folder / STATE_NAME, weights_only=True)


def assert_same_state(one, other):
    one, other = weights(one), weights(other)
    assert one["step"] == other["step"]
    for part in ("drawer", "average"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())


def test_the_command_trains_draws_and_measures_and_finds_its_result(place, tmp_path):
    out = tmp_path / "drawn"
    assert run(place, out, "--steps", "2", "--prompt", "a blue fish", "an unseenword") == 0
    result = json.loads((out / RESULT_NAME).read_text())
    assert (result["made"]["steps"], result["made"]["batch_size"]) == (2, 2)
    assert result["loss"]["held out"] > 0
    assert result["distance to held out"]["training"] > 0
    assert 0 <= result["nearer to its caption's"] <= 1
    assert result["to the nearest training latent"]["drawn"] > 0
    for name in (SAMPLES_NAME, PROMPTS_NAME):
        with Image.open(out / name) as picture:
            assert picture.width > 100
    before = (out / RESULT_NAME).stat().st_mtime_ns
    assert run(place, out, "--steps", "2") == 0
    assert (out / RESULT_NAME).stat().st_mtime_ns == before
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == sorted(
        (STATE_NAME, RESULT_NAME, SAMPLES_NAME, PROMPTS_NAME)
    )


def test_another_model_or_setting_or_fewer_steps_are_refused_in_a_line(place, tmp_path, capsys):
    other = place / "other"
    if not other.exists():
        _untrained(other, 1)
    assert run(place, tmp_path / "drawn", "--steps", "1", model="other") == 2
    said = capsys.readouterr().err
    assert "not the model of these latents, which is 'model'" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "drawn" / STATE_NAME).exists()
    data = LatentSet(place / "latents")
    train(data, QUICK, 2, tmp_path)
    with pytest.raises(UserError, match="its training had seed 0, not 1; name another"):
        train(data, Settings(batch_size=2, seed=1), 2, tmp_path)
    with pytest.raises(UserError, match=r"--steps 1: .* has 2 steps already"):
        train(data, QUICK, 1, tmp_path)


def test_a_stopped_training_ends_with_the_weights_of_an_undisturbed_one(data, tmp_path, monkeypatch):
    train(data, QUICK, 4, tmp_path / "whole")
    real = Training.take_step

    def stopped(self, *rest):
        if self.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *rest)

    monkeypatch.setattr(Training, "take_step", stopped)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="stopped after step 2"):
        train(data, QUICK, 4, tmp_path / "stopped")
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    torch.rand(5)  # what others draw from the global generator changes nothing
    train(data, QUICK, 3, tmp_path / "stopped")
    train(data, QUICK, 4, tmp_path / "stopped")  # more steps train on
    assert_same_state(tmp_path / "whole", tmp_path / "stopped")


def test_what_is_learned_has_mean_0_and_deviation_1_and_decodes_to_the_same_pictures(place, data):
    learned = data.train.latents
    assert learned.shape[1:] == (4, 8, 8)
    assert learned.mean().item() == pytest.approx(0, abs=1e-4)
    assert learned.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    model = read_snapshot(place / "model")
    record = data.record
    data.cell = 2  # as for latents of 16 cells a side
    with torch.inference_mode():
        stored = learned / record.scaling_factor + record.shift
        packed = data.standardise(stored)
        assert packed.shape[1:] == (16, 4, 4)
        expected = model.decode(stored).clamp(-1, 1)
        torch.testing.assert_close(data.decode(model, packed), expected, rtol=1e-4, atol=1e-4)


def test_words_are_those_of_the_training_captions(data):
    assert data.train.words.min() == 1
    assert data.train.words.max() == len(data.known)
    assert len(data.train.captions) == len(data.train.latents) == len(data.train.words)
    unseen = data.words_of(data.known.max() + 1 + torch.zeros(1, 77, dtype=torch.int64).numpy())
    assert unseen.eq(NO_WORD).all()
    assert unseen.shape == (1, data.length)


class Knows(torch.nn.Module):
    """Knows the latent that every way begins at: 1 with a caption, -1 without."""

    def forward(self, noisy, when, words):
        goal = (2.0 * (words != NO_WORD).any(dim=1).float() - 1.0)[:, None, None, None]
        return (noisy - goal) / when[:, None, None, None]


def test_drawing_arrives_where_the_direction_leads_and_guidance_goes_beyond():
    words = torch.ones(3, 5, dtype=torch.int64)
    drawn = draw(Knows(), words, (4, 2, 2), guidance=1.0, seed=0)
    torch.testing.assert_close(drawn, torch.ones(3, 4, 2, 2))
    unguided = draw(Knows(), words, (4, 2, 2), guidance=0.0, seed=0)
    torch.testing.assert_close(unguided, -torch.ones(3, 4, 2, 2))
    assert draw(Knows(), words, (4, 2, 2), guidance=2.0, seed=0).mean() > 1.5


def test_the_loss_is_0_for_the_right_direction():
    latents, noise, when = torch.ones(2, 4, 2, 2), torch.randn(2, 4, 2, 2), torch.tensor([0.2, 0.9])
    words = torch.ones(2, 5, dtype=torch.int64)
    assert loss_of(Knows(), latents, words, when, noise).max() < 1e-8
    assert loss_of(Knows(), latents, 0 * words, when, noise).min() > 1


def test_learning_lowers_the_loss(data):
    settings = Settings(batch_size=8, learning_rate=2e-2)
    training = Training.new(data, settings)
    before = mean_loss(training.drawer, data.train, 16)
    for _ in range(20):
        training.take_step(data.train, settings)
    assert mean_loss(training.drawer, data.train, 16) < 0.9 * before


def test_the_model_reads_the_caption():
    torch.manual_seed(0)
    drawer = Drawer((4, 4, 4), 9, 5).eval()
    noisy, when = torch.randn(2, 4, 4, 4), torch.full((2,), 0.5)
    with torch.inference_mode():
        one, other = (drawer(noisy, when, torch.full((2, 5), word)) for word in (1, 2))
    assert one.shape == noisy.shape
    assert not torch.allclose(one, other)


def test_measures_have_their_values_at_both_ends(place):
    latents = torch.randn(12, 4, 3, 3)
    assert measuring.nearer_to_its_own(latents + 0.01, latents) == 1.0
    assert measuring.nearer_to_its_own(latents.roll(1, 0), latents) < 0.7
    assert measuring.to_nearest(latents[:4], latents) == pytest.approx(0, abs=1e-4)
    assert measuring.to_nearest(latents[:4] + 0.5, latents) == pytest.approx(0.25, rel=0.01)
    seen = measuring.features(read_snapshot(place / "model"), torch.rand(40, 3, 16, 16) * 2 - 1)
    assert seen.shape == (40, 8)
