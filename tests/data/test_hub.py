"""The hub when it does not give what was asked for: a stand-in on this machine answers as the hub would."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

ASK = """
import json, sys
from pikavae.config import DataConfig
from pikavae.data.prepare import prepare_inputs
from pikavae.data.tokens import load_tokenizer
from pikavae.errors import UserError
try:
    if sys.argv[1] == "data":
        print(json.dumps(prepare_inputs(DataConfig(source=sys.argv[2]))["source pictures"]))
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


def ask(what, name, home, **environment):
    done = subprocess.run(
        [sys.executable, "-c", ASK, what, name],
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
