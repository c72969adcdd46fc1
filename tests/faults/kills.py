"""A training that is killed again and again, and loses what was not synced, against one that is left alone.

    python -m tests.faults.kills --kills 30

The command `pikavae train` is started again and again, and each time the whole tree of its processes is killed
(SIGKILL) at a random moment: while it starts, trains, validates or writes. A kill spares what the system has in its
cache; so afterwards a loss of power is simulated in the runs' folders: of a file that was not synced since it was
written a random part remains, and names that were not synced with their folder are gone or not, by chance. In the end
the weights must be those of an undisturbed run, bit for bit, and MLflow's history the same, point for point. On, in
both: discriminator, EMA, accumulation, flips.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.places import ROOT

TIMED = ("per_second", "wait_fraction")
SETTINGS: dict[str, Any] = {
    "data.source": "sprites",
    "data.sprites_count": 40,
    "data.image_size": 32,
    "data.flip": "True",
    "model.channels": [16, 16, 16],
    "model.num-res-blocks": 1,
    "model.norm-groups": 8,
    "model.mid-attention": "False",
    "loss.adversarial-weight": 0.5,
    "loss.adversarial-start": 0.2,
    "training.batch-size": 4,
    "training.accumulation": 2,
    "training.ema-decay": 0.99,
    "training.threads": 1,
    "training.log-every": 1,
    "training.preview-every": 7,
    "training.validate-every": 5,
    "training.checkpoint-every": 10,
    "training.device": "cpu",
}
SYNC_LOG = """
# Read by every Python process of the benchmark: writes down what is synced.
import json, os, stat
_fsync = os.fsync
def fsync(fd):
    _fsync(fd)
    fd = fd if isinstance(fd, int) else fd.fileno()
    about = os.fstat(fd)
    line = {"inode": about.st_ino, "size": about.st_size, "mtime": about.st_mtime_ns}
    if stat.S_ISDIR(about.st_mode):
        line["names"] = os.listdir(fd)
    log = os.open(os.environ["SYNC_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(log, json.dumps(line).encode() + b"\\n")
    os.close(log)
os.fsync = fsync
"""


def main() -> int:
    """Print what happened at each kill, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seconds", type=float, default=6.0, help="the most that a training may go on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="pikavae-kills-") as folder:
        calm, rough = Path(folder, "calm"), Path(folder, "rough")
        began = time.monotonic()
        assert run_to_end(calm, arguments.steps) == 0
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        for number in range(arguments.kills):
            lost, after = kill_once(rough, arguments.steps, arguments.seconds, chance)
            print(f"kill {number + 1:3} after {after:5.1f} s at {place(rough)}; lost {lost}", flush=True)
        assert run_to_end(rough, arguments.steps) == 0
        same_weights = weights(calm) == weights(rough)
        expected, found = history(calm), history(rough)
        print(f"weights: {'equal bit for bit' if same_weights else 'DIFFERENT'}")
        print(f"history: {len(expected)} points, {'the same' if found == expected else 'DIFFERENT'}")
        if found != expected:
            print("missing", sorted(set(expected) - set(found))[:5], "extra", sorted(set(found) - set(expected))[:5])
        return 0 if same_weights and found == expected else 1


def command(steps: int) -> list[str]:
    """The training, as a user would start it."""
    flags: list[str] = []
    for name, value in {**SETTINGS, "training.steps": steps}.items():
        flags += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return [sys.executable, "-m", "flows.cli", "train", "demo", *flags]


def begin(home: Path, steps: int) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, with a note of everything that is synced."""
    shim = home.parent / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "sitecustomize.py").write_text(SYNC_LOG)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))},
        "PIKAVAE_HOME": str(home),
        "SYNC_LOG": str(home.parent / f"{home.name}.sync"),
        "PYTHONPATH": os.pathsep.join([str(shim), str(ROOT)]),
    }
    return subprocess.Popen(
        command(steps), cwd=home.parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def run_to_end(home: Path, steps: int) -> int:
    """Start it and wait; its exit status."""
    process = begin(home, steps)
    said = process.communicate()[1]
    if process.returncode:
        sys.stderr.write(said.decode())
    return process.returncode


def kill_once(home: Path, steps: int, seconds: float, chance: random.Random) -> tuple[str, float]:
    """Start it, kill all its processes at a random moment, and lose what was not synced.

    One time in five the moment lies in its start, else up to `seconds` after the first word of the training.

    Returns:
        What was lost, in words, and how many seconds it went on.
    """
    process, began = begin(home, steps), time.monotonic()
    moment = chance.uniform(0.0, seconds)
    if chance.random() >= 0.2:
        before = progress(home)
        while progress(home) == before and process.poll() is None:
            time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=moment)
    for pid in descendants(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    lost = lose_unsynced(home / "runs", home.parent / f"{home.name}.sync", chance)
    return lost, time.monotonic() - began


def progress(home: Path) -> list[tuple[str, int]]:
    """Changes whenever a training says how far it is."""
    return [(str(path), path.stat().st_mtime_ns) for path in (home / "runs").glob("*/progress.json")]


def descendants(pid: int) -> list[int]:
    """A process and all below it, which are stopped first so that none is missed."""
    import psutil

    try:
        top = psutil.Process(pid)
        return [pid, *(child.pid for child in top.children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def lose_unsynced(folder: Path, log: Path, chance: random.Random) -> str:
    """What a loss of power might do to a folder, by a note of all that was synced; what was lost, in words."""
    files: dict[int, tuple[int, int]] = {}
    names: dict[int, set[str]] = {}
    for line in log.read_text().splitlines() if log.exists() else []:
        note = json.loads(line)
        files[note["inode"]] = (note["size"], note["mtime"])
        if "names" in note:
            names[note["inode"]] = set(note["names"])
    cut = gone = 0
    for path in sorted(folder.rglob("*"), reverse=True):  # what is inside a folder before the folder
        about = path.lstat()
        known = names.get(path.parent.stat().st_ino, set())
        if path.name not in known and path.suffix != ".lock" and chance.random() < 0.5:
            gone += 1
            if path.is_dir():
                for inner in sorted(path.rglob("*"), reverse=True):
                    inner.rmdir() if inner.is_dir() else inner.unlink()
                path.rmdir()
            else:
                path.unlink()
        elif path.is_file() and files.get(about.st_ino) != (about.st_size, about.st_mtime_ns):
            durable = min(files.get(about.st_ino, (0, 0))[0], about.st_size)
            with path.open("r+b") as file:
                file.truncate(chance.randint(durable, about.st_size))
            cut += 1
    return f"{gone} names, the end of {cut} files"


def place(home: Path) -> str:
    """How far the training was."""
    steps = [path.name for path in sorted((home / "runs").glob("*/checkpoints/step-*"))]
    return steps[-1] if steps else "its beginning"


def weights(home: Path) -> list[str]:
    """The hashes of all snapshots and states that are kept."""
    paths = sorted((home / "runs").glob("*/*/step-*/*.safetensors"))
    return [f"{path.parent.name}/{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in paths]


def history(home: Path) -> list[tuple[str, int, float]]:
    """Every point in MLflow that measures no time."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    (run,) = client.search_runs([found.experiment_id for found in client.search_experiments()])
    assert run.info.status == "FINISHED", run.info.status
    return sorted(
        (name, int(point.step), float(point.value))
        for name in run.data.metrics
        if not name.endswith(TIMED) and not name.startswith("system/")
        for point in client.get_metric_history(run.info.run_id, name)
    )


if __name__ == "__main__":
    sys.exit(main())
