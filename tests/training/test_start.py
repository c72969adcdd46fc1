"""Training that begins with somebody's weights."""

import json

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL

from pikavae.errors import UserError
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.sizes import scaling_in
from pikavae.model.snapshot import write_snapshot
from pikavae.training.loop import train
from pikavae.training.state import TrainState
from pikavae.weights.published import read_snapshot
from tests.training.conftest import make_config

CPU = torch.device("cpu")


@pytest.fixture
def snapshot(tmp_path):
    """A model of factor 2 that no seed of the tests makes."""
    torch.manual_seed(77)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    write_snapshot(folder, AutoencoderKL(make_config().model), image_size=16, config="")
    return folder


@pytest.mark.parametrize("shortcuts", [False, True])
def test_the_model_computes_what_the_snapshot_computes_and_can_be_trained(snapshot, shortcuts):
    config = make_config(**{"model.resample_shortcuts": shortcuts, "training.ema_decay": 0.9})
    state = TrainState.fresh(config, CPU, snapshot)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        expected = read_snapshot(snapshot).encode(images).mean
        for model in (state.model, state.averaged):
            torch.testing.assert_close(model.encode(images).mean, expected)
    assert state.model.config.resample_shortcuts is shortcuts
    assert all(weight.requires_grad for weight in state.model.parameters())
    assert state.model.training


def test_the_first_step_begins_there_and_a_resumed_run_does_not_begin_again(tmp_path, prepared, snapshot):
    config = make_config(**{"optimizer.learning_rate": 1e-12})
    result = train(config, prepared, tmp_path / "run", CPU, start=snapshot)
    start, end = read_snapshot(snapshot).state_dict(), read_snapshot(result.snapshot).state_dict()
    for name, value in start.items():
        torch.testing.assert_close(end[name], value, rtol=0, atol=1e-9)
    trained = train(make_config(), prepared, tmp_path / "other", CPU, start=snapshot)
    again = train(make_config(), prepared, tmp_path / "other", CPU, start=snapshot)
    assert again.start_step == trained.steps


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ({"model.channels": [8, 16]}, r"channels \(8, 8\) instead of \(8, 16\)"),
        ({"model.latent_channels": 3}, "latent_channels 4 instead of 3"),
        ({"model.norm_groups": 2}, "norm_groups 4 instead of 2"),
        ({"model.mid_attention": False}, "mid_attention True instead of False"),
    ],
)
def test_weights_of_other_sizes_are_refused_by_name(snapshot, override, said):
    with pytest.raises(UserError, match=said):
        TrainState.fresh(make_config(**override), CPU, snapshot)


BY_CHANNEL = {"latents_mean": [0.5] * 16, "latents_std": [2.0] * 16}


@pytest.mark.parametrize(
    ("trainable", "scaling"),
    [
        ("decoder", {"scaling_factor": 0.3611, "shift_factor": 0.1159}),
        ("decoder", {"scaling_factor": 0.5, **BY_CHANNEL}),
        ("all", {"scaling_factor": 0.3611, **BY_CHANNEL}),
    ],
)
def test_ten_steps_of_flux1s_form_are_read_by_diffusers_and_a_decoder_alone_keeps_the_scaling(
    tmp_path, prepared, trainable, scaling
):
    kept = trainable == "decoder"
    own = {"model.quant_conv": False, "model.latent_channels": 16, "training.trainable": trainable}
    config = make_config(**own, **{"training.steps": 10})
    (tmp_path / "start").mkdir()
    model = AutoencoderKL(config.model)
    write_snapshot(tmp_path / "start", model, image_size=16, config="", scaling=scaling)
    result = train(config, prepared, tmp_path / "run", CPU, start=tmp_path / "start")
    after = read_snapshot(result.snapshot)
    moved = {
        name.split(".")[0] for name, value in model.state_dict().items() if not after.state_dict()[name].equal(value)
    }
    assert moved == ({"decoder"} if kept else {"encoder", "decoder"})
    sizes = json.loads((result.snapshot / "config.json").read_text())
    assert (sizes["use_quant_conv"], sizes["use_post_quant_conv"], sizes["latent_channels"]) == (False, False, 16)
    theirs = DiffusersAutoencoderKL.from_pretrained(result.snapshot, local_files_only=True).state_dict()
    assert theirs.keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in theirs.items())
    assert scaling_in(sizes) == (scaling if kept else {"scaling_factor": 0.18215})


def test_weights_without_quant_conv_are_refused_by_a_model_with_it(snapshot):
    with pytest.raises(
        UserError, match=r"section model: quant_conv True instead of False; set --model\.quant-conv true$"
    ):
        TrainState.fresh(make_config(**{"model.quant_conv": False}), CPU, snapshot)
