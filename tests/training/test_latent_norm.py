"""The statistics of FLUX.2's latents in a training: they follow latents that move, and no others."""

import pytest
import torch
from diffusers import AutoencoderKLFlux2

from pikavae.data.prepared.loader import Loader
from pikavae.errors import NonFiniteLossError, PreemptedError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.grow import grow_latents
from pikavae.model.latent_norm import SLOWEST, LatentNorm
from pikavae.model.snapshot import write_snapshot
from pikavae.training.loop import train
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper
from pikavae.weights.published import read_snapshot
from tests.training.conftest import make_config

CPU = torch.device("cpu")
FLUX2 = {"model.latent_norm": True, "model.decoder_channels": [4, 8], "training.ema_decay": 0.9}


def latents(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3.0 * torch.randn(count, 4, 6, 8, generator=generator) + torch.arange(4.0)[:, None, None]


def packed(z):
    return torch.nn.functional.pixel_unshuffle(z, 2)


def test_a_hundred_batches_are_averaged_and_the_later_ones_run_on():
    norm, means, expected = LatentNorm(4), [], torch.empty(0)
    for number in range(130):
        batch = latents(2, seed=number)
        norm.move(norm.moments(batch))
        means.append(packed(batch).mean(dim=(0, 2, 3)))
        expected = torch.stack(means).mean(dim=0) if number < 100 else expected.lerp(means[-1], SLOWEST)
        torch.testing.assert_close(norm.running_mean, expected, rtol=1e-4, atol=1e-4)
    assert norm.num_batches_tracked == 130
    torch.testing.assert_close(norm.running_var.mean().item(), 9.0, rtol=0.1, atol=0)


def test_normalised_latents_of_the_batch_have_mean_zero_and_deviation_one():
    norm, batch = LatentNorm(4), latents(64)
    norm.move(norm.moments(batch))
    mean, _ = norm.normalise(batch, torch.zeros_like(batch))
    torch.testing.assert_close(mean.mean(dim=(0, 2, 3)), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(mean.std(dim=(0, 2, 3), correction=0), torch.ones(16), rtol=1e-3, atol=0)
    torch.testing.assert_close(norm.restore(mean), batch)


def test_a_refused_step_changes_no_statistic():
    norm, before = LatentNorm(4), LatentNorm(4)
    norm.move(torch.full((2, 16), torch.nan), torch.tensor(1.0))
    assert all(value.equal(norm.state_dict()[name]) for name, value in before.state_dict().items())
    norm.move(norm.moments(latents(2)), torch.tensor(0.0))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("trainable", ["all", "decoder"])
def test_ten_steps_of_a_fine_tune_are_read_by_diffusers_bit_for_bit(tmp_path, prepared, trainable):
    config = make_config(**FLUX2, **{"training.trainable": trainable, "training.steps": 10})
    (tmp_path / "start").mkdir()
    torch.manual_seed(5)
    model = AutoencoderKL(config.model)
    assert model.bn is not None
    model.bn.running_mean.fill_(0.5)
    model.bn.num_batches_tracked.fill_(7)
    write_snapshot(tmp_path / "start", model, image_size=16, config="")
    result = train(config, prepared, tmp_path / "run", CPU, start=tmp_path / "start")
    after, before = read_snapshot(result.snapshot).state_dict(), model.state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not after[name].equal(value)}
    decoder = {"decoder", "post_quant_conv"}
    assert moved == (decoder if trainable == "decoder" else decoder | {"encoder", "quant_conv", "bn"})
    assert after["bn.num_batches_tracked"] == (7 if trainable == "decoder" else 17)
    theirs = AutoencoderKLFlux2.from_pretrained(result.snapshot, local_files_only=True).state_dict()
    assert theirs.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in theirs.items())


def test_statistics_are_those_of_the_batches_that_were_seen_over_an_accumulation(prepared):
    config = make_config(**FLUX2, **{"training.accumulation": 2})
    state = TrainState.fresh(config, CPU)
    assert state.ema is not None
    seen: list[torch.Tensor] = []
    stepper = Stepper(state, config, CPU)
    state.model.register_forward_hook(lambda model, inputs, out: seen.append(out[1].mean.detach()))
    with stepper.open_loader(prepared.train) as loader:
        assert isinstance(loader, Loader)
        stepper.step(loader, 0.0)
    assert len(seen) == 2
    expected = packed(torch.cat(seen)).mean(dim=(0, 2, 3))
    for model in (state.model, state.ema):
        torch.testing.assert_close(model.bn.running_mean, expected)
        torch.testing.assert_close(model.bn.running_var, packed(torch.cat(seen)).var(dim=(0, 2, 3), correction=0))


@pytest.mark.parametrize("deferred", [False, True])
def test_a_step_that_is_not_finite_leaves_the_statistics(prepared, deferred):
    config = make_config(**FLUX2)
    state = TrainState.fresh(config, CPU)
    with torch.no_grad():
        state.model.decoder.conv_out.weight.fill_(torch.nan)
    before = {name: value.clone() for name, value in state.model.bn.state_dict().items()}
    stepper = Stepper(state, config, CPU, deferred=deferred)

    def take_step(loader):
        stepper.step(loader, 0.0)
        stepper.read()

    with stepper.open_loader(prepared.train) as loader, pytest.raises(NonFiniteLossError):
        take_step(loader)
    assert all(value.equal(state.model.bn.state_dict()[name]) for name, value in before.items())


def test_a_model_with_more_latent_channels_normalises_the_first_ones_as_before():
    torch.manual_seed(0)
    model, images = AutoencoderKL(make_config(**FLUX2).model).eval(), torch.rand(2, 3, 16, 16) * 2 - 1
    assert model.bn is not None
    with torch.no_grad():
        model.bn.move(model.bn.moments(model.encode(images).mean))
        grown = grow_latents(model, 6)
        before, after = (one.normalise(one.encode(images)) for one in (model, grown))
    torch.testing.assert_close(after.mean[:, :16], before.mean)
    assert after.mean.shape == (2, 24, 4, 4)
    torch.testing.assert_close(grown.restore(after.mean), grown.encode(images).mean)


def test_a_run_that_was_stopped_resumes_with_its_statistics(tmp_path, prepared):
    config = make_config(**FLUX2)
    whole = train(config, prepared, tmp_path / "whole", CPU)
    calls = iter([False, False, True])
    with pytest.raises(PreemptedError):
        train(config, prepared, tmp_path / "cut", CPU, should_stop=lambda: next(calls, False))
    again = train(config, prepared, tmp_path / "cut", CPU)
    assert 0 < again.start_step < again.steps
    expected = read_snapshot(whole.snapshot).state_dict()
    for name, value in read_snapshot(again.snapshot).state_dict().items():
        assert torch.equal(value, expected[name]), name
