"""Train the full tutorial model on a CPU for one step at 256 px, and evaluate it at 128 px."""

import math
import os

import pytest
import torch

from pikavae.data.prepare import prepare
from pikavae.evaluation.evaluate import measure
from pikavae.presets import load_config
from pikavae.training.state import TrainState
from pikavae.training.step import Stepper


@pytest.mark.slow
def test_one_step_and_one_evaluation_of_the_full_model(tmp_path):
    own = {"data.source": "sprites", "data.sprites_count": 2, "data.tokenizer": None, "training.accumulation": 1}
    own |= {"data.image_size": 256, "evaluation.sizes": []}  # a step at its 512 px takes minutes on a CPU
    config, device = load_config("tutorial", own), torch.device("cpu")
    torch.set_num_threads(os.cpu_count() or 1)
    prepared, _ = prepare(config.data, tmp_path / "prepared")
    state = TrainState.fresh(config, device)
    before = state.model.decoder.conv_in.weight.clone()
    stepper = Stepper(state, config, device)
    with stepper.open_loader(prepared.train) as loader:
        stepper.step(loader, 0.0)
        metrics = stepper.read()
    assert (state.step, state.images_seen) == (1, 1)
    assert all(math.isfinite(value) for value in metrics.values())
    assert not torch.equal(state.model.decoder.conv_in.weight, before)

    smaller, _ = prepare(config.data.model_copy(update={"image_size": 128}), tmp_path / "prepared")
    report = measure(state.model, smaller.validation, config.evaluation, tmp_path, device=device, provenance={})
    assert (report.image_size, report.downsampling_factor, report.num_images) == (128, 8, 1)
    assert 0 < report.metrics["psnr"] < 40
