"""A model of FLUX.2's form, whose latents are packed and normalised: champion, latents, half precision."""

import json

import pytest
import torch
from diffusers import AutoencoderKLFlux2
from PIL import Image

from flows.cli import main
from pikavae.config import Config, ModelConfig
from pikavae.model.sizes import CONFIG_NAME
from pikavae.model.snapshot import write_snapshot
from pikavae.weights.published import read_published, read_snapshot
from pikavae.weights.rescale import places_of
from pikavae.workspace.runs import run_folder
from tests.model.test_autoencoder import with_random_weights
from tests.support import commands
from tests.support.configs import tiny_on_cpu as tiny
from tests.support.promoting import promote
from tests.weights.test_rescale import enlarged

FLUX2 = {"model.latent_norm": True, "model.decoder_channels": [4, 8], "training.steps": 2}


@pytest.mark.slow
def test_it_becomes_champion_and_its_latents_are_normalised(tmp_path):
    config = tiny(**FLUX2)
    done = commands.run(config)
    promote(str(done["version"]), config)
    made = commands.encode("champion", config, tmp_path / "latents", logvar=False)
    record = json.loads((tmp_path / "latents" / "latents.json").read_text())
    assert record["normalised"] is True
    assert record["latent_shape"] == [16, 4, 4]
    assert made["num_images"] == 24
    out = commands.export_model("champion", tmp_path / "vae", config)
    theirs = AutoencoderKLFlux2.from_pretrained(out, local_files_only=True).state_dict()
    ours = read_snapshot(commands.find_model("champion", config)).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())

    student = tiny(
        **{
            **dict.fromkeys(("model.resample_shortcuts", "model.zero_init_residuals"), False),
            "model.kind": "tiny",
            "model.initial_logvar": None,
            "model.mid_block_norm": True,
            "training.teacher": "champion",
            "training.steps": 2,
        }
    )
    taught = commands.run(student)
    run = run_folder(commands.workspace().home, taught["run_id"])
    teacher = json.loads((run.path / "job.json").read_text())["teacher"]
    assert (teacher["scaling_factor"], teacher["shift_factor"]) == (1.0, 0.0)
    assert teacher["folder"] == str(commands.find_model("champion", config))
    again = commands.export_model(f"run:{taught['run_id']}", tmp_path / "tiny_decoder.safetensors", student)
    assert read_published(again).config == student.model


def test_it_is_made_safe_for_half_precision_with_the_same_statistics(tmp_path, capsys):
    sizes = ModelConfig(channels=(8, 16), norm_groups=4, latent_channels=3, latent_norm=True)
    model = with_random_weights(sizes)
    with torch.no_grad():
        model.decoder.conv_out.weight *= 0.3  # pictures within [-1, 1]
        for place in places_of(model):
            enlarged(model, place)
    folder, out = tmp_path / "model", tmp_path / "safe"
    folder.mkdir()
    write_snapshot(folder, model, image_size=16, config=Config(model=sizes).to_yaml())
    pixels = torch.randint(0, 256, (20, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    Image.fromarray(pixels.numpy()).save(tmp_path / "picture.png")
    status = main(["half-safe", str(folder), str(tmp_path / "picture.png"), "--out", str(out), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    fp16 = json.loads(captured.out)["fp16"]
    assert (fp16["before"]["verdict"], fp16["after"]["verdict"]) == ("fail", "pass")
    before, after = (read_snapshot(one).state_dict() for one in (folder, out))
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("bn."))
    assert json.loads((out / CONFIG_NAME).read_text())["_class_name"] == "AutoencoderKLFlux2"
    theirs = AutoencoderKLFlux2.from_pretrained(out, torch_dtype=torch.half, local_files_only=True).eval()
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.inference_mode():
        made = theirs.decode(theirs.encode(images.half()).latent_dist.mode()).sample.float()
        expected = read_snapshot(folder)(images, noise=torch.zeros(1, 3, 8, 8))[0]
    torch.testing.assert_close(made, expected, rtol=0, atol=0.05)
