"""Torch files that pickled code: the weights are read, and nothing that the pickle asks for happens."""

import ast
import collections
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from pikavae.config import ModelConfig
from pikavae.errors import UserError
from pikavae.weights import inert_pickle, torch_archive
from pikavae.weights.inert_pickle import Call, InertPickleError, Name, read_structure
from pikavae.weights.keymaps import export_ldm, their_names
from pikavae.weights.published import read_published
from pikavae.weights.torch_archive import read_inert
from tests.model.test_autoencoder import with_random_weights

CONFIG = ModelConfig(channels=(32, 64), num_res_blocks=1, latent_channels=3)


class Resnet(nn.Module):
    """Parts named as the tutorial's are; the whole is built from shapes below."""


def tutorial_module(config=CONFIG):
    """A module like the tutorial's, of nested containers whose parameters have the tutorial's names."""
    state = with_random_weights(config).state_dict()
    theirs = their_names("tutorial", config, state)
    root = Resnet()
    for name, value in state.items():
        *parents, leaf = theirs[name].split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, Resnet())
            module = module._modules[parent]
        module.register_parameter(leaf, nn.Parameter(value.clone()))
    return root, state


def test_a_whole_module_that_the_tutorial_saved_is_read_without_its_class(tmp_path, monkeypatch):
    module, state = tutorial_module()
    torch.save(module, tmp_path / "vae.model")
    monkeypatch.delattr(sys.modules[__name__], "Resnet")  # its class cannot even be found
    published = read_published(tmp_path / "vae.model")
    assert (published.form, published.config) == ("tutorial file", CONFIG)
    assert published.state.keys() == state.keys()
    assert all(torch.equal(published.state[name], state[name]) for name in state)


def test_the_tutorials_own_layers_are_read(tmp_path):
    """The stem and a residual block as the tutorial builds them, with real layers of torch."""
    block = nn.Module()
    block.s = nn.Sequential(nn.GroupNorm(32, 32), nn.SiLU(), nn.Conv2d(32, 64, 3), nn.GroupNorm(32, 64), nn.SiLU())
    block.res = nn.Conv2d(32, 64, 1)
    module = nn.ModuleDict({"encoder": nn.Sequential(nn.Conv2d(3, 32, 3), block), "decoder": nn.BatchNorm2d(4)})
    torch.save(module, tmp_path / "part.pt")
    read, _ = read_inert(tmp_path / "part.pt")
    expected = module.state_dict()
    assert read.keys() == expected.keys()  # buffers too
    assert all(torch.equal(read[name], value) for name, value in expected.items())
    assert "encoder.1.s.0.weight" in read


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [True, False])
def test_every_format_and_protocol_gives_the_tensors_of_torch(tmp_path, dtype, protocol, zipped):
    values = torch.arange(24.0).reshape(4, 6).to(dtype)
    tensors = {"whole": values, "part": values[1:3, ::2], "turned": values.T, "one": values[0, 0], "none": values[:0]}
    content = {"state_dict": collections.OrderedDict(tensors), "extra": collections.deque([1])}
    torch.save(content, tmp_path / "file.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    read, others = read_inert(tmp_path / "file.pt")
    assert others == 1
    for name, value in tensors.items():
        assert torch.equal(read[f"state_dict.{name}"], value), name
        assert read[f"state_dict.{name}"].dtype == dtype


def test_modules_and_dicts_within_dicts_are_read_by_their_names(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3))
    content = {"ema": {"deep": {"w": torch.ones(2)}}, "model": module, "state": {0: {"exp": torch.ones(1)}}}
    torch.save(content, tmp_path / "file.pt")
    read, _ = read_inert(tmp_path / "file.pt")
    assert read.keys() == {"ema.deep.w", "model.0.weight", "model.0.bias"}


@pytest.mark.parametrize("zipped", [True, False])
def test_dicts_that_contain_themselves_end_in_one_line(tmp_path, zipped):
    content = {"w": torch.ones(1)}
    content["a"] = content["b"] = content
    torch.save(content, tmp_path / "vae.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="dicts are nested deeper") as caught:
        read_published(tmp_path / "vae.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.5, 0.99])
def test_older_files_that_are_cut_short_end_in_one_line(tmp_path, share):
    torch.save({"w": torch.ones(500)}, tmp_path / "vae.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "vae.pt").read_bytes()
    (tmp_path / "vae.pt").write_bytes(content[: max(2, int(len(content) * share))])
    with pytest.raises(InertPickleError):
        read_inert(tmp_path / "vae.pt")


class Callback:
    """What trainers leave in a checkpoint."""

    def __init__(self):
        self.best = 1.0


def test_a_checkpoint_with_classes_of_a_trainer_is_read(tmp_path):
    state = dict(with_random_weights(CONFIG).state_dict())
    weights = {f"first_stage_model.{name}": value for name, value in export_ldm(state).items()}
    checkpoint = {"state_dict": weights, "callbacks": {Callback: Callback()}, "hyper": Callback(), "epoch": 3}
    torch.save(checkpoint, tmp_path / "sd.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "sd.ckpt", weights_only=True)
    published = read_published(tmp_path / "sd.ckpt")
    assert all(torch.equal(published.state[name], state[name]) for name in state)


class Attack:
    """Pickles as a call of `function` with `arguments`, when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def attacks(marker):
    touch = f"open({str(marker)!r}, 'w').close()"
    inner = io.BytesIO()
    torch.save(Attack(os.system, f"touch {marker}"), inner)
    return {
        "system": Attack(os.system, f"touch {marker}"),
        "eval": Attack(eval, touch),
        "exec": Attack(exec, touch),
        "import": Attack(__import__, "antigravity"),
        "getattr": Attack(getattr, Attack(__import__, "os"), "system"),
        "popen": Attack(subprocess.Popen, ["touch", str(marker)]),
        "nested load": Attack(torch.load, Attack(io.BytesIO, inner.getvalue()), None, Attack(__import__, "pickle")),
        "nested loads": Attack(pickle.loads, pickle.dumps(Attack(os.system, f"touch {marker}"))),
        "open": Attack(open, str(marker), "w"),
    }


RAW = {  # by hand, since pickle itself would not write them
    "global and reduce": b"cos\nsystem\n(S'touch {marker}'\ntR.",
    "instance": b"(S'touch {marker}'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch {marker}'\no.",
    "getattr of a builtin": b"c__builtin__\ngetattr\n(c__builtin__\n__import__\nS'__call__'\ntR(S'os'\ntR.",
    "state of a function": b"ctorch._utils\n_rebuild_tensor_v2\n}S'__defaults__'\n(K\x01tsb.",
    "state of a class": b"ctorch._utils\n_rebuild_parameter\nN}S'__code__'\nK\x01s\x86b.",
    "extension": b"\x82\x01.",
}


@pytest.mark.parametrize("name", list(attacks("marker")))
@pytest.mark.parametrize("place", ["whole", "entry", "weight", "key", "module"])
def test_nothing_that_a_pickle_asks_for_happens(tmp_path, name, place):
    marker, path = tmp_path / "marker", tmp_path / "vae.pt"
    attack = attacks(marker)[name]
    state = dict(with_random_weights(CONFIG).state_dict())
    module, _ = tutorial_module()
    module.stowaway = attack
    last = next(reversed(state))
    content = {
        "whole": attack,
        "entry": {"state_dict": state, "extra": attack},
        "weight": {**state, last: attack},
        "key": {"state_dict": state, attack: 1},
        "module": module,
    }[place]
    torch.save(content, path)
    modules = set(sys.modules)
    if place in ("whole", "weight"):
        with pytest.raises(UserError, match=r"code in it is never run|1 missing") as caught:
            read_published(path)
        assert "\n" not in str(caught.value)
    else:
        assert read_published(path).config == CONFIG
    assert not marker.exists()
    assert "antigravity" not in set(sys.modules) - modules


def test_these_attacks_work_where_pickles_are_trusted(tmp_path):
    """Or the test above would prove nothing."""
    for name in ("system", "eval", "exec", "nested load", "nested loads", "open"):
        marker = tmp_path / name.replace(" ", "-")
        torch.save({"extra": attacks(marker)[name]}, tmp_path / "vae.pt")
        opened = torch.load(tmp_path / "vae.pt", weights_only=False)["extra"]
        if name == "open":
            opened.close()
        assert marker.exists(), name


def archive(path, pickled, entries=()):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": pickled, "version": b"3", **dict(entries)}.items():
            file.writestr(f"vae/{name}", content)
    return path


@pytest.mark.parametrize("name", RAW)
def test_pickles_written_by_hand_do_nothing(tmp_path, name):
    marker = tmp_path / "marker"
    pickled = RAW[name].replace(b"{marker}", str(marker).encode())
    before = torch._utils._rebuild_tensor_v2.__defaults__
    for path in (archive(tmp_path / "zip.pt", pickled), tmp_path / "bare.pt", tmp_path / "older.pt"):
        if path.name != "zip.pt":
            path.write_bytes(pickled if path.name == "bare.pt" else b"\x80\x02" + pickled)
        with pytest.raises(UserError):
            read_published(path)
    assert not marker.exists()
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_calls_are_kept_as_what_they_would_have_been():
    call = read_structure(pickle.dumps(Attack(os.system, "touch"), protocol=2))
    assert isinstance(call, Call)
    assert isinstance(call.target, Name)
    assert (call.target.text, call.arguments) == (f"{os.name} system", ("touch",))


def nested(depth):
    return b"(" * depth + b"t" * depth


HOSTILE = {
    "keys that nest without end": b"}" + nested(200_000) + b"K\x01s.",
    "values that nest without end": b"}X\x01\x00\x00\x00a" + nested(200_000) + b"s.",
    "too few values": b"R.",
    "no end": b"}",
    "unknown memo": b"h\x05.",
    "odd pairs": b"}(K\x01u.",
    "nothing": b"",
    "length beyond the end": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a number": b"K\x01.",
}


@pytest.mark.parametrize("pickled", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_end_in_one_line(tmp_path, pickled):
    with pytest.raises(UserError) as caught:
        read_published(archive(tmp_path / "vae.pt", pickled))
    assert "\n" not in str(caught.value)


def test_modules_that_contain_themselves_end_in_one_line(tmp_path):
    module = Resnet()
    module._modules["a"] = module._modules["b"] = module
    torch.save(module, tmp_path / "vae.pt")
    with pytest.raises(UserError, match="more modules than an autoencoder has"):
        read_published(tmp_path / "vae.pt")


def tensor_pickle(*, kind="FloatStorage", count=4, offset=0, size=(2, 2), stride=(2, 1)):
    """A dict of one tensor as torch pickles it, with numbers to choose."""
    numbers = "".join(f"({''.join(f'I{n}' + chr(10) for n in values)}t" for values in (size, stride))
    return (
        f"(S'w'\nctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\n{kind}\nS'0'\nS'cpu'\nI{count}\ntQ"
        f"I{offset}\n{numbers}I00\ncollections\nOrderedDict\n(tRtRd."
    ).encode()


def test_a_tensor_by_hand_is_read(tmp_path):
    content = torch.arange(4.0).numpy().tobytes()
    read, _ = read_inert(archive(tmp_path / "vae.pt", tensor_pickle(), {"data/0": content}))
    assert torch.equal(read["w"], torch.arange(4.0).reshape(2, 2))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"offset": 1}, "beyond its storage"),
        ({"size": (200, 2)}, "beyond its storage"),
        ({"size": (10**9, 10**9), "stride": (0, 0)}, "beyond its storage"),
        ({"offset": -1}, "unreadable size"),
        ({"stride": (-1, 1)}, "unreadable size"),
        ({"stride": (1,)}, "unreadable size"),
        ({"count": 5}, "its stated length"),
        ({"kind": "DoubleStorage"}, "its stated length"),
    ],
)
def test_tensors_that_reach_out_of_their_storage_are_refused(tmp_path, changes, match):
    path = archive(tmp_path / "vae.pt", tensor_pickle(**changes), {"data/0": bytes(16)})
    with pytest.raises(InertPickleError, match=match):
        read_inert(path)


def test_archives_that_torch_did_not_write_are_refused(tmp_path):
    with pytest.raises(InertPickleError, match=r"data/0 is missing"):
        read_inert(archive(tmp_path / "vae.pt", tensor_pickle()))
    with pytest.raises(InertPickleError, match="another byte order"):
        read_inert(archive(tmp_path / "vae.pt", tensor_pickle(), {"data/0": bytes(16), "byteorder": b"big"}))
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("vae/data.pkl", bytes(10**6))
    with pytest.raises(InertPickleError, match="compressed"):
        read_inert(tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as file:
        file.writestr("a.png", b"")
    with pytest.raises(UserError, match="not one that torch wrote"):
        read_published(tmp_path / "pictures.zip")


def test_the_reader_never_unpickles():
    """It has no way to: it imports neither pickle nor importlib, and calls neither."""
    sources = [Path(module.__file__).read_text(encoding="utf-8") for module in (inert_pickle, torch_archive)]
    tree = ast.parse("\n".join(sources).replace("from __future__ import annotations", ""))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not imported & {"pickle", "_pickle", "importlib", "copyreg", "builtins"}
    assert not called & {"eval", "exec", "__import__", "setattr", "compile", "globals"}
