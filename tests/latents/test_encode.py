"""Latents as Parquet: what is stored, what others load, and what is refused."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.errors import PikavaeError, UserError
from pikavae.latents import encode as latent_set
from pikavae.latents import shards
from pikavae.latents.encode import RECORD_NAME, open_latent_set
from pikavae.model.autoencoder import AutoencoderKL
from tests.latents.conftest import CHANNELS, FACTOR, SHAPE, SIZE, contents, encode, load, model, posterior, side, sides
from tests.support.places import ROOT


def by_folder(folder, split, cache):
    return datasets.load_dataset(str(folder), split=split, cache_dir=cache)


def by_files(folder, split, cache):
    files = {name: str(folder / f"{name}-*.parquet") for name in ("train", "validation")}
    return datasets.load_dataset("parquet", data_files=files, split=split, cache_dir=cache)


def rows_of(folder: Path) -> torch.Tensor:
    return torch.cat(
        [shards.stored_latents(pq.read_table(path), "latent") for path in sorted(folder.glob("*.parquet"))]
    )


def test_bf16_says_how_far_it_is_from_float32(made, tmp_path):
    done = encode(tmp_path / "half", precision="bf16")
    record = json.loads((tmp_path / "half" / RECORD_NAME).read_text())
    assert record["precision"] == "bf16"
    assert record["distance"] == done.distance.content()
    difference = (rows_of(tmp_path / "half") - rows_of(made[0])).double()  # of all 29, not of 16
    assert done.distance.pictures == 16
    assert 0 < done.distance.largest <= difference.abs().max()
    assert done.distance.rms == pytest.approx(difference.square().mean().sqrt().item(), rel=0.2)
    told = done.distance.describe(done.std)
    assert re.fullmatch(r"[\d.e-]+ RMS and at most [\d.e-]+ from float32, where .* by [\d.]+ \(on 16 pictures\)", told)
    assert f"The encoder computed in bf16: {told}." in (tmp_path / "half" / "README.md").read_text()
    assert encode(tmp_path / "half", precision="bf16") == done  # found again, with its distance


def test_float32_says_no_distance_and_is_not_mixed_with_bf16(made, tmp_path):
    folder = Path(shutil.copytree(made[0], tmp_path / "latents"))
    assert made[1].distance is None
    assert "distance" not in json.loads((folder / RECORD_NAME).read_text())
    assert "computed in" not in (folder / "README.md").read_text()
    with pytest.raises(UserError, match=r"holds other latents .*precision is 'float32', not 'bf16'"):
        encode(folder, precision="bf16")


@pytest.mark.parametrize("how", [by_folder, by_files])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_datasets_loads_every_row_in_order_with_its_columns(made, tmp_path, how, split):
    rows, pictures = how(made[0], split, str(tmp_path)), sides()[split]
    assert rows.features["latent"] == datasets.Array3D(SHAPE, "float32")
    assert rows.column_names == ["latent", "input_ids", "caption", "sha256", "name"]
    for column, expected in (("caption", pictures.captions), ("sha256", pictures.hashes), ("name", pictures.names)):
        assert rows[column][:] == expected
    arrays = rows.with_format("numpy")
    assert np.array_equal(arrays[:]["input_ids"], pictures.input_ids.numpy())
    stored = arrays[:]["latent"]
    assert stored.dtype == np.float32
    assert stored.shape == (len(pictures), *SHAPE)
    torch.testing.assert_close(torch.tensor(stored), posterior(pictures).mean, rtol=1e-5, atol=1e-6)


def test_a_data_loader_hands_out_tensors(made, tmp_path):
    rows = load(made[0], "train", tmp_path).with_format("torch").select_columns(["latent", "input_ids"])
    batches = list(torch.utils.data.DataLoader(rows, batch_size=8))
    assert [len(batch["latent"]) for batch in batches] == [8, 8, 7]
    latent = torch.cat([batch["latent"] for batch in batches])
    assert (latent.shape[1:], latent.dtype) == (SHAPE, torch.float32)
    torch.testing.assert_close(latent, posterior(sides()["train"]).mean, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.cat([batch["input_ids"] for batch in batches]), sides()["train"].input_ids)


PLAIN_READER = """
import sys, pyarrow.parquet as pq
assert "datasets" not in sys.modules
table = pq.read_table(sys.argv[1])
column = table.column("latent").combine_chunks()
print(table.schema.field("latent").type, table.schema.field("input_ids").type)
print(column.flatten().flatten().flatten().to_numpy().astype("<f4").tobytes().hex())
from pikavae.latents.shards import stored_latents
assert "datasets" not in sys.modules
latents = stored_latents(table, "latent")
print(tuple(latents.shape), latents.numpy().astype("<f4").tobytes().hex())
"""


def test_latents_are_fixed_size_lists_where_nobody_has_imported_datasets(made):
    path = made[0] / "validation-00000-of-00001.parquet"
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_READER, str(path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    types, numbers, ours = done.stdout.splitlines()
    nested = "fixed_size_list<element: " * 3 + "float" + "".join(f">[{length}]" for length in reversed(SHAPE))
    assert types == f"{nested} fixed_size_list<element: int32>[77]"
    stored = torch.frombuffer(bytearray.fromhex(numbers), dtype=torch.float32).view(-1, *SHAPE)
    torch.testing.assert_close(stored, posterior(sides()["validation"]).mean, rtol=1e-5, atol=1e-6)
    assert ours == f"{tuple(stored.shape)} {numbers}"


@torch.inference_mode()
def test_stored_latents_decode_to_the_pictures_of_the_model(made, tmp_path):
    pictures, subject = sides()["validation"], model()
    stored = load(made[0], "validation", tmp_path).with_format("torch")[:]["latent"]
    images = pictures.batch(range(len(pictures)))["pixel_values"]
    expected = torch.cat([subject.decode(subject.encode(batch).mode()) for batch in images.split(4)])
    assert torch.equal(torch.cat([subject.decode(batch) for batch in stored.split(4)]), expected)


def test_scaling_factor_shift_and_statistics_are_numpys_over_the_stored_train_split(made, tmp_path):
    folder, result = made
    record = json.loads((folder / RECORD_NAME).read_text())
    latents = load(folder, "train", tmp_path).with_format("numpy")[:]["latent"].astype(np.float64)
    assert result.scaling_factor == pytest.approx(1 / latents.std(), rel=1e-9)
    assert result.shift == pytest.approx(latents.mean(), rel=1e-9)
    assert record["channel_means"] == pytest.approx(latents.mean(axis=(0, 2, 3)).tolist(), rel=1e-9)
    assert record["channel_stds"] == pytest.approx(latents.std(axis=(0, 2, 3)).tolist(), rel=1e-9)
    assert ((latents - result.shift) * result.scaling_factor).std() == pytest.approx(1, rel=1e-9)


def test_origin_stands_in_every_shard_and_in_the_record(made):
    folder, result = made
    record = json.loads((folder / RECORD_NAME).read_text())
    assert set(result.files) == {f"train-0000{i}-of-00003.parquet" for i in range(3)} | {
        "validation-00000-of-00001.parquet"
    }
    assert result.num_images == 29
    for name in result.files:
        carried = json.loads(pq.read_metadata(folder / name).metadata[b"pikavae"])
        assert {**record, **carried} == record
        assert (carried["model"], carried["snapshot"], carried["prepared_set"]) == ("m1", "step-00000001", "p1")
        assert (carried["image_size"], carried["downsampling_factor"]) == (SIZE, FACTOR)
        assert carried["num_images"] == {"train": 23, "validation": 6}
        assert carried["pikavae"]
    assert f"{result.scaling_factor:.6g}"[:6] in (folder / "README.md").read_text()
    assert not [name for name in record if name.startswith("published_")]


def test_the_factors_that_weights_were_published_with_are_recorded_beside_the_measured_ones(tmp_path):
    scaling = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    result = encode(tmp_path, published=scaling)
    record = json.loads((result.path / "latents.json").read_text())
    assert {name: record[f"published_{name}"] for name in scaling} == scaling
    assert record["scaling_factor"] == result.scaling_factor != 0.3611
    said = "Diffusion models for the published weights use scaling factor 0.3611, shift factor 0.1159."
    assert said in (result.path / "README.md").read_text()


def test_published_factors_by_channel_are_recorded_too(tmp_path):
    scaling = {"scaling_factor": 0.5, "latents_mean": [0.25, -1.0, 0.0], "latents_std": [2.0, 0.5, 1.0]}
    result = encode(tmp_path, published=scaling)
    record = json.loads((result.path / "latents.json").read_text())
    assert {name: record[f"published_{name}"] for name in scaling} == scaling
    said = (
        "use scaling factor 0.5, latents mean [0.25, -1, 0], latents std [2, 0.5, 1], as `(latent - latents_mean) * "
        "scaling_factor / latents_std` by channel."
    )
    assert said in (result.path / "README.md").read_text()


def test_latents_that_a_model_normalises_are_stored_as_its_diffusion_model_takes_them(tmp_path):
    torch.manual_seed(0)
    subject = AutoencoderKL(ModelConfig(channels=(8, 16), norm_groups=4, latent_channels=CHANNELS, latent_norm=True))
    given, shape = sides(), (4 * CHANNELS, SHAPE[1] // 2, SHAPE[2] // 2)
    raw = posterior(given["train"], subject.eval())
    subject.bn.move(subject.bn.moments(raw.mean))
    result = encode(tmp_path / "set", subject, given, logvar=True)
    rows = load(tmp_path / "set", "train", tmp_path)
    assert rows.features["latent"] == datasets.Array3D(shape, "float32")
    arrays = rows.with_format("torch")[:]
    torch.testing.assert_close(arrays["latent"], subject.normalise(raw).mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(arrays["logvar"], subject.normalise(raw).logvar, rtol=1e-4, atol=1e-4)
    record = json.loads((result.path / "latents.json").read_text())
    assert (record["latent_shape"], record["normalised"], len(record["channel_means"])) == ([*shape], True, shape[0])
    assert result.scaling_factor == pytest.approx(1, rel=0.02)  # eps of the norm
    assert result.shift == pytest.approx(0, abs=1e-3)
    card = (result.path / "README.md").read_text()
    formula = re.search(r"`(torch\.nn\.functional\.pixel_shuffle.*?)`", card)[1]
    restored = eval(formula, {"torch": torch, "vae": subject, "latent": arrays["latent"]})
    torch.testing.assert_close(restored, raw.mean, rtol=1e-3, atol=1e-4)
    assert "Train on `latent` itself" in card
    assert encode(tmp_path / "set", subject, given, logvar=True) == result


def test_log_variance_is_stored_when_asked_for(tmp_path):
    encode(tmp_path / "set", logvar=True)
    rows = load(tmp_path / "set", "train", tmp_path)
    assert rows.features["logvar"] == datasets.Array3D(SHAPE, "float32")
    expected = posterior(sides()["train"])
    arrays = rows.with_format("torch")[:]
    torch.testing.assert_close(arrays["logvar"], expected.logvar, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(arrays["latent"], expected.mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "rows_per_shard"), [(1, 7), (64, 64), (3, 1)])
def test_batches_and_shards_change_no_more_than_rounding(made, tmp_path, batch_size, rows_per_shard):
    encode(tmp_path / "set", batch_size=batch_size, rows_per_shard=rows_per_shard)
    for split in ("train", "validation"):
        ours = load(tmp_path / "set", split, tmp_path).with_format("torch")[:]["latent"]
        other = load(made[0], split, tmp_path).with_format("torch")[:]["latent"]
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_the_tokenizer_goes_with_the_set(tmp_path):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_text("{}")
    result = encode(tmp_path / "set", tokenizer_folder=tokenizer)
    assert result.files["tokenizer/tokenizer.json"] == hashlib.sha256(b"{}").hexdigest()
    assert len(load(tmp_path / "set", "train", tmp_path)) == 23


def test_a_finished_set_is_found_without_encoding(made, monkeypatch):
    folder, result = made
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(AutoencoderKL, "encode", None)  # would raise
    assert encode(folder) == result == open_latent_set(folder)
    # a finished set is the same wherever it was computed, and whatever its snapshot is called
    torch.set_num_threads(2)
    elsewhere = {"model": "m1", "snapshot": "version 3", "prepared_set": "p1"}
    assert encode(folder, provenance=elsewhere) == result
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_progress_counts_pictures(tmp_path):
    told = []
    encode(tmp_path / "set", progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 29) for done in (4, 8, 10, 14, 18, 20, 23, 27, 29)]


def test_latents_that_are_not_finite_are_refused_by_the_pictures_name(tmp_path):
    subject = model()
    with torch.no_grad():
        subject.get_parameter("quant_conv.bias")[0] = torch.nan
    with pytest.raises(PikavaeError, match=r"1/0, .*日本\.png.*not finite"):
        encode(tmp_path / "set", subject)
    assert list(contents(tmp_path / "set")) == []


def test_latents_without_spread_are_refused(tmp_path):
    subject = model()
    with torch.no_grad():
        subject.get_parameter("quant_conv.weight").zero_()
        subject.get_parameter("quant_conv.bias").zero_()
    with pytest.raises(PikavaeError, match="all latents are equal"):
        encode(tmp_path / "set", subject)
    assert not (tmp_path / "set" / RECORD_NAME).exists()


def test_pictures_that_the_model_cannot_take_are_refused(tmp_path):
    torch.manual_seed(0)
    deep = AutoencoderKL(ModelConfig(channels=(4,) * 6, norm_groups=4))
    with pytest.raises(UserError, match=r"data.image_size 16 .* factor 32: use 32"):
        encode(tmp_path / "set", deep)
    with pytest.raises(UserError, match="validation side holds no pictures"):
        encode(tmp_path / "set", given={"train": side(3, 1), "validation": side(0, 2)})
    assert not (tmp_path / "set").exists()


def test_only_one_shard_is_held_in_memory(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        latent_set, "write_shard", lambda *arguments: (sizes.append(len(arguments[3])), shards.write_shard(*arguments))
    )
    encode(tmp_path / "set", rows_per_shard=5)
    assert sizes == [5, 5, 5, 5, 3, 5, 1]
