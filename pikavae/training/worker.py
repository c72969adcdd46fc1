"""Run the process that trains: `python -m pikavae.training.worker RUN_FOLDER`, from a job in the run's folder.

It uses no tracker and no orchestrator: it reports in the run's journal, and writes how it ended to `outcome.json`. One
process needs no launcher. For several on this machine, this module calls torchrun. On several machines, start it on
each by torchrun or `accelerate launch`; all must share the file system of the run's folder.

Exit status: 0 done, 75 stopped from outside and saved, 73 another process trains in the folder, 74 a disk or folder
failed, 2 the user's mistake, 1 anything else.
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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pikavae.config import Config
from pikavae.errors import BusyError, PikavaeError
from pikavae.workspace.disks import explain
from pikavae.workspace.files import exclusive, forbid_recreation, write_atomically
from pikavae.workspace.run_record import JobRecord, TeacherRecord

JOB_NAME = "job.json"
OUTCOME_NAME = "outcome.json"
PARENT = "PIKAVAE_TRAINING_PARENT"
"""The environment variable with the id of the process whose end also ends the training."""
REFUSED = 73
"""The exit status if another process trains in the folder; that process writes the outcome."""
OUT_OF_ROOM = 74
"""The exit status if a disk or a folder failed; the outcome says how, unless it could not be written either."""
ORPHAN_SECONDS = 120
"""How long a process whose parent has ended may take to finish its step and save."""


@dataclass(frozen=True)
class Job:
    """Describes what to train, and how.

    Attributes:
        config: the whole configuration.
        prepared: folder of the prepared set.
        start: a snapshot folder with the first weights, or None.
        device: `cpu`, `cuda` or `mps`.
        threads: CPU threads of each process.
        processes: how many processes train on this machine.
        teacher: the autoencoder whose latents a tiny one learns, or None.
    """

    config: Config
    prepared: Path
    start: Path | None
    device: str
    threads: int
    processes: int
    teacher: TeacherRecord | None = None

    def write(self, folder: Path) -> None:
        """Write the job into a run's folder."""
        record = JobRecord(
            config=self.config.model_dump(mode="json"),
            prepared=str(self.prepared),
            start=None if self.start is None else str(self.start),
            teacher=self.teacher,
            device=self.device,
            threads=self.threads,
            processes=self.processes,
        )
        write_atomically(folder / JOB_NAME, record.to_json())

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Read the job of a run's folder.

        Raises:
            DamagedFileError: its file is damaged.
        """
        record = JobRecord.read(folder / JOB_NAME)
        return cls(
            config=Config.model_validate(record.config),
            prepared=Path(record.prepared),
            start=Path(record.start) if record.start else None,
            device=record.device,
            threads=record.threads,
            processes=record.processes,
            teacher=record.teacher,
        )


def main() -> int:
    """Do the job of the folder that the command line names, and return the exit status."""
    folder = Path(sys.argv[1])
    forbid_recreation(folder)
    try:
        return work(folder)
    except PikavaeError as error:
        say(error)
        return REFUSED if isinstance(error, BusyError) else error.exit_status
    except Exception as error:
        if (failure := explain(error, folder)) is None:
            raise
        say(failure)
        with suppress(OSError):
            write_outcome(folder, type(failure).__name__, str(failure))
        return OUT_OF_ROOM


def work(folder: Path) -> int:
    """Train, or start the processes that do, and return the exit status."""
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
    train_in(folder, job, stop)
    return 0


def say(error: PikavaeError) -> None:
    """Write why training ended to the log, if the log can be written."""
    with suppress(OSError):
        sys.stderr.write(f"pikavae: {error}\n")
        sys.stderr.flush()


def train_in(folder: Path, job: Job, stop: threading.Event) -> None:
    """Train, and write how it ended; one process of the group writes.

    Raises:
        BusyError: another process trains in the folder.
        PikavaeError: as `training.loop.train`, or memory ran out.
    """
    import torch

    from pikavae.data.prepared.dataset import open_prepared
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
                teacher=job.teacher,
                processes=processes,
                should_stop=stop.is_set,
            )
        except PikavaeError as error:
            write_outcome(folder, type(error).__name__, str(error))
            raise
        except (torch.OutOfMemoryError, MemoryError) as error:
            advice = out_of_memory_advice(job.config, error)
            write_outcome(folder, PikavaeError.__name__, advice)
            raise PikavaeError(advice) from error
        finally:
            if journal is not None:
                journal.close()
        if processes.is_main:
            values = {**asdict(result), "snapshot": result.snapshot.name}
            write_atomically(folder / OUTCOME_NAME, json.dumps({"result": values}, indent=2) + "\n")
    leave()


@contextmanager
def holding(folder: Path, *, writes: bool) -> Iterator[None]:
    """Hold the lock of a run's folder if this process writes in it; wait while an orphan there saves its last state."""
    if not writes:
        yield
        return
    busy = f"{folder}: another process trains this run; wait for its end"
    with exclusive(folder / "writer.lock", busy=busy, patience=ORPHAN_SECONDS):
        (folder / OUTCOME_NAME).unlink(missing_ok=True)
        yield


def write_outcome(folder: Path, error: str, message: str) -> None:
    """Write why training ended; if several processes fail, the first one's reason stays."""
    if not (folder / OUTCOME_NAME).exists():
        write_atomically(folder / OUTCOME_NAME, json.dumps({"error": error, "message": message}, indent=2) + "\n")


def launch(processes: int, folder: Path) -> int:
    """Start several processes on this machine by torchrun, which passes signals on; return their exit status."""
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
    """End when the process `parent` ends for any reason: finish the step and save; if that hangs, end at once."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="pikavae-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
