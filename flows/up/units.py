"""Write what keeps `pikavae up` running: a unit for systemd and a file for Docker Compose, from one description."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pikavae.errors import UserError
from pikavae.process.access import AUTH_FILE, Access
from pikavae.process.surroundings import ROOT
from pikavae.workspace.files import write_atomically

FOLDERS = ("PIKAVAE_HOME", "PREFECT_HOME", "HF_HOME", "TORCH_HOME")
"""Variables that name folders, which a container must see at the same place: MLflow keeps absolute addresses."""
OTHERS = ("MLFLOW_TRACKING_URI", "HF_ENDPOINT", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
STOP_SECONDS = 120
"""The time that `up` may take to end: flow runs first, then the worker, then the servers."""
RESTART_SECONDS = 10
MADE_BY = "# Made by `pikavae up"
SECRET = "pikavae_auth"
ANYWHERE = "0.0.0.0"


@dataclass(frozen=True)
class Box:
    """Describes how a machine runs `pikavae up`.

    Attributes:
        access: where the servers listen, and who may ask them.
        mlflow_port: MLflow's port.
        prefect_port: the port of Prefect's server.
        environment: the variables that count, with absolute folders.
    """

    access: Access
    mlflow_port: int
    prefect_port: int
    environment: Mapping[str, str]

    @property
    def home(self) -> Path:
        """Return the state folder."""
        return Path(self.environment["PIKAVAE_HOME"])

    def words(self, host: str) -> list[str]:
        """Return the words of the command after the program, if it listens on `host`."""
        words = ["up", "--host", host, "--mlflow-port", str(self.mlflow_port), "--prefect-port", str(self.prefect_port)]
        name = self.access.name or (self.access.public_name if host != self.access.host else "")
        return [*words, *(["--public-name", name] if name else [])]


def describe_box(access: Access, mlflow_port: int, prefect_port: int, home: Path) -> Box:
    """Describe `pikavae up` with these options and the variables of this process.

    Raises:
        UserError: other machines would reach servers without a password, or a variable holds a password.
    """
    access.require_safe()
    environment = {"PIKAVAE_HOME": str(home)}
    for name in (*FOLDERS[1:], *OTHERS):
        if value := os.environ.get(name):
            environment[name] = str(Path(value).expanduser().absolute()) if name in FOLDERS else value
    if urlsplit(environment.get("MLFLOW_TRACKING_URI", "")).password:
        raise UserError(
            "MLFLOW_TRACKING_URI: it holds a password, which the file would show; unset it here, and let an "
            "environment file of your own set it"
        )
    if access.credentials is not None:
        environment[AUTH_FILE] = str(access.credentials.file)
    return Box(access, mlflow_port, prefect_port, environment)


def systemd_unit(box: Box) -> str:
    """Return a unit of the user's systemd, which needs no root."""
    program = Path(sys.executable).with_name("pikavae")
    command = [str(program)] if program.is_file() else [sys.executable, "-m", "pikavae.entry"]
    start = " ".join(_quote(word).replace("$", "$$") for word in [*command, *box.words(box.access.host)])
    settings = "\n".join(f"Environment={_quote(f'{name}={value}')}" for name, value in box.environment.items())
    return f"""{MADE_BY} --write-systemd`.
[Unit]
Description=pikavae: MLflow, Prefect and a worker
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={start}
WorkingDirectory={str(box.home).replace("%", "%%")}
{settings}
Restart=on-failure
RestartSec={RESTART_SECONDS}
KillMode=mixed
KillSignal=SIGTERM
TimeoutStopSec={STOP_SECONDS}
NoNewPrivileges=yes

[Install]
WantedBy=default.target
"""


def _quote(word: str) -> str:
    """Return a word as systemd reads it in a command or a setting."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if set(escaped) & set(" \t'\";") or not escaped else escaped


def compose_file(box: Box) -> str:
    """Return a file for Docker Compose, whose image is built from this checkout.

    The state folder has the same path inside and outside. The files in it belong to the user who calls this.

    Raises:
        UserError: there is no password, which servers in a container need, or pikavae was not installed from a
            checkout.
    """
    Access(ANYWHERE, box.access.name, box.access.credentials).require_safe()  # a container's ports are open within it
    if not (ROOT / "pyproject.toml").is_file():
        raise UserError(f"up --write-compose: {ROOT} is no checkout of pikavae, of which the image would be built")
    folders = [value for name, value in box.environment.items() if name in FOLDERS]
    environment = {
        **{name: value for name, value in box.environment.items() if name != AUTH_FILE},
        AUTH_FILE: f"/run/secrets/{SECRET}",
        "HOME": "/tmp",  # the user has no home in the image
        "USER": "pikavae",
    }
    health = (
        "from urllib.request import urlopen as ask; "
        f"ask('http://127.0.0.1:{box.mlflow_port}/health'); ask('http://127.0.0.1:{box.prefect_port}/api/health')"
    )
    service: dict[str, Any] = {
        "build": {"context": str(ROOT), "dockerfile_inline": _dockerfile()},
        "command": ["pikavae", *box.words(ANYWHERE)],
        "environment": environment,
        "user": f"{os.getuid()}:{os.getgid()}",
        "ports": [f"{_published(box.access.host)}{port}:{port}" for port in (box.mlflow_port, box.prefect_port)],
        "volumes": [{"type": "bind", "source": folder, "target": folder} for folder in dict.fromkeys(folders)],
        "secrets": [SECRET],
        "init": True,
        "restart": "unless-stopped",
        "stop_grace_period": f"{STOP_SECONDS}s",
        "healthcheck": {"test": ["CMD", "python", "-c", health], "interval": "30s", "start_period": "180s"},
    }
    if shutil.which("nvidia-smi"):
        device = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    secret = {"file": box.environment[AUTH_FILE]}
    tree = {"name": "pikavae", "services": {"up": service}, "secrets": {SECRET: secret}}
    text = yaml.dump(_escape(tree), Dumper=_Dumper, sort_keys=False, width=10_000)
    return f"{MADE_BY} --write-compose`.\n{text}"


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines line by line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _dockerfile() -> str:
    version = ".".join(map(str, sys.version_info[:2]))
    return f"""FROM python:{version}-slim
WORKDIR /pikavae
COPY pyproject.toml constraints.txt prefect.yaml README.md LICENSE ./
COPY configs configs
COPY pikavae pikavae
COPY tasks tasks
COPY flows flows
RUN pip install --no-cache-dir --constraint constraints.txt .
WORKDIR /
"""


def _published(host: str) -> str:
    """Return the beginning of a published port: the address that the host listens on."""
    return f"[{host}]:" if ":" in host else f"{host}:"


def _escape(tree: Any) -> Any:
    """Return a tree of values in which Compose replaces nothing."""
    if isinstance(tree, dict):
        return {name: _escape(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_escape(value) for value in tree]
    return tree.replace("$", "$$") if isinstance(tree, str) else tree


def write_unit(path: Path, text: str, flag: str) -> None:
    """Write a file that this module made the text of; one of another hand is not replaced.

    Raises:
        UserError: the path is a folder, or another file is there.
    """
    if path.is_dir():
        raise UserError(f"{flag} {path}: a folder; name a file in it")
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(MADE_BY):
        raise UserError(f"{flag} {path}: a file of another hand is there; remove it, or name another")
    write_atomically(path, text)
