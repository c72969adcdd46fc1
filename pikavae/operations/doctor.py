"""What is here, what is missing, and how to mend it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch

from pikavae.errors import PikavaeError
from pikavae.features.weights import INCEPTION_FIELD, LPIPS_FIELD, OF_EVALUATION, digest_of
from pikavae.home import home

GIB = 2**30
PACKAGES = ("torch", "torchvision", "datasets", "transformers", "mlflow", "prefect", "fastapi", "sqlalchemy", "pillow")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        status: `ok`, `warning` (works, with a limit) or `error` (mend it first).
        detail: what was found.
        remedy: how to mend it; empty when there is nothing to mend.
    """

    name: str
    status: Literal["ok", "warning", "error"]
    detail: str
    remedy: str = ""


def doctor() -> list[Check]:
    """Look at the interpreter, the packages, the devices, the state folder and the tracking store."""
    weights = (_weights("LPIPS weights", LPIPS_FIELD), _weights("rFID weights", INCEPTION_FIELD))
    return [_python(), *map(_package, PACKAGES), _device(), _home(), _space(), _tracking(), _hub(), *weights]


def _python() -> Check:
    return Check("python", "ok", ".".join(map(str, sys.version_info[:3])))


def _package(name: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "error", "not installed", "run `make run` again, or install with constraints.txt")


def _device() -> Check:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        return Check("device", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    detail = f"CPU with {torch.get_num_threads()} threads, no GPU"
    return Check("device", "warning", detail, "full-size models want a GPU; `demo` is made for a CPU")


def _home() -> Check:
    path = home()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return Check("state folder", "error", f"{path} cannot be written", "set PIKAVAE_HOME to a folder of yours")
    return Check("state folder", "ok", str(path))


def _space() -> Check:
    path = home()
    nearest = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / GIB
    if free < 5:
        return Check(
            "disk", "warning", f"{free:.1f} GiB free", "full-size checkpoints take about 1.4 GB each: free some"
        )
    return Check("disk", "ok", f"{free:.0f} GiB free")


def _tracking() -> Check:
    from pikavae.tracking import connect, tracking_uri

    uri = tracking_uri(home())
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        return Check("tracking", "ok", f"{uri}, made at the first run")
    try:
        connect(home())
    except (PikavaeError, sqlite3.Error) as error:
        return Check("tracking", "error", str(error), "start the server, or unset MLFLOW_TRACKING_URI")
    return Check("tracking", "ok", uri)


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return Check("hub", "warning", "HF_HUB_OFFLINE is set", "hub data sets need it unset; folders and files do not")
    return Check("hub", "ok", os.environ.get("HF_ENDPOINT", "reached when a hub id is used"))


def _weights(name: str, field: str) -> Check:
    """The file of weights in torch's cache that evaluations measure with where `field` names none."""
    weights = OF_EVALUATION[field]
    path = weights.cached
    remedy = f"`curl -fL --create-dirs -o {path} {weights.address}`, or name a copy in {field}"
    if not path.is_file():
        return Check(name, "warning", f"no {weights.network}: evaluations leave out what needs it", remedy)
    if not weights.is_published(digest_of(path)):
        return Check(name, "warning", f"{path} is not the published file", remedy)
    return Check(name, "ok", str(path))
