"""Weights of the hub: a stand-in on this machine serves a pipeline's repository as the hub would."""

import hashlib
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import diffusers_config
from pikavae.weights.published import read_published

ASK = """
import sys
from pikavae.data.sources.hub_files import fetch_weights
from pikavae.errors import UserError
try:
    print(fetch_weights(sys.argv[1], field="training.start"))
except UserError as error:
    print(error)
    sys.exit(2)
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = ModelConfig(channels=(8, 8), num_res_blocks=1, norm_groups=4)
STATE = dict(AutoencoderKL(SIZES).state_dict())
CONFIG = json.dumps(diffusers_config(SIZES, 16)).encode()
WEIGHTS = save(STATE)
AVERAGED = {name: value + 1 for name, value in STATE.items()}
BOTH = save({**{f"model.{n}": v for n, v in STATE.items()}, **{f"ema.{n}": v for n, v in AVERAGED.items()}})
PARTS = {
    f"diffusion_pytorch_model.fp16-{part:05}-of-00002.safetensors": dict(list(STATE.items())[part - 1 :: 2])
    for part in (1, 2)
}
INDEX = json.dumps({"weight_map": {name: part for part, weights in PARTS.items() for name in weights}}).encode()
REPOSITORIES = {
    "org/pipeline": {
        "model_index.json": b"{}",
        "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
        "unet/diffusion_pytorch_model.safetensors": b"large",
        "vae/config.json": CONFIG,
        "vae/diffusion_pytorch_model.safetensors": WEIGHTS,
        "vae/diffusion_pytorch_model.fp16.safetensors": b"half",
        "vae/diffusion_pytorch_model.bin": b"older",
    },
    "org/half": {"config.json": CONFIG, "diffusion_pytorch_model.fp16.safetensors": WEIGHTS},
    "org/half-parts": {
        "config.json": CONFIG,
        "diffusion_pytorch_model.safetensors.index.fp16.json": INDEX,
        **{part: save(weights) for part, weights in PARTS.items()},
        "diffusion_pytorch_model.bin": b"older",
    },
    "org/flux2": {
        "vae/config.json": b'{"_class_name": "AutoencoderKLFlux2"}',
        "vae/diffusion_pytorch_model.safetensors": WEIGHTS,
    },
    "org/file": {"deep/vae.safetensors": WEIGHTS},
    "org/both": {"deep/both.safetensors": BOTH},
    "org/unet": {"config.json": b'{"_class_name": "UNet2DConditionModel"}', "model.safetensors": b"large"},
}
REFUSED = {"org/gated": (403, "GatedRepo"), "org/missing": (404, "RepoNotFound"), "org/broken": (500, "")}


class HubServer(ThreadingHTTPServer):
    """Notes what it is asked for."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Hub(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self):
        path = self.path.partition("?")[0].removeprefix("/api/models").strip("/")
        name, rest = "/".join(path.split("/")[:2]), path.split("/")[2:]
        self.server.asked.append("/".join([name, *rest]))
        if name in REFUSED:
            status, code = REFUSED[name]
            self.answer(status, b"{}", {"X-Error-Code": code})
        elif rest[:1] == ["revision"] and rest[1] not in ("main", COMMIT):
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif rest[:1] == ["tree"]:
            files = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in REPOSITORIES[name].items()
            ]
            self.answer(200, json.dumps(files).encode())
        elif rest[:1] == ["resolve"]:
            content = REPOSITORIES[name]["/".join(rest[2:])]
            self.answer(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())

    def do_HEAD(self):
        self.do_GET()

    def answer(self, status, body, headers=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = HubServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(name, home, **environment):
    done = subprocess.run(
        [sys.executable, "-c", ASK, name],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "HF_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == 1
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("org/pipeline", "vae"),
        ("org/pipeline/vae", "vae"),
        (f"org/pipeline@{COMMIT}", "vae"),
        ("org/half", COMMIT),
        ("org/half-parts", COMMIT),
        ("org/file/deep/vae.safetensors", "vae.safetensors"),
    ],
)
def test_the_autoencoder_is_downloaded_alone(server, tmp_path, name, folder):
    status, path = ask(name, tmp_path, HF_ENDPOINT=server.address)
    assert (status, path.rpartition("/")[2]) == (0, folder), path
    assert COMMIT in path
    fetched = {place.partition(f"{COMMIT}/")[2] for place in server.asked if "/resolve/" in place}
    assert not [file for file in fetched if "unet" in file or file.endswith(".bin")]
    assert not ("pipeline" in name and [file for file in fetched if "fp16" in file])
    published = read_published(type(tmp_path)(path), expected=SIZES)
    assert all(torch.equal(published.state[key], value) for key, value in STATE.items())


def test_the_class_of_flux2_is_an_autoencoder(server, tmp_path):
    status, path = ask("org/flux2", tmp_path, HF_ENDPOINT=server.address)
    assert (status, path.rpartition("/")[2]) == (0, "vae"), path


def test_what_is_in_the_cache_is_found_without_the_hub(server, tmp_path):
    first = ask("org/pipeline", tmp_path, HF_ENDPOINT=server.address)
    assert first[0] == 0, first
    assert ask("org/pipeline", tmp_path, HF_HUB_OFFLINE="1") == first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("org/gated", "gated; accept its terms"),
        ("org/missing", "not on the hub"),
        ("org/broken", "500|gave no answer"),
        ("org/pipeline@v9", "no revision 'v9'"),
        ("org/unet", "no folder of an AutoencoderKL or AutoencoderTiny in it"),
        ("org/file/other.safetensors", "no file other.safetensors in it"),
        ("pipeline", "no hub id"),
        ("org/na me", "no hub id"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(server, tmp_path, name, message):
    status, out = ask(name, tmp_path, HF_ENDPOINT=server.address)
    assert status == 2
    assert out.startswith(f"training.start '{name}': ")
    assert re.search(message, out), out


@pytest.mark.parametrize("environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_that_cannot_be_reached_is_said(tmp_path, environment):
    status, out = ask("org/pipeline", tmp_path, **environment)
    assert status == 2
    assert "HF_HUB_OFFLINE, or name a folder or file of your own" in out
