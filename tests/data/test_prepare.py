"""Prepared sets from folders and tables: content, captions, split, fingerprint, reuse, and what is refused."""

import csv
import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pikavae.config import DataConfig, content_hash
from pikavae.data.prepare import prepare, prepare_inputs
from pikavae.data.prepared.dataset import open_prepared
from pikavae.errors import DamagedFileError, UserError
from tests.support.places import EMOJI

NOT_SETS = {"shards", "history", "locks"}


def config(source, **fields):
    return DataConfig(**{"source": str(source), "image_size": 16, "validation_fraction": 0.3, **fields})


def contents(folder):
    """The hash of every file by its name."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_folder_becomes_two_sides_with_captions_and_tokens(folder_of_pictures, tmp_path):
    prepared, reused = prepare(config(folder_of_pictures), tmp_path / "prepared")
    assert not reused
    assert sorted(prepared.train.names + prepared.validation.names) == [f"{i:02d}.png" for i in range(12)]
    assert len(prepared.train) > 0
    assert len(prepared.validation) > 0
    for name, caption in zip(prepared.train.names, prepared.train.captions, strict=True):
        assert caption == f"picture number {int(name[:2])}"
    batch = prepared.train.batch([1, 0])
    assert (batch["pixel_values"].shape, batch["pixel_values"].dtype) == ((2, 3, 16, 16), torch.float32)
    assert (batch["input_ids"].shape, batch["input_ids"].dtype) == ((2, 77), torch.int64)
    assert batch["pixel_values"].min() >= -1
    assert batch["pixel_values"].max() <= 1
    file = folder_of_pictures / prepared.train.names[1]
    with Image.open(file) as image:
        expected = np.asarray(image.resize((17, 16), Image.Resampling.BILINEAR).crop((0, 0, 16, 16)))
    np.testing.assert_array_equal(prepared.train.pixels([1])[0].permute(1, 2, 0).numpy(), expected)
    torch.testing.assert_close(batch["pixel_values"][0], torch.tensor(expected).permute(2, 0, 1) / 127.5 - 1)


def test_ids_are_those_of_the_stored_clip_tokenizer(folder_of_pictures, tmp_path):
    from transformers import CLIPTokenizer

    (folder_of_pictures / "00.txt").write_text("many words " * 60)
    prepared, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    tokenizer = CLIPTokenizer.from_pretrained(prepared.path / "tokenizer")
    for side in (prepared.train, prepared.validation):
        expected = tokenizer(side.captions, padding="max_length", truncation=True, max_length=77)["input_ids"]
        assert side.batch(range(len(side)))["input_ids"].tolist() == expected
        assert {ids[0] for ids in expected} == {tokenizer.bos_token_id}
        assert {ids[-1] for ids in expected} == {tokenizer.eos_token_id}
    assert prepared.record.captions.content() == {"missing": 0, "truncated": 1, "notes": {}}
    again, _ = prepare(config(folder_of_pictures, tokenizer=str(prepared.path / "tokenizer")), tmp_path / "prepared")
    assert torch.equal(again.train.input_ids, prepared.train.input_ids)


def test_a_second_preparation_is_a_reuse_and_a_moved_folder_too(folder_of_pictures, tmp_path):
    first, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    times = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    shutil.copytree(folder_of_pictures, tmp_path / "moved")
    for source in (folder_of_pictures, tmp_path / "moved"):
        again, reused = prepare(config(source), tmp_path / "prepared")
        assert reused
        assert again.fingerprint == first.fingerprint
    assert times == {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}


def test_the_fingerprint_follows_content_and_settings(folder_of_pictures, tmp_path):
    def fingerprint(**fields):
        return content_hash(prepare_inputs(config(folder_of_pictures, **fields)))

    first = fingerprint()
    assert fingerprint(sprites_count=3, sprites_seed=1) == first
    changed = {fingerprint(image_size=8), fingerprint(background=(0, 0, 0)), fingerprint(validation_fraction=0.2)}
    (folder_of_pictures / "03.txt").write_text("another caption")
    changed.add(fingerprint())
    (folder_of_pictures / "03.png").rename(folder_of_pictures / "99.png")
    changed.add(fingerprint())
    (folder_of_pictures / "04.png").unlink()
    changed.add(fingerprint())
    assert len(changed | {first}) == 7


def test_adding_pictures_moves_none_to_the_other_side_and_equal_ones_stay_together(folder_of_pictures, tmp_path):
    before, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    for i in range(20):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder_of_pictures / f"new{i}.png"
        )
    shutil.copy(folder_of_pictures / before.validation.names[0], folder_of_pictures / "copy.png")
    after, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    assert set(before.train.names) <= set(after.train.names)
    assert set(before.validation.names) <= set(after.validation.names)
    assert "copy.png" in after.validation.names
    assert not set(after.train.hashes) & set(after.validation.hashes)


def test_metadata_files_give_captions_by_file_name(folder_of_pictures, tmp_path):
    (folder_of_pictures / "metadata.csv").write_text('file_name,text\n00.png,"one, two"\n01.png,\n', encoding="utf-8")
    prepared, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    captions = dict(
        zip(
            *[prepared.train.names + prepared.validation.names, prepared.train.captions + prepared.validation.captions],
            strict=True,
        )
    )
    assert captions["00.png"] == "one, two"
    assert captions["01.png"] == "picture number 1"  # of the file beside it, where the list has none
    assert prepared.record.captions_from == {"source": {"lists such as metadata.csv": 1, "text files beside them": 11}}
    assert prepared.record.captions.missing == 0
    (folder_of_pictures / "metadata.csv").unlink()
    (folder_of_pictures / "metadata.jsonl").write_text(json.dumps({"file_name": "05.png", "title": "fünf"}) + "\n")
    prepared, _ = prepare(config(folder_of_pictures, caption_column="title"), tmp_path / "prepared")
    assert "fünf" in prepared.train.captions + prepared.validation.captions


def test_metadata_that_leaves_the_folder_is_refused(folder_of_pictures, tmp_path):
    (folder_of_pictures / "metadata.csv").write_text("file_name,text\n../secret.png,x\n")
    with pytest.raises(UserError, match=r"metadata\.csv row 1: '\.\./secret\.png' leaves the folder"):
        prepare(config(folder_of_pictures), tmp_path / "prepared")


def test_unreadable_pictures_are_set_aside_with_their_reason(folder_of_pictures, tmp_path):
    (folder_of_pictures / "zz.png").write_bytes(b"no picture")
    prepared, _ = prepare(config(folder_of_pictures, max_unreadable_fraction=0.1), tmp_path / "prepared")
    assert prepared.record.num_images == 12
    (aside,) = prepared.record.quarantined
    assert aside.content() == {"name": "zz.png", "reason": "not a picture that can be read, but text"}


def sets(root):
    """The names of the prepared sets, and whatever unfinished folders there are."""
    return sorted(path.name for path in root.glob("*") if path.is_dir() and path.name not in NOT_SETS)


@pytest.mark.parametrize("case", ["too many unreadable", "empty", "one picture", "all equal"])
def test_what_cannot_be_prepared_is_refused_and_leaves_nothing(folder_of_pictures, tmp_path, case):
    if case == "too many unreadable":
        (folder_of_pictures / "03.png").write_bytes(b"")
        message = "data.max_unreadable_fraction 0.05: 1 of 12 pictures would be missing; 1 cannot be read"
    elif case == "empty":
        shutil.rmtree(folder_of_pictures)
        folder_of_pictures.mkdir()
        message = "holds no pictures"
    else:
        for path in sorted(folder_of_pictures.glob("*.png"))[1:]:
            if case == "one picture":
                path.unlink()
            else:
                shutil.copy(folder_of_pictures / "00.png", path)
        message = "data.validation_fraction 0.3: no pictures are left for"
    with pytest.raises(UserError, match=message):
        prepare(config(folder_of_pictures), tmp_path / "prepared")
    assert sets(tmp_path / "prepared") == []


def test_a_damaged_set_is_made_again(folder_of_pictures, tmp_path, caplog):
    first, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    expected = contents(first.path)
    for name in ("shards/*.arrow", "index.arrow", "tokenizer/*", "page.html"):
        for damage in (lambda content: content[:-10], lambda content: bytes([content[0] ^ 1]) + content[1:]):
            file = next(first.path.glob(name))
            changed = damage(file.read_bytes())
            file.unlink()
            file.write_bytes(changed)
            again, reused = prepare(config(folder_of_pictures), tmp_path / "prepared")
            assert not reused
            assert "damaged" in caplog.text
            assert contents(again.path) == expected
            caplog.clear()
    file.unlink()
    with pytest.raises(DamagedFileError):
        open_prepared(first.path)


def test_a_shard_damaged_under_all_its_names_is_made_again(folder_of_pictures, tmp_path):
    first, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    expected = contents(first.path)
    shard = next(first.path.glob("shards/*.arrow"))
    assert shard.stat().st_nlink == 2
    with shard.open("r+b") as file:
        file.seek(3000)
        file.write(b"damage")
    again, reused = prepare(config(folder_of_pictures), tmp_path / "prepared")
    assert not reused
    assert contents(again.path) == expected


def test_what_a_killed_preparation_left_is_removed(folder_of_pictures, tmp_path):
    root = tmp_path / "prepared"
    key = content_hash(prepare_inputs(config(folder_of_pictures)))
    for leftover in (f".{key}.tmp", f".{key}.0f.tmp"):
        (root / leftover).mkdir(parents=True)
    prepare(config(folder_of_pictures), root)
    assert sets(root) == [key]


def _prepare_in_process(source, root):
    _, reused = prepare(config(source), Path(root))
    os._exit(int(reused))


def test_two_processes_make_one_set_once(folder_of_pictures, tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_prepare_in_process, args=(str(folder_of_pictures), str(tmp_path / "prepared")))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert sorted(process.exitcode for process in processes) == [0, 1]


# Tables


def write_table(folder_of_pictures, path, *, rows=slice(None), extra=()):
    files = sorted(folder_of_pictures.glob("*.png"))[rows]
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files] + list(extra)
    captions = [file.stem for file in files] + [None] * len(extra)
    features = datasets.Features({"image": datasets.Image(decode=False), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": images, "text": captions}, features=features)
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table.data.table, path)
    return path


def test_tables_and_folders_of_tables_hold_the_same_pictures_as_the_files(folder_of_pictures, tmp_path):
    whole = write_table(folder_of_pictures, tmp_path / "one" / "data.parquet")
    for number, rows in enumerate((slice(0, 5), slice(5, None))):
        write_table(folder_of_pictures, tmp_path / "two" / f"data-{number}.parquet", rows=rows)
    from_files, _ = prepare(config(folder_of_pictures), tmp_path / "prepared")
    for source in (whole, tmp_path / "one", tmp_path / "two", tmp_path / "two" / "data-*.parquet"):
        prepared, _ = prepare(config(source), tmp_path / "prepared")
        assert prepared.train.hashes == from_files.train.hashes
        assert prepared.validation.hashes == from_files.validation.hashes


def test_raw_binary_columns_and_arrow_files_are_read(folder_of_pictures, tmp_path):
    files = sorted(folder_of_pictures.glob("*.png"))
    table = pa.table({"picture": [file.read_bytes() for file in files]})
    pq.write_table(table, tmp_path / "raw.parquet")
    with pa.OSFile(str(tmp_path / "raw.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    sets = [
        prepare(config(tmp_path / name, image_column="picture"), tmp_path / "prepared")[0]
        for name in ("raw.parquet", "raw.arrow")
    ]
    assert sets[0].train.hashes == sets[1].train.hashes
    assert sets[0].record.captions.missing == 12


def test_validation_pictures_may_come_from_a_source_of_their_own(folder_of_pictures, tmp_path):
    folder = tmp_path / "split"
    write_table(folder_of_pictures, folder / "train.parquet", rows=slice(0, 9))
    validation = write_table(folder_of_pictures, folder / "validation.parquet", rows=slice(8, None))
    write_table(folder_of_pictures, folder / "test.parquet")
    by_name, _ = prepare(config(folder), tmp_path / "prepared")
    by_field, _ = prepare(config(folder / "train.parquet", validation_source=str(validation)), tmp_path / "prepared")
    for prepared in (by_name, by_field):
        assert prepared.train.captions == [f"{i:02d}" for i in range(8)]
        assert prepared.validation.captions == [f"{i:02d}" for i in range(8, 12)]
        assert prepared.record.num_leaked == 1


def test_a_path_in_a_table_is_never_opened(folder_of_pictures, tmp_path):
    secret = folder_of_pictures / "00.png"
    path = write_table(
        folder_of_pictures,
        tmp_path / "t" / "data.parquet",
        rows=slice(1, None),
        extra=[{"bytes": None, "path": str(secret)}, None],
    )
    prepared, _ = prepare(config(path, max_unreadable_fraction=0.5), tmp_path / "prepared")
    assert prepared.record.num_images == 11
    reasons = [item.reason for item in prepared.record.quarantined]
    assert reasons == [f"holds a path instead of a picture: {secret}; store its bytes", "null instead of a picture"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "nowhere"}, "data.source 'nowhere': no such file or folder"),
        ({"source": "no*.parquet"}, "no such file or folder"),
        ({"source": "pictures/00.png"}, "neither a folder nor a .parquet, .arrow, .tar or .zip file"),
        ({"source": "pictures", "validation_source": "nowhere"}, "data.validation_source 'nowhere'"),
        ({"source": "broken.parquet"}, "broken.parquet: not a readable .parquet file"),
        (
            {"source": "t/data.parquet", "image_column": "img"},
            "data.image_column 'img': no such column in data.parquet; it has image, text",
        ),
        ({"source": "t/data.parquet", "image_column": "text"}, "data.image_column 'text': holds str, not pictures"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(folder_of_pictures, tmp_path, monkeypatch, fields, message):
    monkeypatch.chdir(tmp_path)
    write_table(folder_of_pictures, tmp_path / "t" / "data.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError) as caught:
        prepare(config(**fields), tmp_path / "prepared")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji pictures are not beside this checkout")
def test_real_pictures_are_stored_without_loss(tmp_path):
    prepared, _ = prepare(
        DataConfig(source=str(EMOJI / "validation.parquet"), image_size=256, validation_fraction=0.2),
        tmp_path / "prepared",
    )
    expected = {
        row["pixel_sha256"]
        for row in csv.DictReader((EMOJI / "index.csv").read_text(encoding="utf-8").splitlines())
        if row["split"] == "validation"
    }
    assert set(prepared.train.hashes) | set(prepared.validation.hashes) == expected
