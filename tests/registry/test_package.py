from __future__ import annotations

import json
import os
import pickletools
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml

from pikavae.model.snapshot import read_snapshot
from pikavae.registry.package import SNAPSHOT_FOLDER, build_package, file_hashes

SHAPES = [(1, 3, 32, 32), (3, 3, 32, 32), (3, 3, 24, 40), (3, 3, 30, 45), (1, 3, 5, 3)]


@pytest.fixture(scope="module")
def package(snapshot, tmp_path_factory):
    folder = tmp_path_factory.mktemp("package") / "package"
    build_package(snapshot, folder, image_size=32, metadata={"step": 400})
    return folder


@pytest.fixture(scope="module")
def outputs(package, tmp_path_factory):
    """What a process without pikavae computes from the package, by input."""
    folder = tmp_path_factory.mktemp("consumer")
    for number, shape in enumerate(SHAPES):
        # Beyond [-1, 1] on purpose: an untrained model hardly leaves it by itself.
        np.save(folder / f"in{number}.npy", np.random.default_rng(number).normal(0, 3, shape).astype(np.float32))
    code = """
import json, sys
sys.modules["pikavae"] = None  # whoever imports it is told that there is none, even where it is installed
import mlflow, numpy as np
model = mlflow.pyfunc.load_model(sys.argv[1])
assert sys.modules["pikavae"] is None
for number in range(int(sys.argv[2])):
    np.save(f"out{number}.npy", model.predict(np.load(f"in{number}.npy")))
refused = []
for images in (np.zeros((1, 3, 8, 8)), np.zeros((1, 4, 8, 8), np.float32), np.zeros((3, 8, 8), np.float32)):
    try:
        model.predict(images)
    except mlflow.MlflowException as error:
        refused.append(str(error))
json.dump(refused, open("refused.json", "w"))
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(package), str(len(SHAPES))],
        cwd=folder,
        env=environment,
        check=True,
    )
    return folder


def reconstruct(model, images):
    """The reference: padded by hand to the factor 4 with the last row and column, mode, cut, clamped."""
    height, width = images.shape[2:]
    padded = np.pad(images, ((0, 0), (0, 0), (0, -height % 4), (0, -width % 4)), mode="edge")
    with torch.inference_mode():
        return model.decode(model.encode(torch.from_numpy(padded)).mean)[:, :, :height, :width].clamp(-1, 1).numpy()


@pytest.mark.parametrize("number", range(len(SHAPES)), ids=str)
def test_a_process_without_pikavae_gets_the_snapshots_reconstructions(number, outputs, snapshot):
    model = read_snapshot(snapshot)
    given, got = np.load(outputs / f"in{number}.npy"), np.load(outputs / f"out{number}.npy")
    assert (got.shape, got.dtype) == (SHAPES[number], np.float32)
    for image, output in zip(given, got, strict=True):
        np.testing.assert_allclose(output[None], reconstruct(model, image[None]), atol=1e-5)


def test_other_types_channels_and_ranks_are_refused(outputs):
    refused = json.loads((outputs / "refused.json").read_text())
    assert len(refused) == 3
    assert "float64" in refused[0]
    assert "(1, 4, 8, 8)" in refused[1]


def test_a_package_holds_no_pickle_and_nothing_beside_the_snapshots_files(package):
    assert {path.name for path in (package / SNAPSHOT_FOLDER).iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "pikavae.yaml",
    }
    assert [path for path in package.rglob("*") if path.is_file() and is_pickle(path.read_bytes())] == []
    assert [path for path in package.rglob("*") if path.suffix in {".pkl", ".pt", ".pth", ".bin", ".ckpt"}] == []


def is_pickle(content):
    try:
        return content[:1] == b"\x80" and bool(list(pickletools.genops(content)))
    except ValueError:
        return False


def test_requirements_are_exact_and_do_not_name_pikavae(package):
    lines = (package / "requirements.txt").read_text().split()
    assert {line.partition("==")[0] for line in lines} >= {
        "torch",
        "numpy",
        "safetensors",
        "pydantic",
        "pyyaml",
        "mlflow",
    }
    assert all("==" in line and "+" not in line and "pikavae" not in line for line in lines)


def test_a_package_tells_nothing_of_the_machine_it_was_made_on(package):
    description = (package / "MLmodel").read_text()
    assert yaml.safe_load(description)["metadata"] == {"image_size": 32, "step": 400}
    assert "/serving.py" not in description
    assert "uri: artifacts/snapshot" in description


def test_a_loaded_package_does_not_stand_in_the_way_of_an_installed_pikavae(package):
    import mlflow

    import pikavae

    mlflow.pyfunc.load_model(str(package))
    assert sys.modules["pikavae"] is pikavae
    assert [name for name in sys.modules if name.startswith("pikavae_")]


def test_hashes_change_with_any_byte_and_leave_out_compiled_code(package, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("one")
    before = file_hashes(tmp_path)
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "file.pyc").write_text("compiled")
    assert file_hashes(tmp_path) == before
    assert list(before) == ["a/file"]
    (tmp_path / "a" / "file").write_text("two")
    assert file_hashes(tmp_path)["a/file"] != before["a/file"]
