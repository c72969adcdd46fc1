"""What every source promises, and the sprites."""

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pikavae.config import DataConfig
from pikavae.data.prepare import prepare, prepare_inputs
from pikavae.data.sources.open import open_source
from pikavae.data.sprites.draw import draw_sprite
from pikavae.errors import UserError
from pikavae.operations.stages.keys import differences
from pikavae.presets import load_config, preset_names


@pytest.mark.parametrize("size", [1, 4, 10, 99])
def test_sprites_are_drawn_in_ranges(size):
    source = open_source("sprites", DataConfig(sprites_count=10, sprites_seed=3), "data.source")
    chunks = [pickle.loads(pickle.dumps(chunk)) for chunk in source.chunks(size)]
    assert [chunk.count for chunk in chunks] == [size] * (10 // size) + ([10 % size] if 10 % size else [])
    content = chunks[0].content["sprites"]
    assert (content["seed"], content["range"]) == (3, [0, min(size, 10)])
    found = [picture for chunk in chunks for picture in chunk.pictures()]
    expected = [draw_sprite(3, index) for index in range(10)]
    assert [(p.name, p.caption) for p in found] == [(sprite.name, sprite.caption) for sprite in expected]
    assert all(p.content.tobytes() == sprite.image.tobytes() for p, sprite in zip(found, expected, strict=True))
    assert (source.count(), source.columns, source.set_aside, source.ignored) == (10, {}, (), {})


@pytest.fixture(params=["folder", "parquet", "arrow", "sprites"])
def source_name(request, folder_of_pictures, tmp_path):
    rows = pa.table(
        {
            "image": [file.read_bytes() for file in sorted(folder_of_pictures.glob("*.png"))],
            "caption": [file.read_text() for file in sorted(folder_of_pictures.glob("*.txt"))],
        }
    )
    pq.write_table(rows, tmp_path / "t.parquet", row_group_size=4)
    with pa.ipc.new_stream(str(tmp_path / "t.arrow"), rows.schema) as writer:
        writer.write_table(rows, max_chunksize=4)
    names = {"folder": folder_of_pictures, "sprites": "sprites"}
    return str(names.get(request.param, tmp_path / f"t.{request.param}"))


@pytest.mark.parametrize("size", [1, 5, 100])
def test_chunks_give_the_same_pictures_whatever_their_size_and_whenever_asked(source_name, size):
    config = DataConfig(source=source_name, sprites_count=12)
    first, again = (open_source(source_name, config, "data.source") for _ in range(2))
    chunks = list(first.chunks(size))
    assert [chunk.content for chunk in again.chunks(size)] == [chunk.content for chunk in chunks]
    names = [picture.name for chunk in chunks for picture in chunk.pictures()]
    assert len(names) == len(set(names)) == first.count() == sum(chunk.count for chunk in chunks) == 12
    whole = {p.name: p.caption for chunk in again.chunks(12) for p in chunk.pictures()}
    assert whole == {p.name: p.caption for chunk in chunks for p in chunk.pictures()}
    for chunk in chunks:
        assert json.loads(json.dumps(chunk.content)) == chunk.content
        assert [p.name for p in chunk.pictures()] == [p.name for p in chunk.pictures()]
    assert json.loads(json.dumps(first.content())) == first.content() == again.content()


@pytest.mark.parametrize("name", preset_names())
def test_presets_say_what_they_said_about_columns(name):
    data = load_config(name).data
    assert (data.image_column, data.caption_column) in {("image", "text"), (None, None)}


def test_the_fingerprints_inputs_name_the_columns_and_the_file_that_changed(folder_of_pictures, tmp_path):
    def write(**columns):
        pq.write_table(pa.table({"image": [b"x"], **columns}), tmp_path / "t.parquet")
        return prepare_inputs(DataConfig(source=str(tmp_path / "t.parquet")))

    before = write(title=["a"], id=["b"])
    assert before["source pictures"]["columns"] == {"image": "image", "caption": "title"}
    assert not {"data.image_column", "data.caption_column", "data.split"} & before.keys()
    assert differences(write(title=["b"], id=["b"]), before) == ["source pictures: 1 changed (t.parquet)"]
    folder = DataConfig(source=str(folder_of_pictures))
    before = prepare_inputs(folder)
    (folder_of_pictures / "03.txt").write_text("another")
    (folder_of_pictures / "04.png").unlink()
    assert differences(prepare_inputs(folder), before) == ["source pictures: 1 removed (04.png), 1 changed (03.png)"]


def test_what_was_set_aside_and_guessed_is_on_the_record(folder_of_pictures, tmp_path):
    (folder_of_pictures / "photo.psd").write_bytes(b"-")
    (folder_of_pictures / "metadata.csv").write_text("file_name,title\n00.png,a\x00b\nno.png,x\n")
    config = DataConfig(source=str(folder_of_pictures), image_size=8, max_unreadable_fraction=0.2)
    prepared, _ = prepare(config, tmp_path / "prepared")
    assert [(item.name, item.reason) for item in prepared.record.set_aside] == [
        ("photo.psd", ".psd is not read; convert it to .png"),
        ("metadata.csv row 2", "names 'no.png', which is not there"),
    ]
    assert prepared.record.columns == {"source": {"caption": "title"}}
    assert "ab" in prepared.train.captions + prepared.validation.captions


@pytest.mark.parametrize("field", ["image_column", "caption_column"])
def test_an_empty_name_of_a_column_is_refused(field):
    with pytest.raises(UserError, match=f"data.{field} '': string should have at least 1 character"):
        load_config("demo", {f"data.{field}": ""})
