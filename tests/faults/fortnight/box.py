"""A box that retrains every night: PostgreSQL, MLflow's server on it, `pikavae up`, and what restarts them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.scheduling import schedules
from tests.support.mlflow_server import free_port
from tests.support.places import ROOT
from tests.support.postgres import Cluster
from tests.support.team import OURS, answers

Found = TypeVar("Found")

PATIENCE_SECONDS = 1800.0
RESTART_SECONDS = 2.0
"""The pause before what ended is started again: `up --write-systemd` says ten, and its clock is not shortened."""
DISK_BYTES = 700 * 2**20
CLOCK_SOURCE = Path(__file__).with_name("clock.c")
SCHEDULE = "retrain/nightly"
ROLES = {
    "training": ("pikavae.training.worker",),
    "worker": ("prefect", "worker", "start"),
    "Prefect": ("prefect", "server", "start"),
    "flow": ("prefect.engine",),
    "up": ("flows.cli", "up"),
}
"""Words of the command line by which the processes of `up` are known."""


def wait_for(condition: Callable[[], Found], what: str, pause: float = 0.1) -> Found:
    """Return what a condition gives as soon as that is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {PATIENCE_SECONDS:.0f} s")
        time.sleep(pause)
    return found


class Kept:
    """A program that is started again when it ended, as systemd does it.

    Attributes:
        ends: the status of each end that nobody asked for.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start, self._stopping = start, threading.Event()
        self.process: subprocess.Popen[bytes] | None = None
        self.ends: list[int] = []
        self._thread = threading.Thread()

    def begin(self) -> None:
        """Start it, and begin to watch it."""
        self._stopping.clear()
        self.process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        while self.process is not None:
            status = self.process.wait()
            if self._stopping.is_set():
                return
            self.ends.append(status)
            if self._stopping.wait(RESTART_SECONDS):
                return
            self.process = self._start()

    def forget(self) -> None:
        """Start it no more when it ends."""
        self._stopping.set()

    def join(self) -> None:
        """Wait until it has ended and is not watched any more."""
        self._thread.join(PATIENCE_SECONDS)


class Box:
    """Everything on one machine. Its state folder is on a small disk of its own, where this may be mounted.

    Attributes:
        home: the state folder.
        source: the folder of pictures.
        began: when `up` was first started, by `time.monotonic`.
    """

    def __init__(self, folder: Path, notify_url: str) -> None:
        self.folder, self.disk = folder, folder / "disk"
        self.home, self.source = self.disk / "home", folder / "pictures"
        self.log = folder / "up.log"
        self.clock, self.library = folder / "clock", folder / "clock.so"
        self.is_mounted = self.has_clock = False
        self.began = 0.0
        self._is_scheduled = True
        self.cluster = Cluster("for-the-superuser")
        self.mlflow_port, self.prefect_port, self.own_port = free_port(), free_port(), free_port()
        self.postgres = Kept(self._start_postgres)
        self.mlflow = Kept(self._start_mlflow)
        self.up = Kept(self._start_up)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self._prefect = SyncPrefectClient(self.api)  # one, because to make it costs more than to ask
        self.environment = {
            **kept,
            "PIKAVAE_HOME": str(self.home),
            "PIKAVAE_NOTIFY_URLS": notify_url,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "PYTHONPATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "true",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow's server."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def api(self) -> str:
        """The address of Prefect's API."""
        return f"http://127.0.0.1:{self.prefect_port}/api"

    def build(self) -> None:
        """Make the disk, the database and the state folder, and start everything."""
        self.disk.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.disk)]
        self.is_mounted = os.getuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
        self.home.mkdir()
        notify = self.home / "notify.yaml"
        notify.write_text(f"disk_free_gib: {DISK_BYTES / 2**30 / 8:.3f}\n")
        notify.chmod(0o600)
        self.has_clock = self.make_clock()
        self.cluster.start()
        self.cluster.sql("CREATE ROLE mlflow LOGIN PASSWORD 'for-mlflow'", "CREATE DATABASE mlflow OWNER mlflow")
        self.cluster.stop()
        self.postgres.begin()
        self.begin()

    def begin(self) -> None:
        """Start what a boot starts after PostgreSQL, and wait until it is there."""
        self.mlflow.begin()
        wait_for(lambda: answers(f"{self.tracking_uri}/health"), "the start of MLflow's server")
        self.began = self.began or time.monotonic()
        self.up.begin()
        self.wait_until_up()

    def make_clock(self) -> bool:
        """Compile what moves the clock of `up` and its processes; False without a compiler."""
        compiler = shutil.which("cc")
        self.set_clock(0)
        if compiler is not None:
            command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(self.library), str(CLOCK_SOURCE), "-ldl"]
            subprocess.run(command, check=True)
        return compiler is not None

    def set_clock(self, seconds: int) -> None:
        """Set how far the clock of `up` and its processes is from the true one."""
        file = os.open(self.clock, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(file, struct.pack("=q", seconds), 0)
        os.close(file)

    def wait_until_up(self) -> None:
        """Wait until `up` runs: it writes its record when everything answers."""

        def runs() -> bool:
            process = self.up.process
            with contextlib.suppress(OSError, ValueError):
                owner = str(json.loads((self.home / "up.json").read_text())["owner"])
                return process is not None and process.poll() is None and owner.startswith(f"{process.pid}:")
            return False

        wait_for(runs, "the start of `up`")

    def _start_postgres(self) -> subprocess.Popen[bytes]:
        self.cluster.start()
        assert self.cluster.server is not None
        return self.cluster.server

    def _start_mlflow(self) -> subprocess.Popen[bytes]:
        address = f"postgresql+psycopg://mlflow:for-mlflow@127.0.0.1:{self.cluster.port}/mlflow"
        artifacts = (self.folder / "artifacts").as_uri()
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.mlflow_port)]
        command += ["--backend-store-uri", address, "--artifacts-destination", artifacts, "--workers", "1"]
        return self._start(command, self.folder / "mlflow.log", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")

    def _start_up(self) -> subprocess.Popen[bytes]:
        clock = {"LD_PRELOAD": str(self.library), "CLOCK_OFFSET_FILE": str(self.clock)} if self.has_clock else {}
        ports = ["--mlflow-port", str(self.own_port), "--prefect-port", str(self.prefect_port)]
        return self._start([*self.program, "up", *ports], self.log, **clock)

    def _start(self, command: list[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                env={**self.environment, **more},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def program(self) -> list[str]:
        """`pikavae`, as its entry point starts it."""
        return [sys.executable, "-m", "flows.cli"]

    def command(self, *words: str, works: tuple[int, ...] = (0,)) -> str:
        """Give a command of the terminal, which ends with one of these statuses; its result, as it printed it."""
        command = [*self.program, *words]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode in works, f"{' '.join(words)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def client(self) -> MlflowClient:
        """A client of MLflow's server."""
        os.environ["MLFLOW_TRACKING_URI"] = self.tracking_uri
        return MlflowClient(self.tracking_uri)

    def ask(self, question: Callable[[SyncPrefectClient], Found]) -> Found:
        """Ask Prefect's server as soon as it answers."""
        answer: list[Found] = []

        def asked() -> bool:
            try:
                answer.append(question(self._prefect))
            except (httpx.HTTPError, PrefectHTTPStatusError, RuntimeError):
                return False
            return True

        wait_for(asked, "an answer of Prefect's server", 1.0)
        return answer[0]

    def set_schedule(self, *, active: bool) -> None:
        """Pause or resume the schedule, as `schedule pause` and `schedule resume` do, unless it is so already.

        Each change plans the next runs anew, and what is changed again and again never runs.
        """
        if active == self._is_scheduled:
            return

        def change(_client: SyncPrefectClient) -> None:
            with temporary_settings(updates={PREFECT_API_URL: self.api}):
                schedules.set_active(SCHEDULE, active=active)

        self.ask(change)
        self._is_scheduled = active

    def flow_runs(self) -> list[FlowRun]:
        """All runs of the schedule that began or ended, in the order of their beginnings."""

        def read(client: SyncPrefectClient) -> list[FlowRun]:
            deployment = client.read_deployment_by_name(SCHEDULE)
            found: list[FlowRun] = []
            while page := client.read_flow_runs(limit=200, offset=len(found)):
                found += page
            return [run for run in found if run.deployment_id == deployment.id]

        runs = [run for run in self.ask(read) if run.state is not None and not run.state.is_scheduled()]
        return sorted(runs, key=lambda run: run.start_time or run.expected_start_time or run.created)

    def is_at_work(self) -> bool:
        """Whether a run of the schedule is at work."""
        return any(run.state is not None and not run.state.is_final() for run in self.flow_runs())

    def runs(self) -> set[Path]:
        """The folders of all trainings."""
        return {path.parent for path in self.home.glob("runs/*/run.json")}

    def processes(self) -> list[psutil.Process]:
        """Everything that was started for this state folder and runs."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("PIKAVAE_HOME") == str(self.home) and process.status() != "zombie":
                    found.append(process)
        return found

    def find(self, role: str) -> list[psutil.Process]:
        """The processes of a role, such as `worker`."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if all(word in words for word in ROLES[role]):
                    found.append(process)
        return found

    def kill(self, role: str) -> None:
        """Kill the processes of a role."""
        found = wait_for(lambda: self.find(role), f"a process of {role}")
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_everything(self) -> None:
        """Kill all at once, as a power cut does; what is in the system's cache remains."""
        for kept in (self.up, self.mlflow, self.postgres):
            kept.forget()
        servers = [one.process.pid for one in (self.mlflow, self.postgres) if one.process is not None]
        family = [child for pid in servers for child in psutil.Process(pid).children(recursive=True)]
        everything = [*self.processes(), *(psutil.Process(pid) for pid in servers), *family]
        for process in everything:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for kept in (self.up, self.mlflow, self.postgres):
            kept.join()
        psutil.wait_procs(everything, 30)

    def boot(self) -> None:
        """Start everything again."""
        self.postgres.begin()
        self.begin()

    def stop_up(self) -> int:
        """End `up` as its user does; its status."""
        self.up.forget()
        assert self.up.process is not None
        self.up.process.terminate()
        self.up.join()
        return self.up.process.returncode

    def close(self) -> None:
        """End and remove everything."""
        for kept in (self.up, self.mlflow, self.postgres):
            kept.forget()
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.mlflow.process is not None:
            for process in [
                *psutil.Process(self.mlflow.process.pid).children(recursive=True),
                psutil.Process(self.mlflow.process.pid),
            ]:
                process.kill()
        self.cluster.remove()
        if self.is_mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
