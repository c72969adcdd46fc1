"""The hub when it does not give what was asked for: a stand-in on this machine answers as the hub would."""

import json
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import pytest

from pikavae.config import DataConfig
from pikavae.data.hub import HubChunk, choose_columns
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


@pytest.mark.parametrize("name", ["org/missing", "org/missing/tokenizer"])
def test_a_tokenizer_that_cannot_be_had_is_named(endpoint, tmp_path, name):
    status, out = ask("tokenizer", name, tmp_path, HF_ENDPOINT=endpoint)
    assert status == 2
    assert out.startswith(f"data.tokenizer '{name}'")


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
    assert [p.problem for p in found[2:]] == [f"holds a path instead of a picture: {path}" for path in paths[2:]]


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
