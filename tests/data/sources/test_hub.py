"""The hub when it does not give what was asked for: a stand-in on this machine answers as the hub would."""

import html
import io
import json
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pikavae.config import DataConfig
from pikavae.data.prepare import prepare
from pikavae.data.sources.hub import HubChunk, HubSource, choose_columns
from pikavae.data.split.history import History
from pikavae.errors import UserError

ASK = """
import json, sys
from pikavae.config import DataConfig
from pikavae.data.prepare import prepare_inputs
from pikavae.data.tokens import load_tokenizer
from pikavae.errors import UserError
try:
    if sys.argv[1] == "data":
        config = DataConfig(source=sys.argv[2], **json.loads(sys.argv[3]))
        print(json.dumps(prepare_inputs(config)["source pictures"]))
    else:
        load_tokenizer(sys.argv[2], ["a"])
except UserError as error:
    print(error)
    sys.exit(2)
"""


class Hub(BaseHTTPRequestHandler):
    """Answers each data set by its name."""

    def do_GET(self):
        answers = {
            "there/revision/v1": (200, {}, json.dumps({"id": "org/there", "sha": "4567cdef"})),
            "there/revision/none": (404, {"X-Error-Code": "RevisionNotFound"}, "{}"),
            "there": (200, {}, json.dumps({"id": "org/there", "sha": "0123abcd"})),
            "gated": (403, {"X-Error-Code": "GatedRepo"}, "{}"),
            "missing": (404, {"X-Error-Code": "RepoNotFound"}, "{}"),
            "broken": (500, {}, "{}"),
        }
        status, headers, body = next(answer for name, answer in answers.items() if name in self.path)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body.encode())

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(what, name, home, fields=None, **environment):
    done = subprocess.run(
        [sys.executable, "-c", ASK, what, name, json.dumps(fields or {})],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # the hub's library would retry for minutes if we let it
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub:org/gated", "data.source 'hub:org/gated': gated; accept its terms on the hub"),
        ("hub:org/missing", "data.source 'hub:org/missing': not on the hub"),
        ("hub:org/broken", "data.source 'hub:org/broken': the hub answered 500"),
        ("hub:not/a/name", "data.source 'hub:not/a/name': no hub id"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line_with_the_remedy(endpoint, tmp_path, name, message):
    status, out = ask("data", name, tmp_path, HF_ENDPOINT=endpoint)
    assert status == 2
    assert out.startswith(message)
    assert len(out.splitlines()) == 1


def test_a_hub_that_cannot_be_reached_is_said_quickly(tmp_path):
    status, out = ask("data", "hub:org/there", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert status == 2
    assert "the hub cannot be reached" in out
    assert "name a folder or Parquet files of your own" in out


def test_offline_mode_is_said(tmp_path):
    status, out = ask("data", "hub:org/there", tmp_path, HF_HUB_OFFLINE="1")
    assert (status, "HF_HUB_OFFLINE" in out) == (2, True)


def test_the_revision_stands_for_the_content(endpoint, tmp_path):
    status, out = ask("data", "hub:org/there", tmp_path, HF_ENDPOINT=endpoint)
    assert status == 0
    assert json.loads(out) == {"hub:org/there train": "0123abcd"}


def test_a_revision_and_a_configuration_are_named_and_are_content(endpoint, tmp_path):
    status, out = ask("data", "hub:org/there@v1", tmp_path, {"hub_config": "small"}, HF_ENDPOINT=endpoint)
    assert (status, json.loads(out)) == (0, {"hub:org/there small train": "4567cdef"})


def test_a_commit_that_is_named_whole_is_asked_of_nobody():
    source = HubSource(f"org/missing@{'ab' * 20}", DataConfig(), "data.source")
    assert source.content() == {"hub:org/missing train": "ab" * 20}


def test_a_revision_that_is_not_there_is_said(endpoint, tmp_path):
    status, out = ask("data", "hub:org/there@none", tmp_path, HF_ENDPOINT=endpoint)
    assert status == 2
    assert out == "data.source 'hub:org/there@none': no revision 'none'; look at its history on the hub"


@pytest.mark.parametrize(
    ("reason", "field"),
    [
        ("Config name is missing. Please pick one among the available configs: ['a', 'b']", "data.hub_config None"),
        ("BuilderConfig 'c' not found. Available: ['a']", "data.hub_config None"),
        ("Unknown split 'train'. Should be one of ['test'].", "data.split 'train'"),
        ("Bad files", "data.source 'hub:org/there@v1'"),
    ],
)
def test_what_the_hubs_library_says_is_said_of_the_field_that_it_is_about(monkeypatch, reason, field):
    def fail(*_, **__):
        raise ValueError(reason)

    monkeypatch.setattr(datasets, "load_dataset", fail)
    source = HubSource("org/there@v1", DataConfig(), "data.source")
    source.__dict__["revision"] = "0123"
    with pytest.raises(UserError) as refused:
        list(source.chunks(3))
    assert str(refused.value) == f"{field}: {reason}"


def test_the_configuration_and_the_revision_are_what_is_loaded(monkeypatch, tmp_path):
    asked = {}
    rows = rows_on_disk(tmp_path / "rows", [{"bytes": b"x", "path": None}])

    def load(name, config, **fields):
        asked.update(name=name, config=config, **fields)
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = HubSource(f"org/there@{'ab' * 20}", DataConfig(hub_config="small", split="test"), "data.source")
    (chunk,) = source.chunks(3)
    assert asked == {"name": "org/there", "config": "small", "split": "test", "revision": "ab" * 20}
    assert chunk.content["hub:org/there small test"] == "ab" * 20


def test_another_revision_keeps_the_sides_of_the_pictures(tmp_path):
    first, second = (History.of(DataConfig(source=f"hub:org/there{rev}"), tmp_path).path for rev in ("", "@v1"))
    other = History.of(DataConfig(source="hub:org/there", hub_config="small"), tmp_path).path
    assert first == second != other


@pytest.mark.parametrize("name", ["org/missing", "org/missing/tokenizer"])
def test_a_tokenizer_that_cannot_be_had_is_named(endpoint, tmp_path, name):
    status, out = ask("tokenizer", name, tmp_path, HF_ENDPOINT=endpoint)
    assert status == 2
    assert out.startswith(f"data.tokenizer '{name}': not on the hub")
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_tokenizer_without_a_network_is_said_quickly_and_with_the_ways_out(tmp_path, environment):
    status, out = ask("tokenizer", "CompVis/stable-diffusion-v1-4/tokenizer", tmp_path, **environment)
    assert status == 2
    assert "HF_HUB_OFFLINE, or name a folder of your own, or none, and one is built from the captions" in out
    assert len(out.splitlines()) == 1


def test_configured_columns_and_the_split_are_content(endpoint, tmp_path):
    fields = {"image_column": "image", "caption_column": "text", "split": "test"}
    _, out = ask("data", "hub:org/there", tmp_path, fields, HF_ENDPOINT=endpoint)
    assert json.loads(out) == {"hub:org/there test": "0123abcd", "columns": {"image": "image", "caption": "text"}}


# What was loaded


def rows_on_disk(folder, images, **columns):
    features = datasets.Features(
        {"image": datasets.Image(decode=False), **{name: datasets.Value("string") for name in columns}}
    )
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"image": images, **columns}, features=features).save_to_disk(folder)
    return datasets.load_from_disk(folder)


def test_chunks_of_a_loaded_data_set_are_pickled_as_names_of_files(tmp_path):
    images = [{"bytes": bytes([i]) * 5000, "path": None} for i in range(50)]
    rows = rows_on_disk(tmp_path / "rows", images, title=[str(i) for i in range(50)], url=["there"] * 50)
    loaded = choose_columns(rows, DataConfig(), "hub:org/there")
    assert (loaded.image, loaded.caption, loaded.rows.column_names) == ("image", "title", ["image", "title"])
    chunk = HubChunk(loaded.rows.select(range(20, 45)), "hub:org/there train", "0123", ("image", "title"), 20, "")
    pickled = pickle.dumps(chunk)
    assert len(pickled) < 10_000
    again = pickle.loads(pickled)
    assert again.content == {"hub:org/there train": "0123", "rows": [20, 45], "columns": ["image", "title"]}
    assert [(p.name, p.content, p.caption) for p in again.pictures()] == [
        (f"row#{i:08d}", bytes([i]) * 5000, str(i)) for i in range(20, 45)
    ]


def test_of_an_image_folder_of_the_hub_only_its_own_files_in_the_cache_are_opened(tmp_path):
    cache = tmp_path / "datasets--org--there"
    own, linked, other = cache / "blobs" / "0", cache / "snapshots" / "x.png", tmp_path / "datasets--org--there2" / "x"
    for file in (own, linked, other):
        file.parent.mkdir(parents=True)
        file.write_bytes(file.name.encode())
    linked.unlink()
    linked.symlink_to("../blobs/0")
    outward = cache / "outward"
    outward.symlink_to(other)
    paths = [own, linked, other, outward, cache / "blobs" / ".." / ".." / other.parent.name / "x", cache / "missing"]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": str(p)} for p in paths]}, features=features)
    chunk = HubChunk(rows, "hub:org/there train", "0123", ("image", None), 0, str(cache.resolve()))
    found = list(chunk.pictures())
    assert [p.content for p in found] == [b"0", b"0", None, None, None, None]
    assert [p.problem for p in found[2:]] == [
        f"holds a path instead of a picture: {path}; store its bytes" for path in paths[2:]
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"image_column": "img"},
            "data.image_column 'img': no such column in hub:org/there; it has image, about, title",
        ),
        ({"image_column": "title"}, "data.image_column 'title': holds str, not pictures, in hub:org/there"),
        ({"caption_column": "x"}, "data.caption_column 'x': no such column in hub:org/there"),
        ({}, "hub:org/there: about, title may hold the captions; name one in data.caption_column"),
    ],
)
def test_columns_that_are_not_there_or_not_clear_are_listed(tmp_path, fields, message):
    rows = rows_on_disk(tmp_path / "rows", [{"bytes": b"x", "path": None}], about=["a"], title=["b"])
    with pytest.raises(UserError) as caught:
        choose_columns(rows, DataConfig(**fields), "hub:org/there")
    assert str(caught.value).startswith(message)


def saved_as_parquet(folder, columns, splits):
    """What `load_dataset` gives of a data set with these splits, from files on this machine instead of the hub's."""
    folder.mkdir()
    files = {}
    for number, split in enumerate(splits):
        images = [picture_bytes(10 * number + i) for i in range(10)]
        table = pa.table({"image": images, **{name: ["a"] * 10 for name in columns}})
        pq.write_table(table, folder / f"{split}.parquet")
        files[split] = str(folder / f"{split}.parquet")
    plain_load = datasets.load_dataset
    return lambda *_, split, **__: plain_load("parquet", data_files=files, split=split, cache_dir=str(folder / "cache"))


def picture_bytes(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


UNUSED = "Not used: the split{}; evaluate a model on one by naming it in data.split."
NO_COLUMN = "No picture has a caption: hub:org/there@" + "ab" * 20 + " has no other column than that of the pictures."


@pytest.mark.parametrize(
    ("columns", "splits", "split", "expected"),
    [
        (["text"], ["train"], "train", []),
        (["text"], ["train", "test"], "train", [UNUSED.format(" test (10 pictures)")]),
        (["text"], ["train", "test"], "train[:50%]+test", []),
        (["text"], ["train", "dev", "test"], "train", [UNUSED.format("s dev (10 pictures), test (10 pictures)")]),
        (["text"], ["train", "dev"], "all", []),
        ([], ["train"], "train", [NO_COLUMN]),
        (["url", "license"], ["train"], "train", ["no column is plainly one of captions"]),
    ],
)
def test_other_splits_and_captions_that_are_not_there_are_said(monkeypatch, tmp_path, columns, splits, split, expected):
    monkeypatch.setattr(datasets, "load_dataset", saved_as_parquet(tmp_path / "set", columns, splits))
    config = DataConfig(source=f"hub:org/there@{'ab' * 20}", split=split, image_size=8, drop_duplicates="none")
    prepared, _ = prepare(config, tmp_path / "prepared")
    said = [warning for warning in prepared.record.warnings if warning.startswith(("Not used", "No picture has"))]
    assert len(said) == len(expected)
    assert all(wanted in warning for wanted, warning in zip(expected, said, strict=True))
    page = html.unescape((prepared.path / "page.html").read_text())
    assert all(warning in page for warning in said)
