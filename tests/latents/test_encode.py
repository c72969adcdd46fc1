"""Latents as Parquet: what others load, what is verified, and what a kill leaves."""

import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.data.prepared.dataset import PictureSet
from pikavae.errors import DamagedFileError, PikavaeError, UserError
from pikavae.latents import encode as latent_set
from pikavae.latents import shards
from pikavae.latents.encode import LOCK_NAME, RECORD_NAME, encode_set, open_latent_set
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.workspace.files import exclusive, write_atomically
from tests.support.pictures import picture_set
from tests.support.places import ROOT as CHECKOUT

SIZE, FACTOR, CHANNELS = 16, 2, 3
SETS = tempfile.TemporaryDirectory()
SHAPE = (CHANNELS, SIZE // FACTOR, SIZE // FACTOR)
HOSTILE = [
    "",
    "two\nlines\r\nof it",
    "comma, \"quote\" 'apostrophe' \\ {brace}",
    "ünï日本\u2028\u202e🙂\U0010ffff",
    "nul \x00 and after",
    "---\nconfigs: []\n---",
    " spaces at both ends ",
    "NaN",
    "null",
    "x" * 70_000,
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def side(count: int, seed: int) -> PictureSet:
    generator = np.random.default_rng(seed)
    pictures = [generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(count)]
    return picture_set(
        Path(tempfile.mkdtemp(dir=SETS.name)),
        pictures,
        captions=[HOSTILE[i % len(HOSTILE)] for i in range(count)],
        names=[f"{seed}/{i}, \n日本.png" for i in range(count)],
    )


def sides(train: int = 23, validation: int = 6) -> dict[Any, PictureSet]:
    return {"train": side(train, 1), "validation": side(validation, 2)}


def model(seed: int = 0) -> AutoencoderKL:
    torch.manual_seed(seed)
    return AutoencoderKL(ModelConfig(channels=(8, 16), norm_groups=4, latent_channels=CHANNELS)).eval()


def encode(folder: Path, subject: AutoencoderKL | None = None, given=None, **settings):
    defaults = {
        "batch_size": 4,
        "device": torch.device("cpu"),
        "logvar": False,
        "provenance": {"model": "m1", "snapshot": "step-00000001", "prepared_set": "p1"},
        "tokenizer_folder": None,
        "rows_per_shard": 10,
    }
    return encode_set(subject or model(), given or sides(), folder, **{**defaults, **settings})


def load(folder: Path, split: str, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split=split, cache_dir=str(tmp_path / "cache"))


@torch.inference_mode()
def posterior(pictures: PictureSet, subject: AutoencoderKL | None = None):
    return (subject or model()).encode(pictures.batch(range(len(pictures)))["pixel_values"])


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_NAME]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished set, for tests that only look."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made") / "latents"
    return folder, encode(folder)


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
"""


def test_pyarrow_alone_reads_fixed_size_lists(made):
    path = made[0] / "validation-00000-of-00001.parquet"
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_READER, str(path)], capture_output=True, text=True, check=True, cwd=path.parent
    )
    types, numbers = done.stdout.splitlines()
    nested = "fixed_size_list<element: " * 3 + "float" + "".join(f">[{length}]" for length in reversed(SHAPE))
    assert types == f"{nested} fixed_size_list<element: int32>[77]"
    stored = torch.frombuffer(bytearray.fromhex(numbers), dtype=torch.float32).view(-1, *SHAPE)
    torch.testing.assert_close(stored, posterior(sides()["validation"]).mean, rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"provenance": {"model": "m2", "snapshot": "step-00000001", "prepared_set": "p1"}}, "model is 'm1', not 'm2'"),
        ({"logvar": True}, "logvar is False, not True"),
        ({"batch_size": 5}, "batch_size is 4, not 5"),
        ({"rows_per_shard": 9}, "rows_per_shard is 10, not 9"),
        ({"given": "fewer"}, "num_images is {'train': 23, 'validation': 6}, not {'train': 22, 'validation': 6}"),
    ],
)
def test_other_latents_are_neither_overwritten_nor_mixed(made, tmp_path, finished, change, named):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    if not finished:
        for name in (RECORD_NAME, "README.md", "train-00001-of-00003.parquet"):
            (folder / name).unlink()
    before = contents(folder)
    if "given" in change:
        change = {"given": sides(train=22)}
    with pytest.raises(UserError) as caught:
        encode(folder, **change)
    assert named in str(caught.value)
    assert str(caught.value).startswith(f"--out {folder}: ")
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_a_begun_set_is_gone_on_with_by_the_same_threads_only(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    torch.set_num_threads(2)
    with pytest.raises(UserError, match="computed_on is 'cpu with 1 threads', not 'cpu with 2 threads'"):
        encode(folder)


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "train-00000-of-00003.parquet", "other.parquet"])
def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(tmp_path, name):
    folder = tmp_path / "mine"
    folder.mkdir()
    if name == "other.parquet":
        pq.write_table(pa.table({"a": [1]}), folder / name)
    else:
        (folder / name).write_text("mine")
    before = (folder / name).read_bytes()
    with pytest.raises(UserError, match=f"--out .*{name}.*name"):
        encode(folder)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_bytes() == before


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "set").write_text("mine")
    for folder in (tmp_path / "set", tmp_path / "set" / "below"):
        with pytest.raises(UserError, match=r"--out .*: .*name a folder"):
            encode(folder)


def test_hidden_files_of_the_user_stay(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    kept = [folder / ".gitattributes", folder / ".mine.tmp"]
    for path in kept:
        path.write_text("mine")
    encode(folder)
    assert [path.read_text() for path in kept] == ["mine", "mine"]


def test_an_altered_file_of_a_finished_set_is_found_by_its_hash(made, tmp_path):
    for name in made[1].files:
        folder = tmp_path / name
        shutil.copytree(made[0], folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 3] ^= 1
        (folder / name).write_bytes(content)
        for reopen in (open_latent_set, encode):
            with pytest.raises(DamagedFileError, match=name):
                reopen(folder)
        (folder / name).unlink()
        with pytest.raises(DamagedFileError, match="missing"):
            open_latent_set(folder)
        (folder / RECORD_NAME).unlink()
        with pytest.raises(UserError, match="no finished set"):
            open_latent_set(folder)
        encode(folder)
        assert contents(folder) == contents(made[0])


def test_a_damaged_record_is_told(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    for content in ("", "[]", "{}", (folder / RECORD_NAME).read_text()[:200]):
        (folder / RECORD_NAME).write_text(content)
        with pytest.raises(DamagedFileError, match=RECORD_NAME):
            open_latent_set(folder)


def test_a_damaged_shard_of_a_begun_set_is_written_again(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    shard = folder / "train-00001-of-00003.parquet"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    encode(folder)
    assert contents(folder) == contents(made[0])


def test_a_shard_in_another_ones_place_is_found(made, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    shutil.copy(folder / "train-00000-of-00003.parquet", folder / "train-00001-of-00003.parquet")
    with pytest.raises(PikavaeError, match=r"00001-of-00003.parquet: holds other rows"):
        encode(folder)
    assert not (folder / RECORD_NAME).exists()


@pytest.mark.parametrize("column", ["latent", "logvar"])
def test_what_is_not_the_models_is_found_on_reading_back(tmp_path, monkeypatch, column):
    """The last bit of one number in the first row, which belongs to the sample."""

    def with_one_bit_more(values):
        changed = values.clone()
        if next(calls) == ("latent", "logvar").index(column):
            changed[0, 0, 0, 0] = torch.nextafter(changed[0, 0, 0, 0], torch.tensor(torch.inf))
        return to_nested_lists(changed)

    to_nested_lists, calls = shards.to_nested_lists, itertools.count()
    monkeypatch.setattr(shards, "to_nested_lists", with_one_bit_more)
    with pytest.raises(PikavaeError, match=r"train-00000-of-00003\.parquet: row 0 is not the latent of its picture"):
        encode(tmp_path / "set", logvar=True)
    assert not (tmp_path / "set" / RECORD_NAME).exists()


def test_the_model_that_wrote_a_begun_set_must_be_the_one_that_ends_it(made, tmp_path):
    """Another model under the same name: the digest of the caller is not taken on trust."""
    folder = tmp_path / "set"
    shutil.copytree(made[0], folder)
    (folder / RECORD_NAME).unlink()
    with pytest.raises(PikavaeError, match="is not the latent of its picture"):
        encode(folder, model(seed=1))
    assert not (folder / RECORD_NAME).exists()


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


def test_a_second_process_is_told_to_wait(tmp_path):
    with (
        exclusive(tmp_path / "set" / LOCK_NAME, busy=""),
        pytest.raises(PikavaeError, match="another process is writing latents"),
    ):
        encode(tmp_path / "set")


def test_a_full_disk_is_one_line_and_leaves_the_shards_before(tmp_path, monkeypatch):
    def full_after_two(path, content):
        if len(list(path.parent.glob("*.parquet"))) == 2:
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    monkeypatch.setattr(shards, "write_atomically", full_after_two)
    with pytest.raises(PikavaeError, match=r"the disk is full \(.* free on .*\); make room there, .* it resumes here"):
        encode(tmp_path / "set")
    assert sorted(contents(tmp_path / "set")) == [f"train-0000{i}-of-00003.parquet" for i in range(2)]


def kill_at(number: int, before_rename: bool) -> None:
    """Have this process killed at its `number`-th atomic write, before it gets its name or after."""
    rename, count = Path.replace, itertools.count(1)

    def replace(path, target):
        here = next(count) == number
        if here and before_rename:
            os.kill(os.getpid(), signal.SIGKILL)
        result = rename(path, target)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    Path.replace = replace


def in_child(work) -> int:
    """The status of a forked child that does `work`; its torch has started no thread yet."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_everywhere(root: Path) -> None:
    """For each write of a set, and both sides of it: a run that is killed there, then one that is not."""
    torch.set_num_threads(1)
    for number in range(1, 7):
        for before_rename in (True, False):
            folder = root / f"{number}-{before_rename}"

            def killed(number=number, before_rename=before_rename, folder=folder):
                kill_at(number, before_rename)
                encode(folder)

            assert in_child(killed) == -signal.SIGKILL
            left = sorted(path.name for path in folder.iterdir())
            sys.stdout.write("|".join([str(number), str(before_rename), *left]) + "\n")
            sys.stdout.flush()
            assert in_child(lambda folder=folder: encode(folder)) == 0


def test_a_run_that_is_killed_anywhere_and_started_again_ends_with_the_same_bytes(made, tmp_path):
    """Four shards, the card and the record are six writes."""
    code = f"from tests.latents.test_encode import *; killed_everywhere(Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = sorted(made[1].files)
    for line in done.stdout.splitlines():
        number, before_rename, *left = line.split("|")
        named = [name for name in left if not name.startswith(".")]
        whole = int(number) - (before_rename == "True")
        assert len([name for name in left if name.endswith(".tmp")]) == (before_rename == "True")
        assert named == sorted([*names, "README.md", RECORD_NAME][:whole])
        folder = tmp_path / f"{number}-{before_rename}"
        assert contents(folder) == contents(made[0])
    assert len(done.stdout.splitlines()) == 12


def test_reading_back_leaves_nothing_in_the_cache_of_datasets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    encode(tmp_path / "set")
    assert not (tmp_path / "cache").exists()


def test_only_one_shard_is_held_in_memory(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        latent_set, "write_shard", lambda *arguments: (sizes.append(len(arguments[3])), shards.write_shard(*arguments))
    )
    encode(tmp_path / "set", rows_per_shard=5)
    assert sizes == [5, 5, 5, 5, 3, 5, 1]
