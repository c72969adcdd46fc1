"""Packs a snapshot as an MLflow model that loads without pikavae: weights, code, requirements, and no pickle."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pikavae
from pikavae.config import content_hash
from pikavae.model.snapshot import CONFIG_NAME, RUN_CONFIG_NAME, WEIGHTS_NAME
from pikavae.tracker.mlflow_files import quiet_mlflow
from pikavae.workspace.files import remove_path, sha256_of

SNAPSHOT_FOLDER = "artifacts/snapshot"
LOADED_AS_NAME = "registered_model_meta"
COMPILED_NAME = "__pycache__"
COMPILED = "compiled code"
NO_COMPILED_CODE = (
    "A file in the place of Python's folder of compiled code, which Python would run instead of the source beside it.\n"
    "While this file is here there is none, and whatever replaces it differs from the manifest of this version.\n"
)
CARRIED_CODE = (
    "__init__.py",
    "config",
    "errors.py",
    "model",
    "weights",
    "data/__init__.py",
    "data/pictures",
)
REQUIREMENTS = ("mlflow", "numpy", "pillow", "pydantic", "pyyaml", "safetensors", "torch")


def build_package(snapshot: Path, out: Path, *, image_size: int, metadata: Mapping[str, Any]) -> None:
    """Write the MLflow model of a snapshot to the folder `out`, which must not exist yet.

    The model takes (B, C, H, W) float32 in [-1, 1], C its pictures' channels, any B, H and W, and returns
    reconstructions by the posterior's mode, clamped to [-1, 1]. It also takes picture files, a sixteenth of that size
    in a request, and returns PNG files; or .npy files, where PNG cannot hold the channels.
    An MLflow signature that allows both says little, so the model checks its input. Only the three files of a snapshot
    are copied.

    Args:
        snapshot: a snapshot or diffusers folder.
        out: the package's folder.
        image_size: the side, in pixels, that the model was trained at; kept in the metadata.
        metadata: further metadata, JSON values.
    """
    quiet_mlflow()
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    channels = json.loads((snapshot / CONFIG_NAME).read_text(encoding="utf-8")).get("in_channels", 3)
    anything = Schema([TensorSpec(np.dtype(object), (-1,))])
    with tempfile.TemporaryDirectory() as temporary:
        code = _carry_code(Path(temporary))
        files = Path(temporary, "snapshot")
        files.mkdir()
        for name in (CONFIG_NAME, WEIGHTS_NAME, RUN_CONFIG_NAME):
            if (snapshot / name).exists():
                shutil.copyfile(snapshot / name, files / name)  # MLflow refuses links
        mlflow.pyfunc.save_model(
            path=out,
            python_model=str(Path(__file__).with_name("serving.py")),
            code_paths=[str(code)],
            artifacts={"snapshot": str(files)},
            input_example=np.zeros((1, channels, 8, 8), np.float32),
            signature=ModelSignature(inputs=anything, outputs=anything),
            pip_requirements=[f"{name}=={_release(name)}" for name in REQUIREMENTS],
            model_config={"code": code.name},
            metadata={"image_size": image_size, **metadata},
        )
    _forget_paths(out)
    _keep_compiled_code_out(out)


def _forget_paths(package: Path) -> None:
    """Replace local absolute paths in the package's description; MLflow reads only their last parts."""
    from mlflow.models import Model

    model = Model.load(str(package))
    flavor = model.flavors["python_function"]
    flavor["model_code_path"] = "serving.py"
    flavor["artifacts"]["snapshot"]["uri"] = SNAPSHOT_FOLDER
    model.save(str(package / "MLmodel"))


def _keep_compiled_code_out(package: Path) -> None:
    """Put a file where Python would look for compiled code, in each folder of code of the package.

    Compiled code is not in a version's manifest. Python may run it whatever the source says, because its header can
    switch off the comparison with the source.
    """
    for folder in {path.parent for path in package.rglob("*.py")}:
        (folder / COMPILED_NAME).write_text(NO_COMPILED_CODE, encoding="utf-8")


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below `folder`, by its path in it.

    A link that leads to no file is reported as such, because a folder of code can hide behind it. Two things that
    loading can write into a package are left out: compiled code, which `compiled_code` lists, and MLflow's note of the
    requested name.
    """
    return {
        path.relative_to(folder).as_posix(): sha256_of(path) if path.is_file() else "a link that leads to no file"
        for path in sorted(folder.rglob("*"))
        if (path.is_file() or path.is_symlink())
        and path.parent.name != COMPILED_NAME
        and path != folder / LOADED_AS_NAME
    }


def every_file(folder: Path) -> dict[str, str]:
    """Return the result of `file_hashes`, and for each compiled file the text `COMPILED`, which no manifest has."""
    return {**file_hashes(folder), **dict.fromkeys(compiled_code(folder), COMPILED)}


def compiled_code(folder: Path) -> list[str]:
    """List the paths of compiled code below `folder`, which Python runs instead of the source."""
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.parent.name == COMPILED_NAME
    )


def remove_compiled_code(folder: Path) -> list[str]:
    """Remove the folders of compiled code below `folder`, and return the paths in them. Python compiles again."""
    removed = compiled_code(folder)
    for path in [path for path in folder.rglob(COMPILED_NAME) if path.is_dir() and not path.is_symlink()]:
        remove_path(path)
    return removed


def _carry_code(folder: Path) -> Path:
    """Copy the parts of pikavae that the model needs into `folder`, as a package with a name of its own.

    The name has a hash of the content. So packages of several versions load into one process, and a process that loaded
    one can still import pikavae.
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
    """Return an installed version without the suffix that names a build (`2.11.0+cpu`), which no registry serves."""
    return importlib.metadata.version(name).partition("+")[0]
