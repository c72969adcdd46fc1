"""A fortnight of scheduled retrainings with a fault a day, in minutes: `python -m tests.faults.fortnight`.

PostgreSQL runs below an MLflow server, and `pikavae up` beside it, on a small disk of its own. What ends badly is
started again, as systemd does it. The retraining is scheduled for every minute, and the schedule is paused from the
beginning of a day's training to the next day: so a day lasts as long as its work, and the nights between are left out.
That is all that is short: pauses of retries, leases and looks are those of every day. Each day brings new pictures and
a fault at a known moment of the training, and lasts until the schedule has made a version of the day's pictures, by as
many runs as that takes. On two days the clock steps, for `up` and everything that it starts (`clock.c` stands between
them and the system on all days). In the end everything is compared: Prefect, MLflow, the journals, the ledger, what a
listener received.

    python -m tests.faults.fortnight [--days 1 2 7 ...] [--minutes 60] [--keep FOLDER]

It needs PostgreSQL (`apt-get install postgresql`), and root on Linux for the small disk. It says what it left out.
"""

from __future__ import annotations

import argparse
import collections
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import TINY
from tests.faults.fortnight import checks
from tests.faults.fortnight.box import Box, wait_for
from tests.faults.fortnight.days import Night, add_pictures, live, plan
from tests.support.listening import Listener, listening

SETTINGS: dict[str, str | Sequence[str]] = {
    **{name: value for name, value in TINY.items() if name != "data.sprites_count"},
    "data.image_size": "32",
    "data.workers": "1",
    "model.channels": ["8", "16"],
    "training.steps": "60",
    "training.batch_size": "4",
    "training.log_every": "2",
    **{f"training.{name}_every": "20" for name in ("preview", "validate", "checkpoint")},
}
UNCERTAIN = {"a reboot: everything killed at once", "kill -9 of the worker", "kill -9 of Prefect's server"}
"""Faults that can fall between sending and noting it, so that an event may come twice."""


def main() -> int:
    """Live through the days, print a line for each, and then what is wrong; the status says whether anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, nargs="+", help="only these, in their order; the first is always lived")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no other day after these")
    parser.add_argument("--keep", type=Path, help="copy state folder and logs there in the end")
    options = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="pikavae-fortnight-")), time.monotonic()
    with listening() as listener:
        box = Box(folder, listener.url)
        try:
            box.build()
            nights = [night for night in plan(box) if not options.days or night.number in {1, *options.days}]
            schedule(box)
            lived: list[Night] = []
            for night in nights:
                if (time.monotonic() - began) / 60 > options.minutes:
                    print(f"no time for day {night.number} and later: {night.fault}", flush=True)
                    break
                live(box, night, listener)
                lived.append(night)
                print(f"day {night.number}: {night.fault}: {night.seconds:.0f} s", file=sys.stderr, flush=True)
            complaints = settle(box, lived, listener)
            print(f"\n{len(lived)} days in {(time.monotonic() - began) / 60:.1f} minutes")
            print("\n".join(complaints) if complaints else "nothing to complain of")
        finally:
            if options.keep:
                shutil.copytree(folder, options.keep, symlinks=True, dirs_exist_ok=True)
            box.close()
    return 1 if complaints else 0


def schedule(box: Box) -> None:
    """Schedule the retraining and the housekeeping, as a user would."""
    add_pictures(box.source, 0)  # a schedule's source is checked
    flags: list[str] = []
    for name, value in {**SETTINGS, "data.source": str(box.source)}.items():
        flags += [f"--{name}", *([value] if isinstance(value, str) else value)]
    box.command("schedule", "demo", *flags, "--cron", "* * * * *", "--name", "nightly")
    box.set_schedule(active=False)  # until the first day


def settle(box: Box, nights: list[Night], listener: Listener) -> list[str]:
    """Let the last things happen, print the table, and return what is wrong."""
    box.set_schedule(active=False)
    wait_for(lambda: not box.is_at_work(), "the end of the last run", 2.0)
    box.command("housekeeping")

    wait_for(lambda: not checks.undelivered(box), "the last notification", 1.0)
    flow_runs, runs = box.flow_runs(), checks.runs_of(box.client())
    uncertain = sum(night.fault in UNCERTAIN for night in nights)
    print_table(nights, flow_runs, runs, listener)
    complaints = [
        *checks.states(box, flow_runs, runs),
        *checks.notifications(box, listener, flow_runs, uncertain),
        *checks.metrics(box, runs),
        *checks.evaluations(box, runs),
        *checks.production(box),
        *checks.housekeeping(box),
    ]
    points = checks.num_points(box)
    skipped = sum("skipped" in (flow.state.message or "") for flow in flow_runs)
    print(f"\n{len(flow_runs)} scheduled runs, {skipped} of them with nothing new; {len(runs)} runs in MLflow")
    print(f"{points} points in the journals; {len(listener.requests)} requests at the listener")
    if (first := checks.first_ready(listener)) is not None:
        print(f"from the start of `up` to the notification of the first scheduled version: {first - box.began:.0f} s")
    print(f"restarts: up {box.up.ends}, MLflow {box.mlflow.ends}, PostgreSQL {box.postgres.ends}")
    if (status := box.stop_up()) != 0:
        complaints.append(f"`up` ended with status {status} when it was asked to")
    return [*complaints, *checks.leftovers(box)]


def print_table(nights, flow_runs, runs, listener: Listener) -> None:
    """Print a line for each day."""
    print("| day | fault | Prefect | MLflow | version | notifications | seconds |")
    print("| ---: | --- | --- | --- | --- | --- | ---: |")
    for night in nights:
        run = runs.get(night.run.name) if night.run is not None else None
        attempts = [] if run is None else checks.attempts_of(run, flow_runs)
        ids = {str(flow.id) for flow in attempts}
        told = collections.Counter(
            one["event"]
            for one in listener.accepted
            if one["data"].get("flow_run_id") in ids
            or (run is not None and one["data"].get("run_id") == run.info.run_id)
        )
        cells = [
            night.number,
            night.fault,
            ", ".join(flow.state.type.value.lower() for flow in attempts) or "-",
            run.info.status.lower() if run is not None else "-",
            run.data.tags.get("pikavae.version", "-") if run is not None else "-",
            ", ".join(f"{name} {count}" if count > 1 else name for name, count in told.items()) or "-",
            f"{night.seconds:.0f}",
        ]
        print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
