"""Several processes promote different versions at the same moment, against one store.

    python -m tests.faults.promoting_at_once --processes 8

The store is SQLite first and a PostgreSQL server of its own then (Debian's package `postgresql`); there processes of a
second home try as well, and must be refused. Afterwards the ledger must tell one order: every promotion once, each from
the champion that the one before it left, the chain whole, one champion. The smoke test is left out: it runs before the
champion moves and takes most of the time.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

from pikavae.errors import DamagedFileError
from pikavae.production.changes import anchor, promote
from pikavae.production.packages.model import PRODUCTION_NAME
from pikavae.production.record import ledger
from pikavae.registry import versions
from tests.faults.crash_matrix import in_child, recorded
from tests.support.house import House
from tests.support.postgres import postgres_server


def main() -> int:
    """Print a line for each store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    mock.patch.object(promote, "smoke_test", recorded).start()
    print(f"{'store':<12} {'promotions':>10} {'refused':>8} {'events':>7} {'seconds':>8}  agreement")
    complaints = 0
    for store in arguments.stores:
        with tempfile.TemporaryDirectory(prefix="pikavae-at-once-") as name:
            os.chdir(name)  # where MLflow puts the files of experiments, when a database is not ours
            if store == "sqlite":
                found = at_once(Path(name), arguments.processes)
            else:
                with postgres_server() as address:
                    os.environ["MLFLOW_TRACKING_URI"] = address
                    found = at_once(Path(name), arguments.processes)
                    del os.environ["MLFLOW_TRACKING_URI"]
            os.chdir("/")
        complaints += len(found["complaints"])
        told = "; ".join(found["complaints"]) or "one order, one champion, chain whole"
        numbers = f"{found['promotions']:>10} {found['refused']:>8} {found['events']:>7} {found['seconds']:>8.1f}"
        print(f"{store:<12} {numbers}  {told}", flush=True)
    return 1 if complaints else 0


def at_once(folder: Path, processes: int) -> dict[str, Any]:
    """Promote as many versions as there are processes, all at once, and look at what came of it."""
    home, other = folder / "home", folder / "other"

    def build() -> None:
        house = House(home, folder)
        for seed in range(3, processes + 2):
            house.register(folder, seed)
        house.promote(1)

    said(in_child(build))
    shared = "MLFLOW_TRACKING_URI" in os.environ
    began = time.monotonic()
    start = began + 5.0
    jobs = [(home, number) for number in range(2, processes + 2)] + [(other, number) for number in (2, 3) if shared]
    workers = []
    for place, number in jobs:
        if (pid := os.fork()) == 0:
            os._exit(promote_at(place, number, start))
        workers.append(pid)
    ends = collections.Counter(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers)
    seconds = time.monotonic() - start
    looked: dict[str, Any] = said(in_child(lambda: look(home, processes)))
    expected = {0: processes, **({2: 2} if shared else {})}
    complaints = looked["complaints"] + ([] if dict(ends) == expected else [f"the processes ended with {dict(ends)}"])
    return {**looked, "promotions": ends[0], "refused": ends[2], "seconds": seconds, "complaints": complaints}


def promote_at(home: Path, number: int, start: float) -> int:
    """Promote a version when the moment has come; 0, or 2 when another home keeps production."""
    try:
        house = House.at(home)
        time.sleep(max(0.0, start - time.monotonic()))
        house.promote(number)
    except DamagedFileError as error:
        return 2 if "is kept by the home" in str(error) else 1
    except BaseException as error:  # noqa: BLE001 - the status tells the parent
        print(f"version {number}: {error!r}", file=sys.stderr)
        return 1
    return 0


def look(home: Path, processes: int) -> dict[str, Any]:
    """What is wrong with the ledger and production, if anything."""
    house = House.at(home)
    events = ledger.read(anchor.ledger_path(home))
    complaints = house.disagreements(every=True)
    if [event.state for event in events] != ["intent", "done"] * (processes + 1):
        complaints.append(f"the states are {[event.state for event in events]}")
    if sorted(event.version for event in events) != sorted([*range(1, processes + 2)] * 2):
        complaints.append("an event is missing or there twice")
    before: Any = {"champion": None, "previous": None}
    for intent, done in zip(events[::2], events[1::2], strict=False):
        if (intent.transaction, intent.aliases_before) != (done.transaction, before):
            complaints.append(f"line {intent.sequence} does not begin where the one before ended")
        before = done.aliases_after
    listed = versions.list_versions(house.client, PRODUCTION_NAME)
    if sum("champion" in made.aliases for made in listed) != 1 or len(listed) != processes + 1:
        complaints.append(f"{len(listed)} production versions, not all of them one for each promotion")
    return {"events": len(events), "complaints": complaints}


def said(ended: tuple[int, str]) -> Any:
    """What a child said, if it ended well."""
    if ended[0]:
        raise SystemExit(ended[1])
    return json.loads(ended[1])


if __name__ == "__main__":
    sys.exit(main())
