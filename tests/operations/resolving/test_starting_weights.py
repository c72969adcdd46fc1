"""The weights that a training begins with: every form of them becomes a whole snapshot, or nothing is written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.model.snapshot import RUN_CONFIG_NAME, WEIGHTS_NAME
from pikavae.presets import load_config
from pikavae.training.state import TrainState
from pikavae.weights.published import read_snapshot
from pikavae.workspace.home import home
from tests.conftest import TINY
from tests.data.sources import test_hub_files as hub
from tests.model.test_autoencoder import with_random_weights
from tests.support import commands
from tests.support.published_forms import (
    FILES,
    FORMS,
    SCALES,
    SIZES,
    assert_same_model,
    configured,
    damage_weights,
    stamps,
    write_form,
)

server = hub.server
"""The fixture: a hub on this machine."""


def test_without_a_start_there_are_no_starting_weights():
    assert commands.starting_weights(configured()) is None
    assert not home().exists()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_whole_snapshot_once(tmp_path, form):
    path = write_form(form, tmp_path / "theirs")
    folder = commands.starting_weights(configured(start=str(path)))
    assert_same_model(folder)
    assert {file.name for file in folder.iterdir()} >= FILES
    if form == "snapshot":
        assert folder == path
        assert not home().exists()
        return
    assert folder.parent == home() / "imported"
    settings = load_config(folder / RUN_CONFIG_NAME)
    assert (settings.model, settings.data.image_size) == (
        SIZES,
        64 if form in ("diffusers folder", "parts", "pipeline") else 512,
    )
    assert json.loads((folder / "config.json").read_text()).get("scaling_factor") == SCALES.get(form)
    before = stamps(folder)
    assert commands.starting_weights(configured(start=str(path), steps=7)) == folder
    assert stamps(folder) == before
    assert [file.name for file in folder.parent.iterdir()] == [folder.name]


def test_a_part_of_a_file_is_named_behind_its_path(tmp_path, monkeypatch):
    state = dict(with_random_weights(SIZES).state_dict())
    averaged = {name: value + 1 for name, value in state.items()}
    torch.save({"model": state, "ema": averaged}, tmp_path / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    for start in (f"{tmp_path}/last.ckpt#", "last.ckpt#"):
        for part, expected in (("model", state), ("ema", averaged)):
            assert_same_model(commands.starting_weights(configured(start=f"{start}{part}")), SIZES, expected)


def test_the_number_of_groups_is_taken_from_the_settings_where_the_file_does_not_tell_it(tmp_path):
    path = write_form("LDM file", tmp_path / "theirs")
    other = SIZES.model_copy(update={"norm_groups": 2})
    folders = [commands.starting_weights(configured(sizes, start=str(path))) for sizes in (SIZES, other)]
    assert [read_snapshot(folder).config.norm_groups for folder in folders] == [4, 2]


DAMAGES = {
    "a bit": damage_weights,
    "a file that is gone": lambda folder: (folder / "config.json").unlink(),
    "no record": lambda folder: (folder / "imported.json").unlink(),
    "half a record": lambda folder: (folder / "imported.json").write_text('{"sha'),
    "an empty record": lambda folder: (folder / "imported.json").write_text('{"sha256": {}, "form": "", "notes": []}'),
    "another record": lambda folder: (folder / "imported.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_conversion_that_was_damaged_is_noticed_and_made_anew(tmp_path, caplog, damage):
    config = configured(start=str(write_form("LDM file", tmp_path / "theirs")))
    folder = commands.starting_weights(config)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    damage(folder)
    assert commands.starting_weights(config) == folder
    assert "damaged since it was converted; it is converted again" in caplog.text
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole


def test_what_a_killed_conversion_left_is_removed(tmp_path):
    leftover = home() / "imported" / ".0123.tmp"
    leftover.mkdir(parents=True)
    (leftover / WEIGHTS_NAME).write_bytes(b"half")
    folder = commands.starting_weights(configured(start=str(write_form("LDM file", tmp_path / "theirs"))))
    assert list((home() / "imported").iterdir()) == [folder]


@pytest.mark.parametrize("form", FORMS)
def test_other_sizes_than_the_settings_are_listed_and_nothing_is_written(tmp_path, form):
    path = write_form(form, tmp_path / "theirs")
    other = ModelConfig(channels=(8, 8), num_res_blocks=2, latent_channels=4, norm_groups=4)
    listed = (
        r"channels \(8, 16\) instead of \(8, 8\), num_res_blocks 1 instead of 2, latent_channels 3 instead of 4; "
        r"set --model\.channels 8 16 --model\.num-res-blocks 1 --model\.latent-channels 3$"
    )
    with pytest.raises(UserError, match=listed):
        commands.starting_weights(configured(other, start=str(path)))
    assert not home().exists()
    commands.starting_weights(configured(start=str(path)))
    with pytest.raises(UserError, match=listed) as caught:
        commands.starting_weights(configured(other, start=str(path)))
    assert str(caught.value).startswith(str(path))


def test_only_weights_that_pad_by_zeros_get_another_padding_and_only_whole(tmp_path):
    reflecting = SIZES.model_copy(update={"padding": "reflect"})
    plain = write_form("diffusers folder", tmp_path / "plain")
    assert_same_model(commands.starting_weights(configured(reflecting, start=str(plain))))
    with pytest.raises(UserError, match=r"model.padding reflect: .* set training.trainable all"):
        commands.starting_weights(configured(reflecting, start=str(plain), trainable="decoder"))
    theirs = write_form("snapshot", tmp_path / "theirs", reflecting)
    found = commands.starting_weights(configured(reflecting, start=str(theirs), trainable="decoder"))
    assert_same_model(found, reflecting)
    for wanted in ("zeros", "circular"):
        sizes = SIZES.model_copy(update={"padding": wanted})
        expected = f"its convolutions pad by reflect, and model.padding is {wanted}; set model.padding reflect"
        with pytest.raises(UserError, match=expected):
            commands.starting_weights(configured(sizes, start=str(theirs)))


def test_latent_channels_are_added_only_where_that_is_asked_for(tmp_path):
    path = str(write_form("LDM file", tmp_path / "theirs"))
    more = SIZES.model_copy(update={"latent_channels": 16})
    own = SIZES.latent_channels
    expected = rf"instead of 16; set --model.latent-channels {own}; training.grow_latents true adds the latent"
    with pytest.raises(UserError, match=expected):
        commands.starting_weights(configured(more, start=path))
    assert not (home() / "imported").exists()
    folder = commands.starting_weights(configured(more, start=path, grow_latents=True))
    assert_same_model(folder)
    grown = TrainState.fresh(configured(more, start=path, grow_latents=True), torch.device("cpu"), folder).model
    images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        plain = read_snapshot(folder)
        found, expected = (model.decode(model.encode(images).mode()) for model in (grown.eval(), plain))
    assert grown.config.latent_channels == 16
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(UserError, match=r"training.grow_latents: .* have model.latent_channels \d+ already; leave it"):
        commands.starting_weights(configured(SIZES, start=path, grow_latents=True))
    fewer = SIZES.model_copy(update={"latent_channels": 1})
    with pytest.raises(UserError, match=rf"latent_channels {SIZES.latent_channels} instead of 1; set --model"):
        commands.starting_weights(configured(fewer, start=path, grow_latents=True))


def test_growing_needs_weights_and_an_encoder_that_learns():
    with pytest.raises(UserError, match=r"training.grow_latents adds channels to trained weights: name them by"):
        configured(grow_latents=True)
    with pytest.raises(UserError, match=r"training.grow_latents .* set training.trainable all"):
        configured(grow_latents=True, start="champion", trainable="decoder")


def test_names_that_do_not_fit_are_listed_and_nothing_is_written(tmp_path):
    state = dict(with_random_weights(SIZES).state_dict())
    del state["encoder.conv_in.bias"]
    state["decoder.conv_out.bias"] = torch.zeros(4)
    save_file({**state, "stranger": torch.zeros(1)}, tmp_path / "vae.safetensors")
    config = configured(start=str(tmp_path / "vae.safetensors"))
    for ask in (
        lambda: commands.starting_weights(config),
        lambda: commands.import_model(config.training.start, config),
    ):
        with pytest.raises(
            UserError, match=r"1 missing: encoder\.conv_in\.bias; 1 unexpected: stranger; 1 other shapes"
        ):
            ask()
    assert not home().exists()


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ("nowhere/vae.ckpt", "training.start 'nowhere/vae.ckpt': no such file or folder; a model of the hub is named"),
        ("ORG/NAME", "hub:ORG/NAME"),
        ("hub:NAME", "training.start 'NAME': no hub id"),
        ("9", "training.start '9': version 9 of 'pikavae': no such version"),
        ("champion", "training.start 'champion': champion of 'pikavae-production': nothing is in production yet"),
        ("run:none@best", "training.start 'run:none@best': run:none: no such run in this home"),
    ],
)
def test_a_start_that_is_not_there_is_said_in_one_line(start, said):
    with pytest.raises(UserError) as caught:
        commands.starting_weights(configured(start=start))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_fine_tunes_name_their_weights_and_say_offline_what_to_do():
    for preset in ("finetune", "finetune-full"):
        with pytest.raises(UserError) as caught:
            commands.starting_weights(load_config(preset))
        said = str(caught.value)
        assert said.startswith("training.start 'stabilityai/sd-vae-ft-mse': not in the hub's cache")
        assert said.endswith("or name a folder or file of your own")
        assert "\n" not in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"training.trainable": "decoder"}, "training.trainable decoder: without training.start"),
        ({"loss.perceptual_weight": "0.1"}, "vgg16-397923af.pth is missing; put https://download.pytorch.org/"),
    ],
    ids=str,
)
def test_a_training_that_lacks_something_is_refused_before_it_has_a_run(overrides, said, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    config = load_config("demo", {**TINY, **overrides})
    prepared = commands.prepare(config)
    with pytest.raises(UserError) as caught:
        commands.train(config, prepared)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path for path in (home() / "runs").iterdir() if path.is_dir()] == []
    assert not (home() / "mlflow.db").exists()


ASK = """
import sys
from pikavae.presets import parse_config
from tests.support import commands
from pikavae.errors import UserError
model = {"channels": [8, 8], "num_res_blocks": 1, "norm_groups": 4}
for start in sys.argv[1:]:
    try:
        print(commands.starting_weights(parse_config({"model": model, "training": {"start": start}})))
    except UserError as error:
        print(error)
"""


BOTH = "hub:org/both/deep/both.safetensors"


def test_weights_of_the_hub_are_fetched_and_converted(server, tmp_path):
    for environment in ({"HF_ENDPOINT": server.address}, {"HF_HUB_OFFLINE": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", ASK, "hub:org/pipeline", f"{BOTH}#model", f"{BOTH}#ema", f"{BOTH}#other", BOTH],
            env={
                "PATH": "/usr/bin:/bin",
                "PYTHONPATH": ":".join(sys.path),
                "HF_HOME": str(tmp_path / "hub"),
                "PIKAVAE_HOME": os.environ["PIKAVAE_HOME"],
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        *folders, no_such, not_said = done.stdout.splitlines()
        for folder, state in zip(folders, (hub.STATE, hub.STATE, hub.AVERAGED), strict=True):
            assert Path(folder).parent == home() / "imported"
            assert_same_model(Path(folder), hub.SIZES, state)
        known = "both.safetensors#ema[, or]+ both.safetensors#model$"
        assert re.search(f"both.safetensors#other: no such part of the file; there are {known}", no_such)
        assert re.search(f"holds 2 autoencoders that differ; name one of them: {known}", not_said)
