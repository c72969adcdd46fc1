"""A snapshot as an MLflow model that loads in any process, by itself: weights, code and requirements, and no pickle."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pikavae
from pikavae.config import content_hash
from pikavae.files import sha256_of
from pikavae.model.snapshot import CONFIG_NAME, SETTINGS_NAME, WEIGHTS_NAME
from pikavae.registry.store import quiet_mlflow

SNAPSHOT_FOLDER = "artifacts/snapshot"
LOADED_AS_NAME = "registered_model_meta"
CARRIED_CODE = (
    "__init__.py",
    "config.py",
    "errors.py",
    "model",
    *(f"data/{name}.py" for name in ("__init__", "colours", "geometry", "pictures", "signatures")),
)
REQUIREMENTS = ("mlflow", "numpy", "pillow", "pydantic", "pyyaml", "safetensors", "torch")


def build_package(snapshot: Path, out: Path, *, image_size: int, metadata: Mapping[str, Any]) -> None:
    """Write the MLflow model of a snapshot to the folder `out`, which must not exist yet.

    It takes (B, 3, H, W) float32 in [-1, 1], any B, H and W, and returns reconstructions by the posterior's mode,
    clamped to [-1, 1]; and picture files, which are a sixteenth of that in a request, for PNG files of the same. A
    signature of MLflow that takes both says so little that the model checks its input itself. Only the three files of
    a snapshot are taken over.

    Args:
        snapshot: a snapshot or diffusers folder.
        out: where the package goes.
        image_size: the side, in pixels, that the model was trained at; kept in the metadata.
        metadata: more of it, JSON values.
    """
    quiet_mlflow()
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    anything = Schema([TensorSpec(np.dtype(object), (-1,))])
    with tempfile.TemporaryDirectory() as temporary:
        code = _carry_code(Path(temporary))
        files = Path(temporary, "snapshot")
        files.mkdir()
        for name in (CONFIG_NAME, WEIGHTS_NAME, SETTINGS_NAME):
            if (snapshot / name).exists():
                shutil.copyfile(snapshot / name, files / name)  # MLflow refuses links
        mlflow.pyfunc.save_model(
            path=out,
            python_model=str(Path(__file__).with_name("serving.py")),
            code_paths=[str(code)],
            artifacts={"snapshot": str(files)},
            input_example=np.zeros((1, 3, 8, 8), np.float32),
            signature=ModelSignature(inputs=anything, outputs=anything),
            pip_requirements=[f"{name}=={_release(name)}" for name in REQUIREMENTS],
            model_config={"code": code.name},
            metadata={"image_size": image_size, **metadata},
        )
    _forget_paths(out)


def _forget_paths(package: Path) -> None:
    """Take this machine's paths out of the package's description, where MLflow only reads their last parts."""
    from mlflow.models import Model

    model = Model.load(str(package))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = "serving.py"
    flavor["artifacts"]["snapshot"]["uri"] = SNAPSHOT_FOLDER
    model.save(str(package / "MLmodel"))


def file_hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below `folder`, by its path in it.

    Left out is what loading a package writes into it: compiled code, and MLflow's note of the name asked for.
    """
    return {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parent.name != "__pycache__" and path != folder / LOADED_AS_NAME
    }


def _carry_code(folder: Path) -> Path:
    """Copy into `folder`, as a package of its own name, what the model needs of pikavae.

    The name has a hash of the content, so that packages of several versions load into one process, and a process that
    has loaded one can still import pikavae.
    """
    root = Path(pikavae.__file__).parent
    paths = [
        path
        for name in CARRIED_CODE
        for path in ([root / name] if name.endswith(".py") else (root / name).glob("*.py"))
    ]
    texts = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in sorted(paths)}
    package = folder / f"pikavae_{content_hash(texts)}"
    for name, text in texts.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            re.sub(r"^(\s*(?:from|import) )pikavae\b", rf"\1{package.name}", text, flags=re.M), encoding="utf-8"
        )
    return package


def _release(name: str) -> str:
    """An installed version without the suffix that names a build (`2.11.0+cpu`), which no registry serves."""
    return importlib.metadata.version(name).partition("+")[0]
