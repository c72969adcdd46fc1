"""A model folder is read in one way: what is wrong with it is the same sentence in every command, before any work."""

import json
import struct
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flows.cli import main
from pikavae.model.snapshot import CONFIG_NAME, RUN_CONFIG_NAME, WEIGHTS_NAME, write_snapshot
from pikavae.workspace.home import home
from tests.model.test_autoencoder import with_random_weights
from tests.operations.using.test_beside import tiny_autoencoder
from tests.support.published_forms import SIZES
from tests.weights.test_published import in_diffusers

COMMANDS = {
    "import": ["import", "MODEL"],
    "reconstruct": ["reconstruct", "MODEL", "PICTURE", "--out", "OUT"],
    "interpolate": ["interpolate", "MODEL", "PICTURE", "PICTURE", "--out", "OUT"],
    "evaluate": ["evaluate", "MODEL"],
    "encode": ["encode", "MODEL", "--out", "OUT"],
    "export": ["export", "MODEL", "OUT"],
    "register": ["register", "MODEL"],
    "training.start": ["plan", "demo", "--training.start", "MODEL"],
}


def described(**fields):
    """Changes fields of the configuration."""

    def change(folder):
        content = json.loads((folder / CONFIG_NAME).read_text())
        (folder / CONFIG_NAME).write_text(json.dumps({**content, **fields}))

    return change


def written(text, name=CONFIG_NAME):
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def weighing(change):
    """Changes one weight."""

    def rewrite(folder):
        state = load_file(folder / WEIGHTS_NAME)
        state["decoder.conv_in.weight"] = change(state["decoder.conv_in.weight"])
        save_file(state, folder / WEIGHTS_NAME)

    return rewrite


def header(change, size=None):
    """Changes the header of the weights, and the length that stands before it."""

    def rewrite(folder):
        content = (folder / WEIGHTS_NAME).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        text = change(content[8 : 8 + length])
        told = len(text) if size is None else size
        (folder / WEIGHTS_NAME).write_bytes(struct.pack("<Q", told) + text + content[8 + length :])

    return rewrite


def entry(**fields):
    def change(text):
        content = json.loads(text)
        content["decoder.conv_in.bias"] |= fields
        return json.dumps(content).encode()

    return header(change)


def parts(places):
    """Writes an index in place of the weights."""

    def write(folder):
        (folder / WEIGHTS_NAME).rename(folder.parent / "outside.safetensors")
        content = {"weight_map": {f"name {number}": place for number, place in enumerate(places)}}
        (folder / f"{WEIGHTS_NAME}.index.json").write_text(json.dumps(content))

    return write


def link_out(folder):
    (folder / WEIGHTS_NAME).unlink()
    (folder / WEIGHTS_NAME).symlink_to("/etc/passwd")


HOSTILE = {
    "a list": (written("[]"), "not a JSON object"),
    "null": (written("null"), "not a JSON object"),
    "text": (written('"AutoencoderKL"'), "not a JSON object"),
    "nested lists": (written('{"a":' * 100_000), "not JSON"),
    "nested objects": (written('{"a":' * 200 + "1" + "}" * 200), "nested more than"),
    "no UTF-8": (written(b'{"a": "\xff"}'), "not JSON"),
    "a long number": (written('{"layers_per_block": ' + "9" * 5000 + "}"), "not JSON"),
    "a large file": (written(" " * (17 * 2**20) + "{}"), "too large for a description of weights"),
    "no groups": (described(norm_num_groups=0), "norm_num_groups has 0: input should be greater than"),
    "groups below none": (described(norm_num_groups=-4), "norm_num_groups has -4"),
    "channels as text": (described(block_out_channels="816"), "block_out_channels is '816'; expected a list"),
    "channels as texts": (described(block_out_channels=["8", "16"]), "expected a list of whole numbers"),
    "channels as fractions": (described(block_out_channels=[8.0, 16.0]), "expected a list of whole numbers"),
    "channels of 2 to the 40": (described(block_out_channels=[8, 2**40]), "less than or equal to 8192"),
    "no channels": (described(block_out_channels=[]), "block_out_channels"),
    "wide and deep": (described(block_out_channels=[8192, 8192], layers_per_block=64), "billion weights"),
    "infinity": (described(layers_per_block=float("inf")), "layers_per_block is inf; expected a whole number"),
    "no number": (described(latent_channels=float("nan")), "latent_channels is nan"),
    "ten million layers": (described(layers_per_block=10_000_000), "less than or equal to 64"),
    "latents of 2 to the 70": (described(latent_channels=2**70), "less than or equal to 4096"),
    "true": (described(layers_per_block=True), "layers_per_block is True"),
    "null sizes": (described(latent_channels=None), "latent_channels is None"),
    "attention as text": (described(mid_block_add_attention="no"), "expected true or false"),
    "a class that is an object": (described(_class_name={"a": 1}), "_class_name is {'a': 1}"),
    "blocks that are lists": (described(down_block_types=[["a"], ["b"]]), "down_block_types has ['a']"),
    "blocks that are a number": (described(up_block_types=3), "up_block_types is 3"),
    "a scaling that is endless": (described(scaling_factor=float("inf")), "scaling_factor is inf"),
    "NaN": (weighing(lambda weight: weight * torch.nan), "holds NaN or infinite numbers"),
    "infinite weights": (weighing(lambda weight: weight / 0), "holds NaN or infinite numbers"),
    "int8": (weighing(lambda weight: weight.to(torch.int8)), "not a dense floating-point tensor"),
    "complex": (weighing(lambda weight: weight.to(torch.complex64)), "not a dense floating-point tensor"),
    "another shape": (weighing(lambda weight: weight[:-1].clone()), "1 other shapes"),
    "a header of 2 to the 60 bytes": (header(lambda text: text, size=2**60), "damaged safetensors"),
    "a header cut short": (header(lambda text: text, size=20), "damaged safetensors"),
    "offsets beyond the file": (entry(data_offsets=[0, 2**50]), "damaged safetensors"),
    "offsets that go back": (entry(data_offsets=[96, 0]), "damaged safetensors"),
    "a shape of 2 to the 64": (entry(shape=[2**32, 2**32]), "damaged safetensors"),
    "a kind that is not known": (entry(dtype="F7"), "damaged safetensors"),
    "a name twice": (header(lambda text: text[:-1].rstrip() + b"," + text[1:]), "damaged safetensors"),
    "a part above": (parts(["../outside.safetensors"]), "is not in the folder"),
    "a part that is absolute": (parts(["/etc/passwd"]), "is not in the folder"),
    "a part that is no text": (parts([7]), "names no parts"),
    "a link out of the folder": (link_out, "damaged safetensors file"),
    "settings that are nested": (written("[" * 5000, RUN_CONFIG_NAME), "YAML"),
    "settings that are no text": (written(b"a: \xff\xfe\x00", RUN_CONFIG_NAME), "YAML"),
    "settings of a list": (written("[1]", RUN_CONFIG_NAME), "expected sections"),
}


def say(capsys, words):
    capsys.readouterr()
    status = main(words)
    captured = capsys.readouterr()
    return status, captured.out, captured.err.splitlines()


@pytest.mark.parametrize("how", HOSTILE)
def test_every_command_says_the_same_of_a_folder_that_cannot_be_read(tmp_path, capsys, how):
    folder, picture = tmp_path / "model", tmp_path / "picture.png"
    damage, expected = HOSTILE[how]
    if how.startswith("settings"):
        folder.mkdir()
        write_snapshot(folder, with_random_weights(SIZES), image_size=16, config="")
    else:
        in_diffusers(SIZES).save_pretrained(folder)
    damage(folder)
    Image.new("RGB", (8, 8)).save(picture)
    names = {"MODEL": str(folder), "PICTURE": str(picture), "OUT": str(tmp_path / "out")}
    sentences = set()
    for command, words in COMMANDS.items():
        if how.startswith("settings") and command == "training.start":
            continue  # it takes the weights alone
        status, out, err = say(capsys, [names.get(word, word) for word in words])
        assert (status, out, len(err)) == (2, "", 1), (command, status, out, err)
        assert expected in err[0], (command, err)
        sentences.add(err[0])
    assert len(sentences) == 1, sentences
    assert not (tmp_path / "out").exists()
    assert not list(home().glob("imported/*/*"))


TINY_HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "channels as text": ({"encoder_block_out_channels": "64"}, "expected a list of whole numbers"),
    "channels of 2 to the 40": (
        {f"{half}_block_out_channels": [2**40] * 3 for half in ("encoder", "decoder")},
        "less than or equal to 8192",
    ),
    "ten million blocks": ({"num_encoder_blocks": [10**7] * 3}, "expected numbers from 1 to 64"),
    "infinite latents": ({"latent_channels": float("inf")}, "expected a whole number"),
    "latents of 2 to the 70": ({"latent_channels": 2**70}, "less than or equal to 4096"),
    "another activation": ({"act_fn": "os.system"}, "act_fn is 'os.system'; pikavae reads models with 'relu' only"),
    "another number of levels": ({"num_decoder_blocks": [1]}, "expected as many numbers"),
    "widths that differ": ({"encoder_block_out_channels": [8, 16, 8]}, "expected one number throughout"),
    "blocks that no such model has": (
        {"num_decoder_blocks": [2, 1, 1]},
        "num_decoder_blocks is [2, 1, 1]; pikavae reads models with [1, 1, 1], one block at the full resolution",
    ),
    "scaled in a list": ({"upsampling_scaling_factor": [2**40]}, "upsampling_scaling_factor is"),
}


@pytest.mark.parametrize("how", TINY_HOSTILE)
def test_the_sizes_of_a_tiny_autoencoder_are_bounded_before_it_is_built(tmp_path, capsys, how):
    tiny_autoencoder(tmp_path / "tiny")
    fields, expected = TINY_HOSTILE[how]
    described(**fields)(tmp_path / "tiny")
    status, out, err = say(capsys, ["evaluate", str(tmp_path / "tiny")])
    assert (status, out, len(err)) == (2, "", 1)
    assert f"{tmp_path / 'tiny' / CONFIG_NAME}: " in err[0]
    assert expected in err[0]


@pytest.mark.parametrize("change", [lambda weight: weight * torch.nan, lambda weight: weight.to(torch.int8)])
def test_the_weights_of_a_tiny_autoencoder_are_finite_numbers(tmp_path, capsys, change):
    tiny_autoencoder(tmp_path / "tiny")
    state = load_file(tmp_path / "tiny" / WEIGHTS_NAME)
    name = next(iter(state))
    save_file({**state, name: change(state[name])}, tmp_path / "tiny" / WEIGHTS_NAME)
    sentences = set()
    for command in ("evaluate", "import", "reconstruct", "export", "register", "encode"):
        words = [{"MODEL": str(tmp_path / "tiny")}.get(word, word) for word in COMMANDS[command]]
        status, out, err = say(capsys, words)
        assert (status, out, len(err)) == (2, "", 1), (command, err)
        assert f"{name} " in err[0], command
        sentences.add(err[0])
    assert len(sentences) == 1, sentences


def test_what_import_reads_every_command_reads(tmp_path, capsys):
    """Parts, a pickle of tensors, a file alone, a pipeline's folder: reconstructed alike, bit for bit."""
    model = in_diffusers(SIZES)
    model.save_pretrained(tmp_path / "plain")
    model.save_pretrained(tmp_path / "bin", safe_serialization=False)
    model.save_pretrained(tmp_path / "pipeline" / "vae", max_shard_size="10KB")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "vae.ckpt")
    Image.effect_noise((24, 16), 80).convert("RGB").save(tmp_path / "picture.png")
    results = set()
    for name in ("plain", "bin", "pipeline", "vae.ckpt"):
        words = [
            "reconstruct",
            str(tmp_path / name),
            str(tmp_path / "picture.png"),
            "--out",
            str(tmp_path / f"{name} out"),
        ]
        assert main([*words, "--model.norm_groups", "4"]) == 0, capsys.readouterr().err
        results.add((tmp_path / f"{name} out" / "picture.png").read_bytes())
    assert len(results) == 1
