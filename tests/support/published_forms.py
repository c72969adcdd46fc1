"""The forms that published weights come in, with the same weights in each."""

import torch
from safetensors.torch import save_file

from pikavae.config import ModelConfig
from pikavae.model.snapshot import RUN_CONFIG_NAME, WEIGHTS_NAME, write_snapshot
from pikavae.presets import parse_config
from pikavae.weights.keymaps import export_ldm, their_names
from pikavae.weights.published import read_snapshot
from tests.model.test_autoencoder import with_random_weights
from tests.weights.test_inert_pickle import tutorial_module
from tests.weights.test_published import in_diffusers

SIZES = ModelConfig(channels=(8, 16), num_res_blocks=1, latent_channels=3, norm_groups=4)
OTHER = SIZES.model_copy(update={"latent_channels": 4})
FILES = {"config.json", WEIGHTS_NAME, RUN_CONFIG_NAME}
EXPORTED = FILES | {"README.md"}


def configured(sizes=SIZES, **training):
    return parse_config({"model": sizes.model_dump(), "training": training})


def write_form(form, folder, sizes=SIZES):
    """The same weights in one of the forms that are read; the path to name."""
    model, state = with_random_weights(sizes), dict(with_random_weights(sizes).state_dict())
    theirs = their_names("tutorial", sizes, state)
    folder.mkdir(parents=True)
    match form:
        case "snapshot":
            write_snapshot(folder, model, image_size=32, config="data: {image_size: 32}\n")
        case "diffusers folder":
            in_diffusers(sizes, scaling_factor=0.5).save_pretrained(folder)
        case "parts":
            in_diffusers(sizes).save_pretrained(folder, max_shard_size="10KB")
        case "pipeline":
            in_diffusers(sizes).save_pretrained(folder / "vae")
            (folder / "model_index.json").write_text("{}")
        case "diffusers file":
            save_file(state, folder / "vae.safetensors")
        case "LDM file":
            torch.save({"state_dict": export_ldm(state)}, folder / "vae.ckpt")
        case "Stable Diffusion file":
            whole = {f"first_stage_model.{name}": value for name, value in export_ldm(state).items()}
            torch.save({"state_dict": {**whole, "scale_factor": torch.tensor(0.25)}}, folder / "sd.ckpt")
        case "tutorial pickle":
            torch.save(tutorial_module(sizes)[0], folder / "vae.model")
        case "tutorial state":
            torch.save({theirs[name]: value for name, value in state.items()}, folder / "vae.pt")
    single = "file" in form or "tutorial" in form
    return next(folder.iterdir()) if single else folder


READ_AS = {
    "diffusers folder": "diffusers folder",
    "LDM file": "LDM single file",
    "tutorial pickle": "tutorial file",
}
FORMS = [
    "snapshot",
    "diffusers folder",
    "parts",
    "pipeline",
    "diffusers file",
    "LDM file",
    "Stable Diffusion file",
    "tutorial pickle",
    "tutorial state",
]
SCALES = {"diffusers folder": 0.5, "Stable Diffusion file": 0.25, "parts": 0.18215, "pipeline": 0.18215}


def assert_same_model(folder, sizes=SIZES, state=None):
    model, expected = read_snapshot(folder), state or with_random_weights(sizes).state_dict()
    assert (model.config, model.state_dict().keys()) == (sizes, expected.keys())
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def damage_weights(folder):
    """Turn one bit of the weights around."""
    content = bytearray((folder / WEIGHTS_NAME).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS_NAME).write_bytes(content)
