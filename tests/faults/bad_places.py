"""Every command against every bad place: a disk that is full, read-only or gone, a file in the way, no permission.

    python -m tests.faults.bad_places [--commands NAME ...] [--places NAME ...] [--json FILE]

It needs to be root on Linux, mounts small file systems in a mount namespace of its own, and leaves nothing behind. Each
cell begins with the same finished home (or an empty one, for the first run), breaks the place, gives the command, looks
at what it said and at what was there before, repairs the place and gives the command again. Commands are forked from a
process that has imported the slow libraries; servers, training and workers are processes of their own, as always.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from tests.conftest import TINY as SMALL
from tests.faults.privileges import end_session, obey_permissions, own_all
from tests.support.places import ROOT

NOBODY = 65534
TINY = [
    *(word for name, value in SMALL.items() for word in (f"--{name}", *([value] if isinstance(value, str) else value))),
    *("--data.workers", "1", "--training.steps", "12", "--training.checkpoint_every", "4"),
]
SECONDS = 240
SETTLED = ("prepared/*/*", "prepared/*/*/*", "evaluations/*/*", "production/**/*", "runs/*/snapshots/*/*")
"""What was there before and must be there afterwards, byte for byte."""


@dataclass(frozen=True)
class Command:
    """A command, where it writes, and when its home is taken away.

    Attributes:
        words: of the command line; `{out}` is a folder beside the home.
        writes: below the disk's root, what a file stands in the way of.
        goes_at: the home goes when this file below it was opened, or is there.
        is_first: it begins with an empty home.
        works: its status when nothing is wrong.
    """

    words: Sequence[str]
    writes: str
    goes_at: str = "mlflow.db"
    is_first: bool = False
    works: int = 0


COMMANDS = {
    "prepare": Command(["prepare", "demo", *TINY, "--data.sprites_seed", "7"], "home/prepared", "prepared/shards"),
    "run": Command(["run", "demo", *TINY], "home", "runs/*/progress.json", is_first=True),
    "train": Command(["train", "demo", *TINY, "--training.seed", "5"], "home/runs", "runs/*/progress.json"),
    "evaluate": Command(["evaluate", "1", "--evaluation.batch_size", "3"], "home/evaluations"),
    "reconstruct": Command(["reconstruct", "1", "{picture}", "--out", "{out}/pictures"], "out"),
    "export": Command(["export", "1", "{out}/model"], "out"),
    "promote": Command(["promote", "1", "--reason", "a test"], "home/production", works=3),  # it waits for approval
    "models list": Command(["models", "list"], "home"),
    "doctor": Command(["doctor"], "home"),
    "up": Command(["up", "--mlflow-port", "{port}1", "--prefect-port", "{port}2"], "home/logs"),
}
FULL = {"full, 0 MB free": 0, "full, 0.6 MB free": 600_000, "full, 1.5 MB free": 1_500_000, "26 MB free": 26_000_000}
PLACES = [*FULL, "read-only", "a file in the way", "no permission", "gone while it runs"]


@dataclass(frozen=True)
class Cell:
    """What came of a command in a bad place.

    Attributes:
        status: of the command; negative when it was killed, as it is when it hangs.
        lines: how many of its lines were an error's.
        traceback: whether there was one.
        said: the error, or its last line.
        kept: whether what was there before is as it was.
        again: the status of the same command after the place was repaired; None where it had worked already.
    """

    command: str
    place: str
    status: int
    lines: int
    traceback: bool
    said: str
    kept: bool
    again: int | None
    seconds: float
    log: str = ""

    @property
    def is_good(self) -> bool:
        """One line or success, nothing lost, and it works when the place is repaired."""
        works = COMMANDS[self.command].works
        told = self.lines == (1 if works else 0) if self.status == works else self.lines == 1 and "/" in self.said
        return told and self.status >= 0 and not self.traceback and self.kept and self.again in {works, None}


class Bench:
    """A small file system of its own at `disk`, with the home and a folder for what is exported."""

    def __init__(self, base: Path, port: int) -> None:
        self.base, self.port = base, port
        self.disk = base / "disk"
        self.home, self.out = self.disk / "home", self.disk / "out"
        self.finished = base / "finished"
        self.picture = base / "picture.png"
        self.disk.mkdir(parents=True)
        Image.effect_noise((32, 32), 60).convert("RGB").save(self.picture)
        base.chmod(0o755)
        self.size = 600 * 2**20
        (base / "own").mkdir()

    def environment(self) -> dict[str, str]:
        own = self.base / "own"
        kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "LC_ALL"}}
        own_names = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(own))
        return {
            **kept,
            **own_names,
            "PIKAVAE_HOME": str(self.home),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TORCH_HOME": str(own / "torch"),
            "PYTHONPATH": str(ROOT),
            "MLFLOW_LOGGING_LEVEL": "WARNING",
        }

    def mount(self) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.size},mode=755", "tmpfs", self.disk], check=True)
        self.out.mkdir()

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.disk], check=True)

    def fork(self, words: Sequence[str], *, nobody: bool = False, goes_at: str | None = None) -> tuple[int, Path]:
        """Start a command; its process, and the file that has what it said."""
        log = self.base / f"said-{time.monotonic_ns()}.txt"
        log.touch()
        if pid := os.fork():
            return pid, log
        status = 1
        try:
            os.setsid()
            atexit._clear()  # what the parent does at its own end
            os.environ.clear()
            os.environ.update(self.environment())
            with log.open("wb") as file:
                for number in (1, 2):
                    os.dup2(file.fileno(), number)
            if nobody:
                obey_permissions()
            os.chdir(self.base)
            if goes_at is not None:
                sys.addaudithook(self._taking_away(goes_at))
            from flows.cli import main

            status = main([word.format(out=self.out, picture=self.picture, port=self.port) for word in words])
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:  # noqa: BLE001  printed as Python itself would
            traceback.print_exc()
        finally:
            atexit._run_exitfuncs()  # such as the end of Prefect's server
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)

    def _taking_away(self, name: str) -> Callable[[str, tuple[object, ...]], None]:
        done = False

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal done
            if done or event not in {"sqlite3.connect", "sqlite3.connect/handle", "os.mkdir", "open", "os.listdir"}:
                return
            if f"{self.home}/{name}" in str(arguments[0] if arguments else ""):
                done = True
                self.take_away()

        return hook

    def _is_at(self, pattern: str, began: float) -> bool:
        """Whether a command has written such a file of its own; the finished home has older ones."""
        return any(path.stat().st_mtime > began for path in self.home.glob(pattern))

    def take_away(self) -> None:
        self.home.rename(self.disk / "away")

    def wait(self, pid: int, log: Path, command: Command, *, goes: bool = False) -> int:
        """Wait for a command, end one that serves when it is ready, and return its status."""
        began, deadline, ready = time.time(), time.monotonic() + SECONDS, False
        while True:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                end_session(pid)
                return os.waitstatus_to_exitcode(status)
            if goes and "*" in command.goes_at and self._is_at(command.goes_at, began):
                self.take_away()
                goes = False
            if not ready and command.words[0] == "up" and b"Ready." in log.read_bytes():
                ready = True
                os.kill(pid, signal.SIGINT)
            if time.monotonic() > deadline:
                end_session(pid)
                os.waitpid(pid, 0)
                return -signal.SIGKILL
            time.sleep(0.05)

    def fill(self, free: int) -> None:
        with (self.disk / "filler").open("wb") as file:
            found = os.statvfs(self.disk)
            os.posix_fallocate(file.fileno(), 0, max(found.f_bavail * found.f_frsize - free, 1))


def settled(home: Path) -> dict[str, str]:
    """The hash of every file that must stay as it is."""
    files = {path for pattern in SETTLED for path in home.glob(pattern) if path.is_file() and path.suffix != ".lock"}
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def num_runs(home: Path) -> int:
    """How many runs MLflow knows; the database is checked."""
    if not (home / "mlflow.db").exists():
        return 0
    with closing(sqlite3.connect(home / "mlflow.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])


def try_cell(bench: Bench, name: str, place: str, *, once: bool = False) -> Cell:
    """Break the place, give the command, repair the place, and give it again if it failed, unless `once`."""
    began, command = time.monotonic(), COMMANDS[name]
    nobody, goes = place == "no permission", place == "gone while it runs"
    bench.mount()
    try:
        if command.is_first:
            bench.home.mkdir()
        else:
            shutil.copytree(bench.finished, bench.home, symlinks=True)
        before, runs = settled(bench.home), num_runs(bench.home)
        repair = break_place(bench, command, place)
        in_process = command.goes_at if goes and "*" not in command.goes_at else None
        pid, log = bench.fork(command.words, nobody=nobody, goes_at=in_process)
        status = bench.wait(pid, log, command, goes=goes)
        text = log.read_text(errors="replace")
        repair()
        kept = settled(bench.home).items() >= before.items() and num_runs(bench.home) >= runs
        again, log_again = None, None
        if status != command.works and not once:
            pid, log_again = bench.fork(command.words, nobody=nobody)
            again = bench.wait(pid, log_again, command)
        errors = [line for line in text.splitlines() if line.startswith("pikavae: ")]
        said = (errors or [line for line in text.splitlines() if line.strip()] or [""])[-1]
        whole = (
            f"{text}\n--- again ---\n{log_again.read_text(errors='replace')}"
            if again != command.works and log_again
            else text
        )
        seconds = time.monotonic() - began
        return Cell(name, place, status, len(errors), "Traceback" in text, said, kept, again, seconds, whole)
    finally:
        bench.unmount()


def break_place(bench: Bench, command: Command, place: str) -> Callable[[], object]:
    """Break a place for a command, and return what repairs it."""
    target = bench.disk / command.writes
    aside = bench.disk / "aside"
    if place in FULL:
        bench.fill(FULL[place])
        return (bench.disk / "filler").unlink
    if place == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", bench.disk], check=True)
        return lambda: subprocess.run(["mount", "-o", "remount,rw", bench.disk], check=True)
    if place == "a file in the way":
        if target.exists():
            target.rename(aside)
        target.write_text("in the way")

        def repair() -> None:
            target.unlink()
            if aside.exists():
                aside.rename(target)

        return repair
    if place == "no permission":
        is_new = not target.exists()
        target.mkdir(exist_ok=True)
        own_all(target, NOBODY)

        def give() -> None:
            if is_new:
                target.rmdir()
            else:
                own_all(target, 0)

        return give

    def put_back() -> None:
        if (bench.disk / "away").exists():
            shutil.rmtree(bench.home, ignore_errors=True)
            (bench.disk / "away").rename(bench.home)

    return put_back


def make_finished(bench: Bench) -> None:
    """The home that most cells begin with: one finished run."""
    bench.mount()
    run = Command(["run", "demo", *TINY], "home")
    pid, log = bench.fork(run.words)
    if (status := bench.wait(pid, log, run)) != 0:
        raise SystemExit(f"the home to begin with could not be made, status {status}:\n{log.read_text()}")
    shutil.copytree(bench.home, bench.finished, symlinks=True)
    bench.unmount()


def say(line: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def own_namespace() -> None:
    """Start this script again where its mounts are its own."""
    if os.environ.get("BAD_PLACES_UNSHARED"):
        return
    os.environ["BAD_PLACES_UNSHARED"] = "1"
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "tests.faults.bad_places"]
    os.execvp(command[0], [*command, *sys.argv[1:]])


def main() -> int:
    """Try the cells, print a table, and return how many are not as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=list(COMMANDS), metavar="NAME")
    parser.add_argument("--places", nargs="+", default=PLACES, choices=PLACES, metavar="NAME")
    parser.add_argument("--json", type=Path, help="a file for all that was said")
    parser.add_argument("--once", action="store_true", help="do not give the command again when the place is repaired")
    parser.add_argument("--port", type=int, default=1870, help="the first digits of the two ports of `up`")
    options = parser.parse_args()
    if sys.platform != "linux" or os.geteuid() != 0:
        parser.error("only root on Linux can mount file systems")
    own_namespace()
    import mlflow
    import torch

    import flows.cli
    import flows.up.services
    import pikavae.operations

    torch.set_num_threads(1)
    assert all((mlflow, flows.up.services, pikavae.operations))  # imported so that the forks have them
    cells = []
    with tempfile.TemporaryDirectory(prefix="bad-places-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), options.port)
        make_finished(bench)
        for name in options.commands:
            for place in options.places:
                cells.append(cell := try_cell(bench, name, place, once=options.once))
                mark = "good" if cell.is_good else "BAD "
                said = cell.said.replace(folder, "")[:150]
                say(
                    f"{mark} | {name} | {place} | {cell.status} | {cell.lines} | {'yes' if cell.kept else 'NO'} | "
                    f"{'-' if cell.again is None else cell.again} | {cell.seconds:.0f} s | {said}"
                )
                if options.json:
                    options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1))
    bad = sum(not cell.is_good for cell in cells)
    say(f"{len(cells) - bad} of {len(cells)} good")
    return bad


if __name__ == "__main__":
    sys.exit(main())
