"""Weights as trainers leave them: under prefixes and in dicts, of which it is plain, or asked, which are meant."""

import pytest
import torch
from safetensors.torch import save_file

from pikavae.errors import UserError
from pikavae.weights.keymaps import export_ldm
from pikavae.weights.published import NO_SCALING, read_published
from tests.weights.test_published import assert_same, save, state_of

PREFIXES = [
    "_orig_mod.",
    "module.",
    "autoencoder.",
    "vae.",
    "first_stage_model.",
    "model.",
    "module._orig_mod.",
    "_orig_mod.module.vae.",
    "model.first_stage_model.",
    "net.anything.",
]


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_any_prefix_is_read_alone_and_beside_others(tmp_path, prefix, suffix):
    state = state_of()
    for naming in (state, export_ldm(state)):
        path = save(prefixed(naming, prefix), tmp_path / f"alone{suffix}")
        assert_same(read_published(path), state)
        others = {"unet.conv_in.weight": torch.ones(2), "optimizer.state.exp_avg": torch.ones(2)}
        path = save({**others, **prefixed(naming, prefix)}, tmp_path / f"beside{suffix}")
        published = read_published(path)
        assert_same(published, state)
        assert f"2 names outside {prefix}* are ignored" in published.notes


@pytest.mark.parametrize("wrapper", ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_wrappers_within_the_names_are_taken_out(tmp_path, wrapper):
    state = state_of()
    inner = {name.replace("encoder.", f"encoder.{wrapper}.", 1): value for name, value in state.items()}
    inner = {name.replace("quant_conv.", f"quant_conv.{wrapper}."): value for name, value in inner.items()}
    assert_same(read_published(save(inner, tmp_path / "vae.safetensors")), state)


DICTS = [
    ["model"],
    ["state_dict"],
    ["vae"],
    ["model_state_dict"],
    ["ema"],
    ["checkpoint", "model"],
    ["state_dict", "module"],
]


@pytest.mark.parametrize("keys", DICTS, ids=".".join)
@pytest.mark.parametrize("zipped", [True, False])
def test_dicts_of_dicts_are_read_in_every_format_of_torch(tmp_path, keys, zipped):
    state = state_of()
    content = prefixed(state, "module.")
    for key in reversed(keys):
        content = {key: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}}
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    assert_same(read_published(tmp_path / "last.ckpt"), state)


def test_of_several_that_differ_one_must_be_named(tmp_path):
    state = state_of()
    other = {name: value + 1 for name, value in state.items()}
    path = tmp_path / "last.ckpt"
    torch.save({"model": state, "ema": other, "step": 3}, path)
    with pytest.raises(UserError) as caught:
        read_published(path)
    assert str(caught.value) == (
        f"{path}: holds 2 autoencoders that differ; name one of them: last.ckpt#model or last.ckpt#ema"
    )
    assert_same(read_published(tmp_path / "last.ckpt#model"), state)
    assert_same(read_published(tmp_path / "last.ckpt#ema"), other)
    with pytest.raises(UserError, match=r"last\.ckpt#emma: no such part of the file; there are last\.ckpt#model, last"):
        read_published(tmp_path / "last.ckpt#emma")


def test_the_part_without_a_prefix_can_be_named_too(tmp_path):
    state = state_of()
    path = save({**state, **prefixed({n: v + 1 for n, v in state.items()}, "ema.")}, tmp_path / "vae.safetensors")
    with pytest.raises(UserError, match=r"name one of them: vae\.safetensors#(ema)? or vae\.safetensors#(ema)?$"):
        read_published(path)
    assert_same(read_published(tmp_path / "vae.safetensors#"), state)


def test_what_is_there_twice_alike_or_in_part_is_no_question(tmp_path):
    state = state_of()
    half = dict(list(prefixed(state, "teacher.").items())[:20])
    path = save({**half, **prefixed(state, "vae."), **prefixed(state, "copy.")}, tmp_path / "vae.pt")
    assert_same(read_published(path), state)


def test_a_file_whose_own_name_has_the_mark_is_itself(tmp_path):
    assert_same(read_published(save(state_of(), tmp_path / "vae#ema.pt")), state_of())


def test_files_of_other_kinds_are_refused_with_the_kind(tmp_path):
    coded = {**state_of(), "quantize.embedding.weight": torch.ones(2, 2)}
    with pytest.raises(UserError, match="its latents are codes of a list"):
        read_published(save(coded, tmp_path / "vq.safetensors"))
    normalised = {**state_of(), "bn.running_mean": torch.ones(2)}
    with pytest.raises(UserError, match=r"1 missing: bn\.running_var; 1 other shapes: bn\.running_mean is \(2,\)"):
        read_published(save(normalised, tmp_path / "flux2.safetensors"))


def test_what_a_file_tells_beside_its_weights_is_not_assumed(tmp_path):
    path = tmp_path / "vae.safetensors"
    save_file(state_of(), path)
    assert NO_SCALING in read_published(path).notes
    save_file(state_of(), path, metadata={"pikavae.norm_groups": "16", "pikavae.scaling_factor": "0.5"})
    published = read_published(path, norm_groups=8)
    assert (published.config.norm_groups, published.scaling_factor) == (16, 0.5)
    assert not [note for note in published.notes if "assume" in note]
    for metadata in ({"pikavae.norm_groups": "-1"}, {"pikavae.scaling_factor": "nan"}, {"pikavae.scaling_factor": "x"}):
        save_file(state_of(), path, metadata=metadata)
        with pytest.raises(UserError, match="expected a"):
            read_published(path)
