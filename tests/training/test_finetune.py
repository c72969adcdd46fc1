"""The recipe of the preset `finetune`, by a small model: better pictures, and latents that nothing changes."""

import numpy as np
import pytest
import torch

from pikavae.data.sprites.draw import draw_sprite
from pikavae.presets import load_config
from pikavae.training.loop import train
from pikavae.training.validation import Validation
from pikavae.weights.published import read_snapshot
from tests.support.prepared_sets import make_prepared

CPU = torch.device("cpu")
SMALL = {
    "data.image_size": 32,
    "model.channels": [8, 16],
    "model.num_res_blocks": 1,
    "model.norm_groups": 4,
    "training.steps": 80,
    "training.batch_size": 4,
    "training.preview_every": 80,
    "training.validate_every": 20,
    "training.checkpoint_every": 20,
}


def sprites(count):
    return [np.asarray(draw_sprite(0, index, 32).image) for index in range(count)]


def gradients(count):
    """Pictures that no sprite is like: four random colours, one in each corner, and what lies between them."""
    corners = torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(corners, size=(32, 32), mode="bilinear", align_corners=True)
    return list((255 * smooth).to(torch.uint8).permute(0, 2, 3, 1).numpy())


@pytest.mark.slow
def test_the_decoder_learns_other_pictures_and_the_latents_stay_bit_for_bit(tmp_path):
    first = make_prepared(tmp_path / "first", sprites(24), sprites(4), image_size=32)
    start = train(load_config("demo", SMALL), first, tmp_path / "start", CPU).snapshot

    other = make_prepared(tmp_path / "other", gradients(24), gradients(32)[24:], image_size=32)
    # The preset's rate and warm-up are for the full model, and LPIPS needs a file that is not here
    small = {"optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 5, "loss.perceptual_weight": 0.0}
    config = load_config("finetune", {**SMALL, **small})
    validation = Validation(other.validation, config, CPU)
    before = validation.measure(read_snapshot(start))[0]["val/psnr"]
    result = train(config, other, tmp_path / "finetune", CPU, start=start)
    model, begun = read_snapshot(result.snapshot), read_snapshot(start)

    assert validation.measure(model)[0]["val/psnr"] > before + 1.0
    assert result.snapshot.name == f"step-{result.best_step:08d}"
    expected = begun.state_dict()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])}
    assert moved == {name for name in expected if name.startswith(("decoder.", "post_quant_conv."))}
    images = other.validation.batch([0, 1, 2])["pixel_values"]
    with torch.no_grad():
        assert torch.equal(model.encode(images).mean, begun.encode(images).mean)
