"""What must be true after the fortnight, each as a list of complaints."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, TaskRun

from pikavae.production.changes.anchor import ledger_path
from pikavae.production.record import ledger
from pikavae.tracker.tags import ATTEMPTS_TAG
from pikavae.training.journal import JOURNAL_NAME, read_events
from tests.faults.fortnight.box import Box
from tests.support.listening import Listener

ONCE = ("run_failed", "preempted", "candidate_ready", "approval_needed", "promoted", "disk_low")


def runs_of(client: MlflowClient) -> dict[str, Run]:
    """All runs of MLflow by id."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    return {run.info.run_id: run for run in client.search_runs(experiments, max_results=1000)}


def attempts_of(run: Run, flow_runs: list[FlowRun]) -> list[FlowRun]:
    """The flow runs that worked on a training, in their order."""
    ids = run.data.tags.get(ATTEMPTS_TAG, "").split(",")
    return [one for one in flow_runs if str(one.id) in ids]


def states(box: Box, flow_runs: list[FlowRun], runs: dict[str, Run]) -> Iterator[str]:
    """Nothing is at work, so nothing may say so; what is finished in one system is so in the other."""
    for flow in flow_runs:
        if flow.state is None or not flow.state.is_final():
            yield f"Prefect: flow run {flow.name} is {flow.state and flow.state.name}"
    for task in unfinished_tasks(box):
        yield f"Prefect: task run {task.name} is {task.state and task.state.name}"
    for name, run in runs.items():
        folder = box.home / "runs" / name
        if run.info.status not in {"FINISHED", "FAILED", "KILLED"}:
            yield f"MLflow: run {name} is {run.info.status}"
        last = attempts_of(run, flow_runs)[-1:]
        if folder.exists() and (run.info.status == "FINISHED") != (folder / "train.json").exists():
            yield f"MLflow: run {name} is {run.info.status}, and its training is not"
        for flow in last:
            if flow.state is not None and flow.state.is_completed() and run.info.status != "FINISHED":
                yield f"run {name} is {run.info.status}, and its last flow run {flow.name} completed"


def unfinished_tasks(box: Box) -> list[TaskRun]:
    """The task runs of Prefect that have not ended."""

    def read(client: SyncPrefectClient) -> list[TaskRun]:
        found: list[TaskRun] = []
        while page := client.read_task_runs(limit=200, offset=len(found)):
            found += page
        return [task for task in found if task.state is None or not task.state.is_final()]

    return box.ask(read)


def notifications(box: Box, listener: Listener, flow_runs: list[FlowRun], uncertain: int) -> Iterator[str]:
    """Each thing that happened was sent, and nothing else; the same id twice only if a kill made it uncertain."""
    payloads = listener.accepted
    ids = collections.Counter(one["id"] for one in payloads)
    twice = [name for name, count in ids.items() if count > 1]
    if sum(ids[name] - 1 for name in twice) > uncertain:
        yield f"sent more than once: {twice}"
    events = list({one["id"]: one for one in payloads}.values())
    failed = collections.Counter(one["data"]["flow_run_id"] for one in events if one["event"] in ONCE[:2])
    for flow in flow_runs:
        count, is_good = failed.pop(str(flow.id), 0), flow.state is not None and flow.state.is_completed()
        if count != (0 if is_good else 1):
            yield f"flow run {flow.name} is {flow.state and flow.state.name}, and {count} notifications of a failure"
    for name, count in failed.items():
        yield f"{count} notifications of the failed flow run {name}, which Prefect has not"
    versions = {version.version for version in box.client().search_model_versions("name = 'pikavae'")}
    ready = collections.Counter(str(one["data"]["version"]) for one in events if one["event"] == "candidate_ready")
    for version in sorted({*map(str, versions), *ready}, key=int):
        if ready[version] != 1 or int(version) not in map(int, versions):
            yield f"version {version}: {ready[version]} notifications say that it is ready"
    written = ledger.read(ledger_path(box.home))
    for kind, action in (("approval_needed", "request"), ("promoted", "promote")):
        wanted = sum(event.action == action and event.state == "done" for event in written)
        if (found := sum(one["event"] == kind for one in events)) != wanted:
            yield f"{found} notifications {kind}, and the ledger has {wanted}"
    for one in events:
        if one["event"] not in ONCE:
            yield f"unexpected notification: {one['event']}: {one['title']}"
    yield from (f"not delivered: {name}" for name in undelivered(box))


def undelivered(box: Box) -> list[str]:
    """The events in the outbox that did not arrive."""
    events = {path.stem: json.loads(path.read_text()) for path in box.home.glob("outbox/events/*.json")}
    return [
        name for name, event in events.items() if any(to["delivered"] is None for to in event["deliveries"].values())
    ]


def first_ready(listener: Listener) -> float | None:
    """When the first version's notification arrived, by `time.monotonic`; None if none did."""
    return next((one["arrived"] for one in listener.accepted if one["event"] == "candidate_ready"), None)


def metrics(box: Box, runs: dict[str, Run]) -> Iterator[str]:
    """MLflow has each point of each journal once, and beside them only what an evaluation adds, once."""
    client = box.client()
    for name, run in runs.items():
        path = box.home / "runs" / name / JOURNAL_NAME
        if not path.exists():
            continue
        journal = {
            (key, event.step): (value, event.time)
            for event in read_events(path)[0]
            if event.kind == "metrics"
            for key, value in event.values.items()
        }
        found: dict[tuple[str, int], list[tuple[float, int]]] = collections.defaultdict(list)
        for key in run.data.metrics:
            for point in client.get_metric_history(name, key):
                found[key, int(point.step)].append((point.value, int(point.timestamp)))
        lost = [place for place, point in journal.items() if point[1] not in [time for _, time in found[place]]]
        double = [place for place, points in found.items() if len(points) > 1 + (place in journal)]
        again = [
            place
            for place, points in found.items()
            if place in journal and len(points) == 2 and not (box.home / "runs" / name / "train.json").exists()
        ]
        if lost:
            yield f"run {name}: {len(lost)} of {len(journal)} points of the journal are not in MLflow, as {lost[:3]}"
        if double or again:
            yield f"run {name}: more than one point at {(double + again)[:3]}"


def num_points(box: Box) -> int:
    """How many points all journals have."""
    paths = box.home.glob(f"runs/*/{JOURNAL_NAME}")
    return sum(len(event.values) for path in paths for event in read_events(path)[0] if event.kind == "metrics")


def evaluations(box: Box, runs: dict[str, Run]) -> Iterator[str]:
    """A run whose model was registered has its report's files, and names its version."""
    client = box.client()
    for name, run in runs.items():
        folder = box.home / "runs" / name
        registered = [json.loads(path.read_text()) for path in folder.glob("registrations/*.json")]
        kept = {Path(file.path).name for file in client.list_artifacts(name, "evaluation")} if registered else set()
        for record in registered:
            report = box.home / "evaluations" / record["inputs"]["report"]
            if missing := {path.name for path in report.glob("report.*")} - kept:
                yield f"run {name}: MLflow lacks {sorted(missing)} of its evaluation"
            if run.data.tags.get("pikavae.version") != str(record["version"]):
                yield f"run {name}: its tag does not name version {record['version']}"
        if (folder / "train.json").exists() and run.info.status == "FINISHED" and not registered:
            yield f"run {name}: finished, and its registration is not recorded"


def leftovers(box: Box) -> Iterator[str]:
    """After `up` has ended, nothing of it runs, holds a lock, or is half written."""
    server = box.mlflow.process and psutil.Process(box.mlflow.process.pid)
    kept = [server, *server.children(recursive=True)] if server else []
    for process in box.processes():
        if process in kept:
            continue
        yield f"process {process.pid} is left: {' '.join(process.cmdline())[:120]}"
    for path in sorted(box.home.rglob("*.lock")):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield f"lock held: {path.relative_to(box.home)}"
        else:
            lock.release()
    for path in (box.home / "outbox" / "attempts").glob("*"):
        yield f"left in the outbox: {path.name}"
    for path in [*box.home.rglob("*.tmp"), *box.home.rglob(".*.tmp")]:
        yield f"half written: {path.relative_to(box.home)}"
    advisory = box.cluster.sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    if advisory != "0":
        yield f"PostgreSQL: {advisory} advisory locks are held"


def production(box: Box) -> Iterator[str]:
    """Ledger and store verify, and the doctor finds no error."""
    told = box.command("models", "verify", "--all", works=(0, 1))
    if "everything agrees" not in told:
        yield f"models verify: {told}"
    checks = json.loads(box.command("doctor", "--json", works=(0, 1)).splitlines()[-1])["checks"]
    yield from (f"doctor: {one['name']}: {one['detail']}" for one in checks if one["status"] == "error")


def housekeeping(box: Box) -> Iterator[str]:
    """The last housekeeping was in order."""
    last = json.loads((box.home / "housekeeping.json").read_text())["times"][-1]
    yield from (f"housekeeping: {one['step']}: {one['what']}" for one in last["done"] if not one["ok"])
