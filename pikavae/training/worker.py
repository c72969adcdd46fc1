"""The process that trains: `python -m pikavae.training.worker RUN_FOLDER`, from a job that lies in the run's folder.

It knows no tracker and no orchestrator: what it tells is in the run's journal, and how it ended in `outcome.json`. One
process needs no launcher. Several on this machine are started by torchrun, which this module calls by itself. On
several machines start it on each by torchrun or `accelerate launch`; the run's folder must be on a file system that all
share.

Exit status: 0 done, 75 stopped from outside and saved, 73 another process trains in the folder, 2 the user's mistake, 1
anything else.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pikavae.config import Config
from pikavae.errors import BusyError, PikavaeError
from pikavae.files import exclusive, write_atomically

JOB_NAME = "job.json"
OUTCOME_NAME = "outcome.json"
PARENT = "PIKAVAE_TRAINING_PARENT"
"""The variable that names the process with which a training ends."""
REFUSED = 73
"""The exit status where another process trains in the folder; the outcome is that one's to write."""
ORPHAN_SECONDS = 120
"""How long an orphan may take to finish its step and save."""


@dataclass(frozen=True)
class Job:
    """What is to be trained, and how.

    Attributes:
        config: the whole configuration.
        prepared: folder of the prepared set.
        start: a snapshot folder with the first weights, or None.
        device: `cpu`, `cuda` or `mps`.
        threads: CPU threads of each process.
        processes: how many, on this machine.
    """

    config: Config
    prepared: Path
    start: Path | None
    device: str
    threads: int
    processes: int

    def write(self, folder: Path) -> None:
        """Put it into a run's folder."""
        fields = {
            "config": self.config.model_dump(mode="json"),
            "prepared": str(self.prepared),
            "start": None if self.start is None else str(self.start),
            "device": self.device,
            "threads": self.threads,
            "processes": self.processes,
        }
        write_atomically(folder / JOB_NAME, json.dumps(fields, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job that lies in a run's folder."""
        fields: dict[str, Any] = json.loads((folder / JOB_NAME).read_text(encoding="utf-8"))
        return cls(
            config=Config.model_validate(fields["config"]),
            prepared=Path(fields["prepared"]),
            start=Path(fields["start"]) if fields["start"] else None,
            device=fields["device"],
            threads=fields["threads"],
            processes=fields["processes"],
        )


def main() -> int:
    """Do the job of the folder that the command line names, and return the exit status."""
    folder = Path(sys.argv[1])
    stop = threading.Event()
    launched = "WORLD_SIZE" in os.environ
    end_with(os.getppid() if launched else int(os.environ.get(PARENT, os.getppid())))
    job = Job.read(folder)
    if job.processes > 1 and not launched:
        return launch(job.processes, folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.basicConfig(format="%(levelname)s:%(name)s:%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("pikavae").setLevel(logging.INFO)
    try:
        train_in(folder, job, stop)
    except PikavaeError as error:
        sys.stderr.write(f"pikavae: {error}\n")
        return REFUSED if isinstance(error, BusyError) else error.exit_status
    return 0


def train_in(folder: Path, job: Job, stop: threading.Event) -> None:
    """Train, and write how it ended; one process of the group writes.

    Raises:
        BusyError: another process trains in the folder.
        PikavaeError: as `training.loop.train`, and where memory ran out.
    """
    import torch

    from pikavae.data.dataset import open_prepared
    from pikavae.training.journal import Journal
    from pikavae.training.loop import train
    from pikavae.training.memory import out_of_memory_advice
    from pikavae.training.processes import join, leave

    torch.set_num_threads(job.threads)
    processes, device = join(job.device)
    journal = None
    with holding(folder, writes=processes.is_main):
        try:
            journal = Journal(folder) if processes.is_main else None
            result = train(
                job.config,
                open_prepared(job.prepared),
                folder,
                device,
                journal,
                start=job.start,
                processes=processes,
                told_to_stop=stop.is_set,
            )
        except PikavaeError as error:
            write_outcome(folder, type(error).__name__, str(error))
            raise
        except (torch.OutOfMemoryError, MemoryError) as error:
            said = out_of_memory_advice(job.config, error)
            write_outcome(folder, PikavaeError.__name__, said)
            raise PikavaeError(said) from error
        finally:
            if journal is not None:
                journal.close()
        if processes.is_main:
            values = {**asdict(result), "snapshot": result.snapshot.name}
            write_atomically(folder / OUTCOME_NAME, json.dumps({"result": values}, indent=2) + "\n")
    leave()


@contextmanager
def holding(folder: Path, *, writes: bool) -> Iterator[None]:
    """The right to write in a run's folder, for the process that writes. An orphan's last save is waited for."""
    if not writes:
        yield
        return
    busy = f"{folder}: another process trains in this run; it must end first"
    with exclusive(folder / "writer.lock", busy=busy, patience=ORPHAN_SECONDS):
        (folder / OUTCOME_NAME).unlink(missing_ok=True)
        yield


def write_outcome(folder: Path, error: str, message: str) -> None:
    """Write why training ended; of several processes that fail, the first is believed."""
    if not (folder / OUTCOME_NAME).exists():
        write_atomically(folder / OUTCOME_NAME, json.dumps({"error": error, "message": message}, indent=2) + "\n")


def launch(processes: int, folder: Path) -> int:
    """Start several processes on this machine by torchrun, and end as they do. It passes signals on to them."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    arguments = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    try:
        torchrun([*arguments, "--module", __spec__.name, str(folder)])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 1
    except SignalException:
        return 1
    return 0


def end_with(parent: int) -> None:
    """End when the process `parent` does, however it does: finish the step and save, and if that hangs, at once."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="pikavae-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
