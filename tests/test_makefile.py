"""The environment that `make` makes: stopped at any moment, the same command makes it whole."""

import os
import shutil
import subprocess

import pytest

from tests.support.places import ROOT

FAKE_PYTHON = """#!/bin/sh
# Stands for python, venv and pip: installs two packages, or is stopped before the second.
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python; test "$STOP" != venv || exit 143 ;;
  *"pip install"*)
    case "$*" in *dev*) name=dev ;; *) name=plain ;; esac
    test ! -e .venv/half-$name || exit 0
    echo half > .venv/half-$name
    test "$STOP" != $name || exit 143
    echo whole > .venv/half-$name ;;
esac
"""


@pytest.mark.parametrize("stopped", ["venv", "plain", "dev"])
def test_an_environment_that_was_stopped_is_made_whole_by_the_same_command(tmp_path, stopped):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    fake = tmp_path / "python"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    def make(stop):
        command = ["make", f"PYTHON={fake}", ".venv/installed-dev"]
        environment = {"PATH": os.environ["PATH"], "STOP": stop}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode

    assert make(stopped) != 0
    assert make("") == 0
    assert not (tmp_path / ".venv" / "installing").exists()
    assert {(tmp_path / ".venv" / f"half-{name}").read_text() for name in ("plain", "dev")} == {"whole\n"}
    before = (tmp_path / ".venv" / "installed").stat().st_mtime_ns
    assert make("venv") == 0  # nothing is left to do
    assert (tmp_path / ".venv" / "installed").stat().st_mtime_ns == before
