"""Layouts in which people keep pictures: links, the hub's cache, saved data sets, splits, masks beside pictures."""

import json
import shutil

import datasets
import pytest

from pikavae.config import DataConfig
from pikavae.data.files.patterns import Patterns
from pikavae.data.prepare import prepare, prepare_inputs
from pikavae.data.sources.open import open_sources
from pikavae.errors import UserError
from tests.support.archives import captions_of
from tests.support.folders import fill
from tests.support.pictures import png


def sources(root, **fields):
    return open_sources(DataConfig(source=str(root), **fields))


def names_of(source):
    return sorted(picture.name for chunk in source.chunks(1000) for picture in chunk.pictures())


# Patterns


@pytest.mark.parametrize(
    ("pattern", "named", "not_named"),
    [
        ("*_mask.png", ["a_mask.png", "x/y_mask.png"], ["mask.png", "a_mask.png.txt"]),
        ("masks", ["masks", "masks/x.png", "a/masks/b/c.png"], ["masks2/x.png", "xmasks"]),
        ("masks/", ["masks/x.png"], ["mask"]),
        ("train/**/depth_*", ["train/depth_1.png", "train/a/b/depth_2"], ["depth_1", "x/train/depth_1"]),
        ("a/*.png", ["a/x.png"], ["a/b/x.png", "b/a/x.png"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab/c"]),
        ("[0-9]?.png", ["1a.png", "x/1b.png"], ["a1.png", "12a.png"]),
        ("[!a]*.png", ["b.png"], ["a.png"]),
        ("set [v2] (1).png", ["set v (1).png"], ["set [v2] (1).png"]),
        ("a+b.png", ["a+b.png"], ["aab.png"]),
    ],
)
def test_a_pattern_names_files_and_folders(pattern, named, not_named):
    assert all(Patterns([pattern]).match(path) for path in named)
    assert not any(Patterns([pattern]).match(path) for path in not_named)


@pytest.mark.parametrize("pattern", ["/", "../x", "/absolute", "a/../b", "."])
def test_a_pattern_that_leaves_the_source_is_refused(tmp_path, pattern):
    with pytest.raises(UserError, match=r"data\.exclude .*relative to the source"):
        sources(fill(tmp_path, {"a.png": png(1)}), exclude=(pattern,))


def test_what_is_excluded_is_not_counted_as_left_out_and_a_pattern_of_nothing_is_said(tmp_path):
    files = {"a.png": png(1), "a_mask.png": png(2), "b.psd": "8BPS", "masks/a.png": png(3), "b.png": png(4)}
    source = sources(fill(tmp_path, files), exclude=("*_mask.*", "*.psd", "masks", "*.nef"))["source"]
    assert names_of(source) == ["a.png", "b.png"]
    assert (source.set_aside, source.ignored) == ([], {"excluded": 3})
    assert source.warnings == ["data.exclude '*.nef' names nothing in the source."]


# Links


@pytest.fixture
def elsewhere(tmp_path):
    """Pictures in `all`, a folder `picked` of links to some of them, and one to a secret."""
    fill(tmp_path / "all", {f"{i}.png": png(i) for i in range(6)} | {"deep/9.png": png(9)})
    fill(tmp_path, {"secret/s.png": png(20), "picked/own.png": png(10)})
    picked = tmp_path / "picked"
    for i in range(3):
        (picked / f"{i}.png").symlink_to(f"../all/{i}.png")
        (picked / f"{i}.txt").write_text(f"caption {i}")
    (picked / "folder").symlink_to("../all/deep")
    (picked / "s.png").symlink_to("../secret/s.png")
    return tmp_path


def test_links_into_a_folder_that_was_named_are_followed_and_no_others(elsewhere):
    closed = sources(elsewhere / "picked")["source"]
    assert names_of(closed) == ["own.png"]
    assert {item.kind for item in closed.set_aside} == {"links that leave the folder"}
    opened = sources(elsewhere / "picked", links_into=(str(elsewhere / "all"),))["source"]
    found = captions_of(opened)
    assert sorted(found) == ["0.png", "1.png", "2.png", "folder/9.png", "own.png"]
    assert found["1.png"] == b"caption 1"
    assert [(item.name, item.kind) for item in opened.set_aside] == [("s.png", "links that leave the folder")]


def test_links_to_folders_never_loop(elsewhere):
    (elsewhere / "all" / "up").symlink_to("..")
    (elsewhere / "all" / "deep" / "again").symlink_to("../../all")
    (elsewhere / "picked" / "all").symlink_to("../all")
    source = sources(elsewhere / "picked", links_into=(str(elsewhere),))["source"]
    assert len(names_of(source)) < 30


def test_a_folder_of_links_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.links_into .*no such folder"):
        sources(fill(tmp_path, {"a.png": png(1)}), links_into=(str(tmp_path / "none"),))


def test_where_links_lead_is_not_part_of_the_key(elsewhere, tmp_path):
    config = DataConfig(source=str(elsewhere / "picked"), links_into=(str(elsewhere / "all"),))
    before = prepare_inputs(config)
    shutil.copytree(elsewhere / "picked", tmp_path / "copy", symlinks=True)
    again = DataConfig(source=str(tmp_path / "copy"), links_into=(str(elsewhere / "all"), str(elsewhere / "picked")))
    assert prepare_inputs(again) == before


def hub_cache(root, pictures, revision="0123abcd"):
    """A data set as huggingface_hub keeps it: a snapshot of links to blobs."""
    repository = root / "datasets--org--set"
    snapshot = repository / "snapshots" / revision
    fill(repository, {"refs/main": revision})
    for name, content in pictures.items():
        fill(repository, {f"blobs/{name.replace('/', '-')}": content})
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + name.count("/"))
        (snapshot / name).symlink_to(f"{up}blobs/{name.replace('/', '-')}")
    return repository


@pytest.mark.parametrize("where", [".", "snapshots/0123abcd", "snapshots/0123abcd/train"])
def test_the_hubs_cache_is_read_by_its_links(tmp_path, where):
    files = {"train/a.png": png(1), "train/a.txt": b"one", "train/b.png": png(2)}
    repository = hub_cache(tmp_path, files)
    source = sources(repository / where)["source"]
    prefix = "" if where.endswith("train") else "train/"
    assert captions_of(source) == {f"{prefix}a.png": b"one", f"{prefix}b.png": None}
    assert source.set_aside == []


def test_a_repository_of_several_snapshots_without_a_main_is_asked_for_one(tmp_path):
    repository = hub_cache(tmp_path, {"a.png": png(1)})
    hub_cache(tmp_path, {"a.png": png(2)}, "4567")
    (repository / "refs" / "main").write_text("89ab")
    with pytest.raises(UserError, match=r"name one of its folders snapshots/REVISION"):
        sources(repository)


# Splits


def rows(numbers):
    pictures = [{"bytes": png(i), "path": None} for i in numbers]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict({"image": pictures, "text": [f"caption {i}" for i in numbers]}, features=features)


def test_a_saved_data_set_is_read_by_its_record_alone(tmp_path):
    rows(range(5)).save_to_disk(tmp_path / "set", num_shards=2)
    shutil.copy(next((tmp_path / "set").glob("data-*.arrow")), tmp_path / "set" / "cache-0123.arrow")
    source = sources(tmp_path / "set")["source"]
    assert source.count() == 5
    assert sorted(captions_of(source).values()) == [f"caption {i}" for i in range(5)]


@pytest.mark.parametrize(
    ("splits", "fields", "sides", "told"),
    [
        (["train", "test"], {}, {"source": "train"}, "Not used: 1 file in the split test;"),
        (["train", "validation", "test"], {}, {"train": "train", "validation": "validation"}, "in the split test"),
        (["train", "other", "test"], {"split": "other"}, {"source": "other"}, "2 files in the splits train, test"),
        (["all"], {}, {"source": "all"}, None),
    ],
)
def test_the_splits_of_a_saved_dictionary_go_to_their_sides(tmp_path, splits, fields, sides, told):
    datasets.DatasetDict({name: rows([i]) for i, name in enumerate(splits)}).save_to_disk(tmp_path / "set")
    opened = sources(tmp_path / "set", **fields)
    assert {side: next(iter(captions_of(source).values())) for side, source in opened.items()} == {
        side: f"caption {splits.index(name)}" for side, name in sides.items()
    }
    warnings = [warning for source in opened.values() for warning in source.warnings]
    assert [told in warning for warning in warnings] == ([True] if told else [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(_data_files=[{"filename": "../x.arrow"}]), "which is not a file of its folder"),
        (lambda state: state.update(_data_files=[{"filename": "gone.arrow"}]), "not there, though state.json names it"),
        (lambda state: state.update(_data_files=None), "names None, which is not a file"),
        (lambda state: state.update(_indices_files=[{"filename": "i.arrow"}]), r"flatten_indices\(\)"),
        (lambda state: state.clear(), "no record of save_to_disk that can be read"),
    ],
)
def test_a_damaged_record_of_a_saved_data_set_is_said(tmp_path, change, message):
    rows(range(2)).save_to_disk(tmp_path / "set")
    path = tmp_path / "set" / "state.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match=message):
        sources(tmp_path / "set")


def test_a_split_that_a_saved_dictionary_lacks_is_refused_with_those_it_has(tmp_path):
    datasets.DatasetDict({"a": rows([1]), "b": rows([2])}).save_to_disk(tmp_path / "set")
    with pytest.raises(UserError, match=r"data\.split 'train': not in data\.source .*; it has a, b"):
        sources(tmp_path / "set")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["train-0.parquet", "test-0.parquet"], "Not used: 1 file for testing, by their names;"),
        (["train/0.parquet", "test/0.parquet", "test/1.parquet"], "2 files for testing"),
    ],
)
def test_tables_of_a_test_split_are_said(tmp_path, files, words):
    for i, name in enumerate(files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows([i]).to_parquet(tmp_path / name)
    assert [words in warning for warning in sources(tmp_path)["source"].warnings] == [True]


@pytest.mark.parametrize(
    ("folders", "told"), [(["train", "test"], "test"), (["train", "val"], "val"), (["a", "b"], None)]
)
def test_pictures_in_folders_of_a_split_are_said_to_be_mixed(tmp_path, folders, told):
    fill(tmp_path, {f"{name}/x.png": png(i) for i, name in enumerate(folders)})
    warnings = sources(tmp_path)["source"].warnings
    assert warnings == [] if told is None else f"The pictures of {told} are mixed" in warnings[0]


def test_a_set_of_links_masks_and_a_warning_is_prepared(elsewhere, tmp_path):
    fill(elsewhere / "picked", {"x_mask.png": png(30)})
    config = DataConfig(
        source=str(elsewhere / "picked"),
        image_size=8,
        links_into=(str(elsewhere / "all"), str(elsewhere / "secret")),
        exclude=("*_mask.png", "*.tif"),
    )
    prepared, _ = prepare(config, tmp_path / "prepared")
    assert prepared.record.num_images == 6
    assert "data.exclude '*.tif' names nothing in the source." in prepared.record.warnings


# Repeats


def kohya(root, folders):
    number = iter(range(100))
    return fill(root, {f"{name}/{i}.png": png(next(number)) for name, count in folders.items() for i in range(count)})


def test_folders_named_as_kohya_does_repeat_training_pictures_and_never_cross_the_split(tmp_path):
    folders = {"img/10_smile person": 6, "img/3_b": 6, "img/plain": 4, "7up": 2, "img/2_x/deeper": 2}
    config = DataConfig(
        source=str(kohya(tmp_path / "set", folders)), image_size=8, repeats="kohya", validation_fraction=0.4
    )
    prepared, _ = prepare(config, tmp_path / "prepared")
    times = {"img/10_smile person": 10, "img/3_b": 3}
    counts = {name: prepared.train.names.count(name) for name in prepared.train.names}
    assert counts == {name: times.get(name.rpartition("/")[0], 1) for name in counts}
    assert max(counts.values()) == 10
    assert len(set(prepared.validation.names)) == len(prepared.validation)
    assert not {*prepared.train.identities} & {*prepared.validation.identities}
    assert len({*prepared.train.names, *prepared.validation.names}) == prepared.record.num_images == 20
    assert prepared.record.num_repeated == len(prepared.train) - len(counts)


def test_without_the_option_nothing_is_repeated_and_with_it_a_set_of_no_such_folder_is_said(tmp_path):
    plain = kohya(tmp_path / "plain", {"10_a": 6, "b": 4})
    prepared, _ = prepare(DataConfig(source=str(plain), image_size=8), tmp_path / "prepared")
    assert len(prepared.train) + len(prepared.validation) == 10
    other = kohya(tmp_path / "other", {"a": 6, "b": 4})
    prepared, _ = prepare(DataConfig(source=str(other), image_size=8, repeats="kohya"), tmp_path / "prepared")
    assert any("no picture lies in a folder named like 42_name" in told for told in prepared.record.warnings)


@pytest.mark.parametrize("name", ["0_a", "20240131_trip", "1001_a"])
def test_repeats_of_none_or_of_a_date_are_refused(tmp_path, name):
    config = DataConfig(source=str(kohya(tmp_path / "set", {name: 4, "b": 4})), image_size=8, repeats="kohya")
    with pytest.raises(UserError, match=rf"data\.repeats kohya: the folder '{name}' asks for \d+ repeats"):
        prepare(config, tmp_path / "prepared")
