"""A served model answers to tensors and to picture files, and says what is wrong with others."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from fastapi.testclient import TestClient
from mlflow.exceptions import MlflowException
from PIL import Image

from pikavae.production.packages.smoke import consumer_environment
from pikavae.registry.package import build_package
from tests.support.mlflow_server import free_port

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 3, 9, 14)).astype(np.float32)


def png(pixels):
    """(3, H, W) in [-1, 1] as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.round((pixels.transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


FILES = [png(image) for image in IMAGES]
TEXTS = [base64.b64encode(file).decode() for file in FILES]
IN_8_BITS = np.stack([np.round((image + 1) * 127.5) / 127.5 - 1 for image in IMAGES]).astype(np.float32)


def pixels_of(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.fixture(scope="module")
def package(snapshot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "package"
    build_package(snapshot, folder, image_size=32, metadata={"step": 400})
    return folder


@pytest.fixture(scope="module")
def model(package):
    import mlflow

    return mlflow.pyfunc.load_model(str(package))


@pytest.fixture(scope="module")
def ask(model):
    """Sends an object to MLflow's scoring application: status and answer."""
    from mlflow.pyfunc.scoring_server import init

    with TestClient(init(model)) as client:

        def post(body):
            content, headers = body if isinstance(body, str) else json.dumps(body), {"Content-Type": "application/json"}
            answer = client.post("/invocations", content=content, headers=headers)
            return answer.status_code, answer.json()

        yield post


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_tensors_come_back_as_tensors(ask, model, key):
    status, answer = ask({key: IMAGES.tolist()})
    assert status == 200
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), model.predict(IMAGES))


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": TEXTS},
        {"dataframe_records": [{"png": text} for text in TEXTS]},
        {"dataframe_split": {"columns": ["png"], "data": [[text] for text in TEXTS]}},
        {"inputs": [base64.encodebytes(file).decode() for file in FILES]},
        {"inputs": [f"data:image/png;base64,{text}" for text in TEXTS]},
        {"dataframe_records": [{"png": f" DATA:image/png;charset=utf-8;Base64,\n{text}\n"} for text in TEXTS]},
        {"inputs": [f"data:;base64,{quote(text, safe='')}" for text in TEXTS]},
        {"inputs": [base64.urlsafe_b64encode(file).decode() for file in FILES]},
        {"inputs": [base64.urlsafe_b64encode(file).decode().rstrip("=") for file in FILES]},
        {"inputs": [f"data:image/png;base64,{base64.urlsafe_b64encode(file).decode().rstrip('=')}" for file in FILES]},
        {"inputs": [text.rstrip("=") + " \r\n" for text in TEXTS]},
    ],
    ids=[
        "inputs",
        "records",
        "split",
        "in lines",
        "data URI",
        "data URI with parameters and space",
        "data URI escaped for a link",
        "url-safe",
        "url-safe without padding",
        "url-safe data URI",
        "without padding",
    ],
)
def test_picture_files_come_back_as_picture_files(ask, model, body):
    status, answer = ask(body)
    assert status == 200
    expected = np.round((model.predict(IN_8_BITS).transpose(0, 2, 3, 1) + 1) * 127.5).astype(np.uint8)
    np.testing.assert_array_equal([pixels_of(text) for text in answer["predictions"]], expected)


def test_files_of_several_sizes_and_kinds_are_read_as_a_person_sees_them(model):
    deep = io.BytesIO()
    Image.fromarray(np.full((6, 5), 30_000, np.uint16)).save(deep, format="PNG")
    clear = io.BytesIO()
    Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(clear, format="PNG")
    files = np.array([deep.getvalue(), clear.getvalue(), FILES[0]], dtype=object)
    sizes = [Image.open(io.BytesIO(file)).size for file in model.predict(files)]
    assert sizes == [(5, 6), (8, 4), (14, 9)]
    white = model.predict(np.ones((1, 3, 4, 8), np.float32))
    seen = np.asarray(Image.open(io.BytesIO(model.predict(files)[1])))
    np.testing.assert_array_equal(seen, np.round((white[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"dataframe_records": [{"png": TEXTS[0]}, {"png": TEXTS[1][:160]}]}, "picture 2: PNG is cut short"),
        ({"inputs": [base64.b64encode(b"not a picture").decode()]}, "picture 1: not a picture that can be read"),
        ({"inputs": ["not base64!"]}, "picture 1: its text is not base64"),
        ({"inputs": ["A"]}, "picture 1: its text is not base64"),
        ({"inputs": ["AB=CD="]}, "picture 1: its text is not base64"),
        ({"inputs": ["data:image/png;base64,not base64!"]}, "picture 1: its text is not base64"),
        ({"inputs": ["data:image/svg+xml,%3Csvg/%3E"]}, "picture 1: a data URI that is not in base64"),
        ({"inputs": ["data:image/png;base64,"]}, "picture 1: empty file"),
        ({"inputs": [""]}, "picture 1: empty file"),
        ({"dataframe_records": [{"png": 5}]}, "picture 1 is a int; expected (B, 3, H, W) float32"),
        ({"inputs": np.zeros((1, 4, 8, 8)).tolist()}, "shape (1, 4, 8, 8); expected (B, 3, H, W) float32"),
        ({"inputs": [[[["a"]]] * 3]}, "not all are numbers"),
        ({"inputs": [[[[None]]] * 3]}, "NaN or infinite numbers"),
        ('{"inputs": [[[[NaN]], [[0]], [[0]]]]}', "NaN or infinite numbers"),
        ({"inputs": [[1, 2], [3]]}, "picture 1 is a list"),
    ],
)
def test_what_is_neither_is_a_bad_request_that_says_what_is_wrong(ask, body, said):
    status, answer = ask(body)
    assert status == 400
    assert said in answer["message"]


def test_the_files_use_what_the_two_alphabets_and_padding_differ_by():
    text = "".join(TEXTS)
    assert "+" in text
    assert "/" in text
    assert any(one.endswith("=") for one in TEXTS)


PIXELS = np.round((IMAGES + 1) * 127.5)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (PIXELS.astype(np.float32), "values from 0 to 255; expected (B, 3, H, W) float32 in [-1, 1]"),
        (PIXELS.astype(np.float32) * 0.01, "values from 0 to 2.55; expected"),
        (IMAGES * 0.5 - 1.0, "; expected"),
        (IMAGES * 2.0, "; expected"),
        (PIXELS.astype(np.uint8), "dtype uint8; expected"),
        (PIXELS.astype(np.int64), "dtype int64; expected"),
    ],
    ids=["0 to 255", "dark, 0 to 2.55", "below -1", "deviations", "uint8", "int64"],
)
def test_tensors_of_another_range_are_refused_with_the_range_that_is_expected(model, ask, images, said):
    with pytest.raises(MlflowException) as refused:
        model.predict(images)
    assert said in str(refused.value)
    assert "in [-1, 1] (of pixels in 0 to 255: pixels / 127.5 - 1)" in str(refused.value)
    status, answer = ask({"inputs": images.tolist()})
    assert status == 400
    assert "; expected (B, 3, H, W) float32 in [-1, 1]" in answer["message"]


def test_what_rounding_and_interpolation_put_a_little_outside_the_range_is_taken(model):
    assert model.predict(IMAGES * np.float32(1.03)).shape == IMAGES.shape


@pytest.mark.slow
def test_mlflow_serves_it_by_its_own_command(package, tmp_path):
    port = free_port()
    environment = consumer_environment(f"sqlite:///{tmp_path / 'none.db'}")
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"  # MLflow looks for uvicorn there
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(package), "--env-manager", "local"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, cwd=tmp_path, stdout=log, stderr=log, process_group=0
        )
    try:
        for _ in range(480):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.25)
        for body in ({"inputs": IMAGES.tolist()}, {"dataframe_records": [{"png": text} for text in TEXTS]}):
            with urllib.request.urlopen(request(port, body), timeout=60) as answer:
                assert len(json.load(answer)["predictions"]) == 2
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request(port, {"inputs": [TEXTS[0][:160]]}), timeout=60)
        assert refused.value.code == 400
        assert b"picture 1: PNG is cut short" in refused.value.read()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def request(port, body):
    return urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
