"""Promotion, rollback, approval and repair, killed at every point where something becomes lasting, and repaired.

    python -m tests.faults.crash_matrix

The points are found by tracing a run and not listed by hand: each rename, sync, link, unlink, mkdir, rmdir, chmod and
truncation below the home, and each commit of the database, which SQLAlchemy makes. A process that is forked from a
warm one, on a home of its own, kills itself (SIGKILL) before or after the n-th of them. Another process repairs: by
`repair`, by the same command again, or by `repair` after a loss of power, simulated as in `tests.faults.kills`: of what
was not synced in `production/` a random part is gone (the database file counts as durable with its commit). Then there
must be exactly one champion (none, where the first promotion was undone), its bytes verified, the ledger whole, nothing
left over, and the next promotion must work. The smoke test runs once for real; the attempts are given its answer.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import random
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from mlflow import MlflowClient
from sqlalchemy.engine.default import DefaultDialect

from pikavae.production.changes import anchor, moves, promote, requests
from pikavae.production.changes.entries import candidate_number
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.record import ledger, statuses
from pikavae.registry import versions
from tests.faults.kills import lose_unsynced
from tests.support.house import NAME, House, copied

TRACED = ["rename", "replace", "link", "symlink", "unlink", "remove", "mkdir", "rmdir", "chmod", "fsync", "truncate"]
WAYS = (("before", "repair"), ("after", "the same again"), ("before", "power lost, repair"))
"""What is done with each point: killed before or after it, and how it is repaired."""


class Trace:
    """Counts the points of this process below a folder, and kills it at one of them."""

    def __init__(self, home: Path, log: Path, kill_at: int | None = None, moment: str = "before"):
        self.home, self.log, self.kill_at, self.moment = str(home), log, kill_at, moment
        self.points: list[str] = []

    def start(self) -> None:
        """Wrap what makes things lasting."""
        for name in TRACED:
            setattr(os, name, self._traced(getattr(os, name), name))
        DefaultDialect.do_commit = self._traced(DefaultDialect.do_commit, "commit")

    def _traced(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        @functools.wraps(real)
        def traced(*arguments: Any, **named: Any) -> Any:
            if name != "commit" and not self._path(arguments[0], named.get("dir_fd")).startswith(self.home):
                return real(*arguments, **named)
            self.points.append(name)
            here = len(self.points) - 1 == self.kill_at
            if here and self.moment == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                result = real(*arguments, **named)
                if name == "fsync":
                    self._note(arguments[0])
            finally:
                if here:
                    os.kill(os.getpid(), signal.SIGKILL)
            return result

        return traced

    @staticmethod
    def _path(named: Any, folder: int | None) -> str:
        if hasattr(named, "fileno"):
            named = named.fileno()
        if isinstance(named, int):
            return str(Path(f"/proc/self/fd/{named}").readlink())
        base = "" if folder is None else str(Path(f"/proc/self/fd/{folder}").readlink())
        return os.path.join(base, os.fspath(named))  # noqa: PTH118

    def _note(self, named: Any) -> None:
        descriptor = named.fileno() if hasattr(named, "fileno") else named
        with self.log.open("a") as log:
            log.write(json.dumps(note_of(descriptor)) + "\n")


def note_of(descriptor: int) -> dict[str, Any]:
    """What is lasting of a file or folder once it is synced, as `lose_unsynced` reads it."""
    about = os.fstat(descriptor)
    note: dict[str, Any] = {"inode": about.st_ino, "size": about.st_size, "mtime": about.st_mtime_ns}
    return {**note, "names": os.listdir(descriptor)} if stat.S_ISDIR(about.st_mode) else note


def ask(house: House, version: int) -> Any:
    """A request for a version that passed its gates."""
    champion = ledger.expected_aliases(ledger.read(anchor.ledger_path(house.home)))["champion"]
    return requests.record_request(
        house.workspace,
        versions.get_version(house.client, NAME, version),
        champion=champion,
        report=None,
        evaluation_set=None,
        thresholds={},
        verdicts={"outcome": "pass"},
        overridden=(),
        reason="better",
    )


def approve(house: House) -> None:
    """Approve the request for version 2, and carry it out."""
    events = ledger.read(anchor.ledger_path(house.home))
    request = statuses.newest_request(events, NAME, 2)
    if request is None or not statuses.is_open(events, request):
        house.promote(2)  # says that it is done
        return
    approval = requests.record_approval(house.workspace, request, reason="seen")
    promote.promote(
        house.workspace,
        model_name=NAME,
        version=2,
        reason="better",
        request=request,
        approver=approval.approver,
    )


def harm(house: House) -> None:
    """What `repair` has most to do with."""
    house.promote(1)
    house.promote(2)
    house.client.delete_registered_model(PRODUCTION_NAME)
    weights = next((house.home / "production" / "store").rglob("*.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(b"none")


CASES: dict[str, tuple[Callable[[House], object], Callable[[House], object]]] = {
    "first promotion": (House.disagreements, lambda house: house.promote(1)),
    "promotion": (lambda house: house.promote(1), lambda house: house.promote(2)),
    "rollback": (lambda house: (house.promote(1), house.promote(2)), lambda house: house.rollback()),
    "approval": (lambda house: (house.promote(1), ask(house, 2)), approve),
    "repair": (harm, lambda house: house.repair()),
}
"""By name: what the home is prepared with, and what is killed."""


def in_child(work: Callable[[], object]) -> tuple[int, str]:
    """Do something in a fork of this process; how it ended (0, or the signal) and what it had to say."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            os.close(reader)
            said = work()
            os.write(writer, json.dumps(said).encode())
            code = 0
        except BaseException:  # noqa: BLE001 - it is told to the parent
            os.write(writer, traceback.format_exc().encode()[-4000:])
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)), said


def recorded(uri: str, tracking_uri: str) -> dict[str, Any]:
    """The answer of a smoke test that went well: the files that were published."""
    number = int(uri.rpartition("/")[2])
    return {"manifest": versions.get_version(MlflowClient(tracking_uri=tracking_uri), PRODUCTION_NAME, number).manifest}


def prepare(folder: Path) -> dict[str, list[str]]:
    """The homes that the attempts begin with, and how many points each case has."""
    code, said = in_child(lambda: build(folder))
    if code:
        raise SystemExit(said)
    mock.patch.object(promote, "smoke_test", recorded).start()
    warm_up(folder)
    points = {}
    for name, (_, work) in CASES.items():
        home = folder / "counting"

        def count(work: Callable[[House], object] = work, name: str = name, home: Path = home) -> list[str]:
            house = copied(folder / name, home)
            trace = Trace(home, folder / "counting.sync")
            trace.start()
            work(house)
            return trace.points

        code, said = in_child(count)
        if code:
            raise SystemExit(said)
        points[name] = json.loads(said)
        shutil.rmtree(home)
    return points


def warm_up(folder: Path) -> None:
    """Promote and roll back once in this process: its forks then have MLflow's modules and its tables' mappers."""
    house = copied(folder / "promotion", folder / "warm")
    house.promote(2)
    house.rollback()
    assert house.disagreements(every=True) == []
    shutil.rmtree(house.home)


def build(folder: Path) -> None:
    """Make the homes."""
    began = time.monotonic()
    first = House(folder / "first", folder)
    first.register(folder, 3)
    real = copied(folder / "first", folder / "real")
    real.promote(1)
    print(f"one promotion with its smoke test for real: {time.monotonic() - began:.1f} s with the making", flush=True)
    mock.patch.object(promote, "smoke_test", recorded).start()
    for name, (before, _) in CASES.items():
        before(copied(folder / "first", folder / name))


def attempt(folder: Path, case: str, point: int, way: tuple[str, str], chance: random.Random) -> dict[str, Any]:
    """Kill one process at one point, repair, and look."""
    home, log = folder / "home", folder / "home.sync"
    shutil.rmtree(home, ignore_errors=True)
    moment, repaired_by = way

    def work() -> None:
        house = copied(folder.parent / case, home)
        log.write_text("".join(json.dumps(note) + "\n" for note in notes_below(home / "production")))
        Trace(home, log, point, moment).start()
        CASES[case][1](house)

    code, said = in_child(work)
    outcome: dict[str, Any] = {"case": case, "point": point, "way": f"killed {moment}, {repaired_by}"}
    if code != signal.SIGKILL:
        return {**outcome, "failure": f"it was not killed, but ended with {code}: {said}"}
    if repaired_by.startswith("power lost"):
        outcome["lost"] = lose_unsynced(home / "production", log, chance)
    code, said = in_child(lambda: repair_home(home, case, repaired_by))
    return {**outcome, **(json.loads(said) if code == 0 else {"failure": said})}


def notes_below(folder: Path) -> list[dict[str, Any]]:
    """All that is there, as something that was synced."""
    notes = []
    for path in [folder, *folder.rglob("*")] if folder.exists() else []:
        descriptor = os.open(path, os.O_RDONLY)
        notes.append(note_of(descriptor))
        os.close(descriptor)
    return notes


def repair_home(home: Path, case: str, way: str) -> dict[str, Any]:
    """Mend a home, and check all that must hold."""
    house = House.at(home)
    if way == "the same again":
        CASES[case][1](house)
        found = house.disagreements(every=True)
        assert all("of a promotion that was cut short" in line for line in found), found
    before = ledger.read(anchor.ledger_path(home))
    done = house.repair(every=True)
    check(house)
    events = ledger.read(anchor.ledger_path(home))
    assert events[: len(before)] == before, "the past of the ledger was changed"
    champion = candidate_number(events, ledger.expected_aliases(events)["champion"])
    assert house.promote(3).version == 3
    check(house)
    assert house.rollback().version == champion if champion else True
    return {"champion": champion, "repairs": done}


def check(house: House) -> None:
    """One champion by ledger and MLflow, its bytes whole, and nothing left over."""
    assert house.disagreements(every=True) == []
    listed = versions.list_versions(house.client, PRODUCTION_NAME)
    expected = ledger.expected_aliases(ledger.read(anchor.ledger_path(house.home)))
    assert moves.aliases_of(listed) == expected
    assert sum("champion" in made.aliases for made in listed) == (expected["champion"] is not None)


def main() -> int:
    """Print a table, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--every", type=int, default=1, help="take every n-th point alone, from the last one back")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first attempts, which an earlier run made")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pikavae-crashes-") as name:
        folder = Path(name)
        points = prepare(folder)
        jobs = [
            (case, point, way)
            for case in arguments.cases
            for point in reversed(range(len(points[case]) - 1, -1, -arguments.every))
            for way in WAYS
        ][arguments.skip :]
        outcomes = work_off(folder, jobs, arguments.processes, arguments.seed)
    print_table({case: points[case] for case in arguments.cases}, outcomes)
    failures = [outcome for outcome in outcomes if "failure" in outcome]
    for outcome in failures[:20]:
        print(json.dumps({**outcome, "operation": points[outcome["case"]][outcome["point"]]}, indent=2))
    print(f"{len(outcomes)} attempts, {len(failures)} failures, {time.monotonic() - began:.0f} s")
    return 1 if failures or len(outcomes) != len(jobs) else 0


def work_off(folder: Path, jobs: list[Any], processes: int, seed: int) -> list[dict[str, Any]]:
    """All attempts, by several processes side by side."""
    workers = []
    for number in range(processes):
        place = folder / f"worker-{number}"
        place.mkdir()
        if (pid := os.fork()) == 0:
            with (place / "outcomes").open("w") as out:
                for index in range(number, len(jobs), processes):
                    case, point, way = jobs[index]
                    outcome = attempt(place, case, point, way, random.Random(f"{seed} {index}"))
                    out.write(json.dumps(outcome) + "\n")
                    out.flush()
            os._exit(0)
        workers.append(pid)
    for pid in workers:
        os.waitpid(pid, 0)
    return [
        json.loads(line) for path in sorted(folder.glob("worker-*/outcomes")) for line in path.read_text().splitlines()
    ]


def print_table(points: dict[str, list[str]], outcomes: list[dict[str, Any]]) -> None:
    """A line for each case and way."""
    print(f"{'case':<16} {'points':>6}  {'killed and repaired':<34} {'attempts':>8}  champion afterwards")
    for case, names in points.items():
        for moment, repaired_by in WAYS:
            way = f"killed {moment}, {repaired_by}"
            found = [outcome for outcome in outcomes if (outcome["case"], outcome["way"]) == (case, way)]
            ends = collections.Counter(
                "FAILED" if "failure" in outcome else f"version {outcome['champion'] or '-'}" for outcome in found
            )
            told = ", ".join(f"{end}: {count}" for end, count in sorted(ends.items()))
            print(f"{case:<16} {len(names):>6}  {way:<34} {len(found):>8}  {told}")
        print(f"{'':<16} {', '.join(f'{count} {name}' for name, count in collections.Counter(names).most_common())}")


if __name__ == "__main__":
    sys.exit(main())
