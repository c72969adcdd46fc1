"""Stop `pikavae run` in each stage by each signal, and look at what is left: `python -m tests.faults.stops`.

A matrix of {SIGINT, SIGTERM, SIGHUP} x {one process, its group} x {prepare, train, evaluate, register} x {`run` without
`pikavae up`, `run` beside it, the stage's own command}, each on a pseudo-terminal of its own. The group gets SIGINT by
a Ctrl-C that is typed, and SIGHUP by the end of the terminal. A line for each cell: exit status, seconds from the
signal to the end, the status of the run in MLflow, the state of the flow run in Prefect, and how many processes are
left. Wanted are 75, a few seconds, KILLED (nothing where no run is written to), CRASHED (nothing without a flow) and 0.

    python -m tests.faults.stops [--stages train ...] [--signals SIGINT ...] [--ways none up own] [--program PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import TINY
from tests.support.mlflow_server import free_port

WAYS = ("none", "up", "own")
STAGES = ("prepare", "train", "evaluate", "register")
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
PATIENCE_SECONDS = 240
MARK = """
# Python reads a module of this name in every process: in that of the command, each stage leaves a file when it begins.
import os, sys
if os.environ.get("STOPS_MARK") and {"run", "prepare", "evaluate", "register"} & set(sys.orig_argv):
    import pathlib
    import pikavae.operations.running.pipeline as pipeline
    from pikavae.registry import versions

    def marked(owner, name, stage):
        real = getattr(owner, name)
        def work(*arguments, **options):
            pathlib.Path(os.environ["STOPS_MARK"], stage).touch()
            return real(*arguments, **options)
        setattr(owner, name, work)
    marked(pipeline, "prepare_data", "prepare")
    marked(pipeline, "measure", "evaluate")
    marked(versions, "register", "register")
"""
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in (signal.SIGINT, signal.SIGHUP):  # a script's background jobs, and those of nohup, have them ignored
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
VARIATIONS = {
    "prepare": lambda number: {"data.sprites_count": "4000", "data.image_size": "64", "data.sprites_seed": f"{number}"},
    "train": lambda number: {"training.steps": "1000000", "training.seed": f"{number}"},
    "evaluate": lambda number: {"evaluation.panel_images": f"{number % 64 + 1}"},
    "register": lambda number: {"registry.model_name": f"model-{number}"},
}
"""What gives a stage something to do, in a home where all else is done."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command that was stopped."""

    status: int
    seconds: float
    mlflow: str
    prefect: str
    left: int
    said: str


class Home:
    """A home, and a folder for the marks of the commands in it."""

    def __init__(self, folder: Path, program: list[str]) -> None:
        self.home, self.marks, self.program = folder / "home", folder / "marks", program
        self.run_id = ""
        self.marks.mkdir(parents=True)
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(MARK)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))},
            "PIKAVAE_HOME": str(self.home),
            "PYTHONPATH": str(folder / "site"),
            "STOPS_MARK": str(self.marks),
            "HF_HUB_OFFLINE": "1",
        }

    def words(self, command: str, overrides: dict[str, str]) -> list[str]:
        """A command with the tiny configuration and some fields over it; the finished run has its own."""
        of_a_run = command in ("evaluate", "register")
        words = [*self.program, command, f"run:{self.run_id}" if of_a_run else "demo"]
        for name, value in (overrides if of_a_run else {**TINY, **overrides}).items():
            words += [f"--{name}", *([value] if isinstance(value, str) else value)]
        return words

    def finish_one(self) -> None:
        """A whole run, so that a cell has only its own stage to do."""
        command = [*self.words("run", {}), "--json"]
        done = subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE)
        self.run_id = json.loads(done.stdout.splitlines()[-1])["run_id"]

    def stop(self, stage: str, number: int, name: str, *, group: bool, command: str = "run") -> Outcome:
        """Run a variation, send the signal in the stage, and look at what is left."""
        for mark in self.marks.iterdir():
            mark.unlink()
        journals = set(self.home.glob("runs/*/journal.jsonl"))
        flow_runs, runs = self.flow_runs(), self.runs()
        others = set(self.processes())
        process, terminal = on_a_terminal(self.words(command, VARIATIONS[stage](number)), self.environment)
        said = bytearray()

        def begun() -> bool:
            drain(terminal, said)
            assert process.poll() is None, said.decode(errors="replace")
            if stage == "train":
                return any(path.stat().st_size > 500 for path in set(self.home.glob("runs/*/journal.jsonl")) - journals)
            return (self.marks / stage).exists()

        wait_for(begun, f"stage {stage}", 0.02)
        time.sleep(1.0 if stage == "prepare" else 0.2)
        began = time.monotonic()
        hang_up = group and name == "SIGHUP"
        if hang_up:
            os.close(terminal)
        elif group and name == "SIGINT":
            os.write(terminal, b"\x03")
        else:
            (os.killpg if group else os.kill)(process.pid, getattr(signal, name))
        try:
            wait_for(lambda: hang_up or drain(terminal, said) or process.poll() is not None, "the end", 0.02)
            process.wait(PATIENCE_SECONDS)
        except (AssertionError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        seconds = time.monotonic() - began
        if not hang_up:
            os.close(terminal)
        left = [pid for pid in self.processes() if pid not in others]
        states = [state for run, state in self.flow_runs().items() if run not in flow_runs]
        statuses = [status for run, (status, end) in self.runs().items() if runs.get(run) != (status, end)]
        text = said.decode(errors="replace").strip()
        return Outcome(
            process.returncode, seconds, ", ".join(statuses) or "-", ", ".join(states) or "-", len(left), text
        )

    def processes(self) -> list[int]:
        """All processes that were started in this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("PIKAVAE_HOME") == str(self.home):
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def flow_runs(self) -> dict[str, str]:
        """The state of each flow run, as Prefect's database has it."""
        return dict(query(self.home / "prefect" / "prefect.db", "SELECT id, state_type FROM flow_run"))

    def runs(self) -> dict[str, tuple[str, str]]:
        """Status and end of each run, as MLflow's database has them."""
        rows = query(self.home / "mlflow.db", "SELECT run_uuid, status, end_time FROM runs")
        return {run: (status, end) for run, status, end in rows}


def query(database: Path, sql: str) -> list[Any]:
    """Rows of a database that may not be there yet."""
    if not database.exists():
        return []
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return connection.execute(sql).fetchall()


def on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command as the leader of a session with a pseudo-terminal of its own."""
    terminal, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", TAKE_TERMINAL, *command],
        env=environment,
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
    )
    os.close(other)
    return process, terminal


def drain(terminal: int, said: bytearray) -> None:
    """Read what a terminal shows, so that nobody waits to write to it."""
    while select.select([terminal], [], [], 0)[0]:
        try:
            said += os.read(terminal, 65536)
        except OSError:  # nobody writes there any more
            return


def wait_for(condition, what: str, interval: float) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_SECONDS} s"
        time.sleep(interval)


@contextmanager
def services(home: Home):
    """`pikavae up` in a home."""
    ports = ["--mlflow-port", str(free_port()), "--prefect-port", str(free_port())]
    command = [*home.program, "up", *ports, "--json"]
    up = subprocess.Popen(command, env=home.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert json.loads(up.stdout.readline())["urls"]
        yield
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=120)


def main() -> None:
    """Run the matrix, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--signals", nargs="+", default=SIGNALS, choices=SIGNALS)
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS)
    parser.add_argument("--program", nargs="+", default=[sys.executable, "-m", "flows.cli"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pikavae-stops-") as folder:
        home = Home(Path(folder), options.program)
        home.finish_one()
        print("| way | stage | signal | to | status | seconds | MLflow | Prefect | left |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
        if "none" in options.ways:
            stop_all(home, options, "none", 1)
        if "own" in options.ways:
            stop_all(home, options, "own", 26)
        if "up" in options.ways:
            with services(home):
                stop_all(home, options, "up", 101)


def stop_all(home: Home, options: argparse.Namespace, way: str, number: int) -> None:
    """All cells of one way, a line each."""
    for stage in options.stages:
        for name in options.signals:
            for group in (False, True):
                done = home.stop(stage, number, name, group=group, command=stage if way == "own" else "run")
                number += 1
                cells = [way, stage, name, "group" if group else "one", done.status, f"{done.seconds:.1f}"]
                print("|", " | ".join(map(str, [*cells, done.mlflow, done.prefect, done.left])), "|", flush=True)
                if done.status != 75 or "Traceback" in done.said:
                    print("\n".join(f"    {line}" for line in done.said.splitlines()[-15:]), flush=True)


if __name__ == "__main__":
    main()
