"""`pikavae half-safe`: a model made to overflow in fp16 comes out finite, with the same pictures."""

import json
import re
import sys

import pytest
import torch
from diffusers import AutoencoderKL as DiffusersAutoencoderKL
from PIL import Image

from flows.cli import main
from pikavae.config import Config
from pikavae.model.snapshot import write_snapshot
from pikavae.operations import HalfSafe
from pikavae.weights.published import read_snapshot
from pikavae.weights.rescale import places_of
from tests.model.test_autoencoder import SMALL, with_random_weights
from tests.weights.test_rescale import enlarged


def written(folder, model):
    folder.mkdir()
    write_snapshot(folder, model, image_size=16, config=Config(model=model.config).to_yaml())
    return folder


@pytest.fixture
def folder(tmp_path):
    """A model that is finite in float32, and in fp16 neither its latents nor its pictures are."""
    model = with_random_weights(SMALL)
    with torch.no_grad():
        model.decoder.conv_out.weight *= 0.3  # pictures within [-1, 1]
    for place in places_of(model):
        enlarged(model, place)
    return written(tmp_path / "model", model)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    pixels = torch.randint(0, 256, (3, 20, 28, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    for number, one in enumerate(pixels.numpy()):
        Image.fromarray(one).save(tmp_path / "pictures" / f"{number}.png")
    return tmp_path / "pictures"


def run(capsys, *words):
    status = main(["half-safe", *map(str, words), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out or "{}"), captured.err


def test_a_model_made_to_overflow_is_finite_in_fp16_in_diffusers_too(folder, pictures, tmp_path, capsys):
    out = tmp_path / "safe"
    status, result, said = run(capsys, folder, pictures, "--out", out)
    assert status == 0, said
    assert result["path"] == str(out)
    before, after = result["fp16"]["before"], result["fp16"]["after"]
    assert (before["verdict"], after["verdict"]) == ("fail", "pass")
    assert before["pictures_non_finite"] == 1.0
    assert (after["latents_non_finite"], after["pictures_non_finite"], after["beyond"]) == (0.0, 0.0, {})
    assert "go beyond fp16's 65504, the first encoder.conv_in (" in before["reason"]
    assert result["difference"] == 0.0  # the epsilon of a norm is below rounding where numbers are large
    assert result["peak"][0] > 65504
    assert result["peak"][1] == after["peak"] <= 16384
    assert all(layer["before"] > 16384 >= layer["after"] for layer in result["layers"].values() if layer["scale"] > 1)
    assert "its float32 reconstructions are the same, bit for bit" in said
    assert "decoder.up_blocks.0.upsamplers.0 " in said

    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    theirs = {kind: DiffusersAutoencoderKL.from_pretrained(out, torch_dtype=kind).eval() for kind in (None, torch.half)}
    assert theirs[None].config.force_upcast is False
    with torch.inference_mode():
        expected = read_snapshot(folder)(images, noise=torch.zeros(1, 3, 4, 4))[0]
        for kind, model in theirs.items():
            made = model.decode(model.encode(images.to(kind or images.dtype)).latent_dist.mode()).sample.float()
            torch.testing.assert_close(made, expected, rtol=0, atol=0.05 if kind else 1e-4)
    card = (out / "README.md").read_text()
    assert "## Half precision" in card
    assert "| `decoder.conv_in` |" in card
    assert (out / "pikavae.yaml").read_bytes() == (folder / "pikavae.yaml").read_bytes()


def test_the_copy_needs_nothing_more(folder, pictures, tmp_path, capsys):
    run(capsys, folder, pictures, "--out", tmp_path / "safe")
    status, result, said = run(capsys, tmp_path / "safe", pictures, "--out", tmp_path / "again")
    assert (status, result["path"], result["layers"]) == (0, None, {})
    assert "nothing to rescale: its largest number is " in said
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_rescaled_is_refused_and_named(pictures, tmp_path, capsys):
    model = with_random_weights(SMALL)
    with torch.no_grad():
        model.get_parameter("decoder.up_blocks.0.resnets.0.norm2.weight").mul_(2.0**20)
        model.get_parameter("decoder.up_blocks.0.resnets.0.conv2.weight").div_(2.0**20)
    folder = written(tmp_path / "model", model)
    status, _, said = run(capsys, folder, pictures, "--out", tmp_path / "safe")
    assert status == 2
    assert "nothing written, no rescaling makes it fit for fp16" in said
    assert "one layer goes beyond fp16's 65504, decoder.up_blocks.0.resnets.0.norm2 (" in said
    assert not (tmp_path / "safe").exists()


def test_a_change_of_the_pictures_is_told_and_one_that_is_seen_refused(pictures, tmp_path, capsys, monkeypatch):
    model = with_random_weights(SMALL)
    with torch.no_grad():
        model.decoder.conv_in.bias[:6] = 2.0**17  # a whole group, of little contrast
    folder = written(tmp_path / "model", model)
    monkeypatch.setattr(sys.modules[HalfSafe.__module__], "MOST_CHANGE", 1e-9)
    status, _, said = run(capsys, folder, pictures, "--out", tmp_path / "safe")
    assert status == 2
    assert re.search(
        r"nothing written: its float32 reconstructions differ by at most \S+ on \[-1, 1\] \(\S+ of an", said
    )
    assert not (tmp_path / "safe").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--out", "safe.safetensors"), "a folder is written"),
        ((), "--out: it is missing; name a new folder for the rescaled model"),
        (("--out", "model"), "/model': it is there and not empty"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(folder, pictures, tmp_path, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    status, _, said = run(capsys, folder, pictures, *words)
    assert status == 2
    assert expected in said
