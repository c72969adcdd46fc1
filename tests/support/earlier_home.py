"""A home as an earlier commit of pikavae writes it, made by that commit's own code."""

import os
import subprocess
import sys
import tarfile

from tests.conftest import TINY
from tests.support.places import ROOT

COMMIT = "4f3c72ab746a070c83009df1d6d1150a62060d3c"
"""The last commit whose keys hashed whole folders of code."""
MAKE = """
from pikavae import operations, runs
from pikavae.home import home
from pikavae.presets import load_config

TINY = {tiny!r}
first = operations.run(load_config("demo", TINY))
second = load_config("demo", {{**TINY, "training.seed": 1}})
operations.train(second, operations.prepare(second))
for run in runs.run_folders(home()):
    if run.run_id != first["run_id"]:  # as if it had been killed before its result was written
        (run.path / runs.TRAIN_NAME).unlink()
        print("unfinished", run.run_id)
config = load_config("demo", TINY)
operations.promote("1", config, reason="the first", force=True)
operations.approve(1, config, reason="seen")
operations.register_model(f"run:{{first['run_id']}}@4", config)
operations.promote("2", config, reason="the second", force=True)
"""


def has_commit():
    """Return True if git's history here reaches back to the commit."""
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{COMMIT}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_earlier_home(folder):
    """Let the commit's code make `folder / "home"`: a champion, a pending request, a finished and an unfinished run.

    Returns:
        The home, and the id of the unfinished run.
    """
    source, home = folder / "source", folder / "home"
    command = ["git", "-C", str(ROOT), "archive", COMMIT, "pikavae", "configs"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as archive,
        tarfile.open(fileobj=archive.stdout, mode="r|") as files,
    ):
        files.extractall(source, filter="data")
    done = subprocess.run(
        [sys.executable, "-P", "-c", MAKE.format(tiny=TINY)],
        env={**os.environ, "PYTHONPATH": str(source), "PIKAVAE_HOME": str(home)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run_id,) = (line.split()[1] for line in done.stdout.splitlines() if line.startswith("unfinished "))
    return home, run_id
