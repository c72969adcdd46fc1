from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickletools
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.registry.package import (
    COMPILED_NAME,
    SNAPSHOT_FOLDER,
    build_package,
    compiled_code,
    every_file,
    file_hashes,
)
from pikavae.weights.published import read_snapshot

SHAPES = [(1, 3, 32, 32), (3, 3, 32, 32), (3, 3, 24, 40), (3, 3, 30, 45), (1, 3, 5, 3)]


@pytest.fixture(scope="module")
def snapshot(snapshot, tmp_path_factory):
    """The snapshot with pictures that leave [-1, 1], as an untrained model's hardly do by themselves."""
    folder = tmp_path_factory.mktemp("loud") / snapshot.name
    shutil.copytree(snapshot, folder)
    weights = load_file(folder / WEIGHTS_NAME)
    weights["decoder.conv_out.bias"] += torch.tensor([1.2, -1.2, 0.0])
    save_file(weights, folder / WEIGHTS_NAME)
    return folder


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
        np.save(folder / f"in{number}.npy", np.random.default_rng(number).uniform(-1, 1, shape).astype(np.float32))
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
    assert np.abs(got).max() == 1.0  # the clamp was needed
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


def compile_foreign(source, target):
    """Write compiled code that says otherwise than its source, and asks not to be compared with it."""
    code = compile("raise SystemExit('foreign code ran')", str(source), "exec")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(
        importlib._bootstrap_external._code_to_hash_pyc(  # type: ignore[attr-defined]
            code, b"\0" * 8, checked=False
        )
    )


def load_in_a_process(package):
    code = "import sys, mlflow; mlflow.pyfunc.load_model(sys.argv[1])"
    command = [sys.executable, "-I", "-c", code, str(package)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_loading_writes_no_compiled_code_into_a_package(package, outputs):
    sources = {path.parent for path in package.rglob("*.py")}
    assert len(sources) == 7
    assert all((folder / COMPILED_NAME).is_file() for folder in sources)
    assert compiled_code(package) == []


@pytest.mark.parametrize("name", ["serving.py", "code/*/weights/published.py", "code/*/__init__.py"])
def test_compiled_code_would_run_so_that_only_what_replaces_a_file_of_the_version_gives_it_a_place(
    package, tmp_path, name
):
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    (source,) = copy.glob(name)
    target = Path(importlib.util.cache_from_source(str(source)))
    with pytest.raises(FileExistsError):
        compile_foreign(source, target)
    target.parent.unlink()
    compile_foreign(source, target)
    loaded = load_in_a_process(copy)
    assert "foreign code ran" in loaded.stderr + loaded.stdout
    before, now = file_hashes(package), every_file(copy)
    place = target.parent.relative_to(copy).as_posix()
    assert {place, f"{place}/{target.name}"} <= {name for name in {*before, *now} if before.get(name) != now.get(name)}


def test_a_link_to_a_folder_of_code_is_a_file_that_no_manifest_has(tmp_path):
    (tmp_path / "package" / "code").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text("")
    assert file_hashes(tmp_path / "package") == {}
    (tmp_path / "package" / "code" / "torch").symlink_to(tmp_path / "elsewhere")
    assert list(file_hashes(tmp_path / "package")) == ["code/torch"]


def test_hashes_change_with_any_byte_and_leave_out_compiled_code(package, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("one")
    before = file_hashes(tmp_path)
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "file.pyc").write_text("compiled")
    assert file_hashes(tmp_path) == before
    assert compiled_code(tmp_path) == ["a/__pycache__/file.pyc"]
    assert list(before) == ["a/file"]
    (tmp_path / "a" / "file").write_text("two")
    assert file_hashes(tmp_path)["a/file"] != before["a/file"]
