"""Measure what Prefect adds to the four stages: by `pikavae run`, and through the server and worker of `up`.

    python -m benchmarks.through_worker --rounds 3

Each way is timed from outside, in turn, every second round backwards: a new process that calls the stages in order; the
command `pikavae run` without `up`, which starts a Prefect server of its own and ends it; and a deployment's run, from
the request to its last state, in a home where `pikavae up` runs. Uncached: each has a training of its own to do, of a
few steps. Cached: the same again, which finds every result. Each way has a home of its own, prepared before.

Overhead is the time beyond the direct call of the same kind. Beside it stands the time from the request until the flow
begins, which is the worker's look at the server and the start of Python, and seconds of CPU of the processes of each
way, which other work on the machine moves less. The server's and the worker's CPU counts for the runs of `up`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient

from pikavae.presets import load_config

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, Any] = {
    "data.sprites_count": 64,
    "data.image_size": 32,
    "model.channels": [8, 16],
    "model.norm_groups": 4,
    "training.steps": 20,
    "training.batch_size": 4,
    "training.threads": 1,
    "evaluation.sizes": [],
}
WAYS = ("directly", "pikavae run", "through up")
COLUMNS = ("uncached", "cached", "to the flow's begin", "uncached CPU", "cached CPU")
PAUSE_SECONDS = 0.1
DIRECT = """
import json, sys
from pikavae import operations
from pikavae.presets import parse_config
print(operations.run(operations.Workspace.open(), parse_config(json.loads(sys.argv[1]), where="config"))["version"])
"""


def main() -> None:
    """Print a table of medians in seconds, and the overhead of each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds: int = parser.parse_args().rounds
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="pikavae-through-") as folder, closing(Services(Path(folder, "up"))) as up:
        ways: dict[str, Callable[[int], dict[str, float]]] = {
            "directly": lambda seed: in_a_process(Path(folder, "direct"), seed, directly),
            "pikavae run": lambda seed: in_a_process(Path(folder, "run"), seed, as_a_command),
            "through up": up.run_twice,
        }
        for way in WAYS:
            ways[way](0)  # databases, the prepared set, what the system caches
        for number in range(1, rounds + 1):
            for way in WAYS[:: -1 if number % 2 else 1]:
                found[way].append(ways[way](number))
                print(f"round {number}: {way}: {row(found[way][-1])}", file=sys.stderr, flush=True)
    medians = {way: {name: statistics.median(one[name] for one in found[way]) for name in COLUMNS} for way in WAYS}
    print(f"seconds, medians of {rounds} | {' | '.join(COLUMNS)}\n--- |{' ---: |' * len(COLUMNS)}")
    for way in WAYS:
        print(f"{way} | {row(medians[way])}")
    for way in WAYS[1:]:
        beyond = {name: medians[way][name] - medians[WAYS[0]][name] for name in COLUMNS}
        print(f"{way}, beyond directly | {row(beyond)}")


def row(values: dict[str, float]) -> str:
    """Return the cells of a line."""
    return " | ".join(f"{values[name]:.1f}" for name in COLUMNS)


def config_of(seed: int) -> dict[str, Any]:
    """Return a whole configuration, another training for each seed."""
    return load_config("demo", {**SETTINGS, "training.seed": seed}).model_dump(mode="json")


def directly(seed: int) -> list[str]:
    """Return the command that calls the stages."""
    return [sys.executable, "-P", "-c", DIRECT, json.dumps(config_of(seed))]


def as_a_command(seed: int) -> list[str]:
    """Return the command `pikavae run`."""
    flags: list[str] = []
    for name, value in {**SETTINGS, "training.seed": seed}.items():
        flags += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return [sys.executable, "-P", "-m", "flows.cli", "run", "demo", *flags]


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a process with this home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "PIKAVAE_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def in_a_process(home: Path, seed: int, command: Callable[[int], list[str]]) -> dict[str, float]:
    """Run a command twice: the second time finds everything."""
    values = {"to the flow's begin": 0.0}
    for name in ("uncached", "cached"):
        began, before = time.perf_counter(), cpu_of_children()
        subprocess.run(command(seed), env=environment(home), check=True, capture_output=True)
        values |= {name: time.perf_counter() - began, f"{name} CPU": cpu_of_children() - before}
    return values


def cpu_of_children() -> float:
    """Return the seconds of CPU of all processes that this one has waited for, with what those had waited for."""
    times = os.times()
    return times.children_user + times.children_system


class Services:
    """Runs `pikavae up` in a home."""

    def __init__(self, home: Path) -> None:
        ports = [free_port(), free_port()]
        self.api = f"http://127.0.0.1:{ports[1]}/api"
        flags = ["--mlflow-port", str(ports[0]), "--prefect-port", str(ports[1]), "--json"]
        command = [sys.executable, "-P", "-m", "flows.cli", "up", *flags]
        self.process = subprocess.Popen(
            command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError("`pikavae up` did not start")

    def run_twice(self, seed: int) -> dict[str, float]:
        """Ask for a run of the deployment `pipeline`, twice: the second finds everything."""
        values: dict[str, float] = {}
        with SyncPrefectClient(self.api) as client:
            deployment = client.read_deployment_by_name("pipeline/pipeline")
            for name in ("uncached", "cached"):
                began, before = time.perf_counter(), self.cpu()
                run = client.create_flow_run_from_deployment(deployment.id, parameters={"config": config_of(seed)})
                asked = run.created
                while run.state is None or not run.state.is_final():
                    time.sleep(PAUSE_SECONDS)
                    run = client.read_flow_run(run.id)
                seconds = time.perf_counter() - began
                if not run.state.is_completed() or run.start_time is None or asked is None:
                    raise RuntimeError(f"{run.name}: {run.state.message}")
                values |= {name: seconds, f"{name} CPU": self.cpu() - before}
                values.setdefault("to the flow's begin", (run.start_time - asked).total_seconds())
        return values

    def cpu(self) -> float:
        """Return the seconds of CPU so far of everything that `up` has started, what has ended included."""
        total = 0.0
        parent = psutil.Process(self.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def close(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=300)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
