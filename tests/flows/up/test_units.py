"""What keeps `pikavae up` running: a unit that systemd takes, and a file with what Docker Compose needs."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from flows.command_line.arguments import find_command, read_arguments
from flows.up.units import compose_file, describe_box, systemd_unit
from pikavae.errors import UserError
from pikavae.process.access import AUTH_FILE, Access, Credentials
from tests.support.places import ROOT

SECRET = "a-password-of-mine"
KINDS = {
    "build": dict,
    "command": list,
    "environment": dict,
    "user": str,
    "ports": list,
    "volumes": list,
    "secrets": list,
    "init": bool,
    "restart": str,
    "stop_grace_period": str,
    "healthcheck": dict,
}
"""What the Compose Specification calls these fields of a service, and their types."""


@pytest.fixture
def access(tmp_path):
    path = tmp_path / "auth"
    path.write_text(f"me:{SECRET}")
    path.chmod(0o600)
    return Access("0.0.0.0", "box", Credentials("me", SECRET, path))


def box_of(access, home, **variables):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return describe_box(access, 5001, 4201, home)


def options_of(words):
    """What the terminal reads of the words of a command."""
    name, rest = find_command(list(words))
    assert name == "up"
    return read_arguments(name, rest).options


def test_the_unit_starts_what_the_options_said(access, tmp_path):
    home = tmp_path / 'a home, "100 %" $HOME'
    unit = systemd_unit(box_of(access, home, HF_HUB_OFFLINE="1", HF_HOME="~/hub"))
    fields = dict(line.split("=", 1) for line in unit.splitlines() if line[:1].isupper() and "Environment" not in line)
    program, *words = shlex.split(fields["ExecStart"].replace("%%", "%").replace("$$", "$"))
    assert Path(program) == Path(sys.executable).with_name("pikavae")
    options = options_of(words)
    assert (options.host, options.public_name) == ("0.0.0.0", "box")
    assert (options.mlflow_port, options.prefect_port) == (5001, 4201)
    lines = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("Environment=")]
    variables = dict(shlex.split(line.replace("%%", "%"))[0].split("=", 1) for line in lines)
    assert variables == {
        "PIKAVAE_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(Path("~/hub").expanduser()),
        "TORCH_HOME": os.environ["TORCH_HOME"],
        "OMP_NUM_THREADS": os.environ["OMP_NUM_THREADS"],
        AUTH_FILE: str(access.credentials.file),
    }
    assert SECRET not in unit
    assert fields["Restart"] == "on-failure"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("name", ["home", "a home of 100 %"])
def test_systemd_takes_the_unit(access, tmp_path, name):
    home = tmp_path / name
    home.mkdir()
    path = tmp_path / "pikavae.service"
    path.write_text(systemd_unit(box_of(access, home)))

    def verify():
        command = ["systemd-analyze", "verify", "--user", str(path)]
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert verify() == (0, "")
    path.write_text(path.read_text().replace("Restart=on-failure", "Restart=perhaps"))
    assert "pikavae.service" in verify()[1]  # it reads the file


def test_the_compose_file_has_what_compose_requires(access, tmp_path):
    home, weights = tmp_path / "home of $USER", tmp_path / "torch"
    tree = yaml.safe_load(compose_file(box_of(access, home, TORCH_HOME=str(weights))))
    (service,) = tree["services"].values()
    assert {name: type(service[name]) for name in KINDS} == KINDS
    assert service.keys() - KINDS.keys() <= {"deploy"}
    program, *words = service["command"]
    options = options_of(words)
    assert (program, options.host, options.public_name) == ("pikavae", "0.0.0.0", "box")
    assert service["ports"] == ["0.0.0.0:5001:5001", "0.0.0.0:4201:4201"]
    kept = [str(home).replace("$", "$$"), str(weights)]
    assert service["volumes"] == [{"type": "bind", "source": folder, "target": folder} for folder in kept]
    assert service["environment"]["PIKAVAE_HOME"] == kept[0]
    (secret,) = service["secrets"]
    assert tree["secrets"] == {secret: {"file": str(access.credentials.file)}}
    assert service["environment"][AUTH_FILE] == f"/run/secrets/{secret}"
    assert SECRET not in json.dumps(tree)
    assert service["healthcheck"]["test"][0] == "CMD"
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert service["build"]["context"] == str(ROOT)
    copied = [line.split()[1:-1] for line in service["build"]["dockerfile_inline"].splitlines() if line[:4] == "COPY"]
    assert all((ROOT / name).exists() for names in copied for name in names)


def test_a_container_is_never_open_without_a_password_and_is_published_where_the_host_listens(tmp_path):
    with pytest.raises(UserError, match=r"^--host 0\.0\.0\.0: other machines reach it"):
        compose_file(box_of(Access(), tmp_path))
    local = Access("127.0.0.1", credentials=Credentials("me", SECRET, tmp_path / "auth"))
    (service,) = yaml.safe_load(compose_file(box_of(local, tmp_path)))["services"].values()
    assert service["ports"] == ["127.0.0.1:5001:5001", "127.0.0.1:4201:4201"]
    options = options_of(service["command"][1:])
    assert (options.host, options.public_name) == ("0.0.0.0", "127.0.0.1")


def test_a_password_in_an_address_is_not_written(access, tmp_path):
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI: it holds a password"):
        box_of(access, tmp_path, MLFLOW_TRACKING_URI="postgresql://me:secret@db/mlflow")


def test_the_command_writes_both_and_replaces_only_its_own(access, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(AUTH_FILE, str(access.credentials.file))
    unit, compose = tmp_path / "units" / "pikavae.service", tmp_path / "compose.yaml"
    words = ["up", "--write-systemd", str(unit), "--write-compose", str(compose), "--json"]
    for _ in range(2):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == {"files": {"systemd": str(unit), "compose": str(compose)}}
    compose.write_text("services: {}\n")
    assert main(words) == 2
    assert f"--write-compose {compose}: a file of another hand is there" in capsys.readouterr().err
    assert main(["up", "--write-systemd", str(tmp_path)]) == 2
    assert f"--write-systemd {tmp_path}: a folder" in capsys.readouterr().err
    assert not (Path(os.environ["PIKAVAE_HOME"])).exists()


def test_up_refuses_to_open_before_anything_starts(capsys):
    assert main(["up", "--host", "0.0.0.0"]) == 2
    assert capsys.readouterr().err.startswith("pikavae: --host 0.0.0.0: other machines reach it, so both servers need")
    assert not (Path(os.environ["PIKAVAE_HOME"])).exists()
