"""What everything around the model costs: a whole `pikavae run`'s training against a bare loop of the same model.

    python -m benchmarks.overhead --steps 400 --rounds 3

Bare: forward, loss, backward and optimizer step over batches that lie ready in memory, and the model's passes over the
validation pictures as often as the run makes them; nothing is read, drawn, measured, logged, averaged or saved. It
keeps freed memory as the worker does (`supervision.KEEP_FREED_MEMORY`); `plain`, shown beside it, does not. Whole:
the flow's training stage, as a person starts it: loader, noise, EMA, metrics, curves and pictures into the journal and
to MLflow, checkpoints, Prefect around it. Each in processes of its own, in turn, every second round backwards, and each
from its first step on; medians.

Beside the time stand seconds of CPU, user and system, which other work on the machine moves less: those of the process
that trains, from its first step to its end, and those of its parent meanwhile, Prefect's server included. The passes
over validation pictures are counted as the model's; one line counts them as overhead too.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from pikavae.config import Config
from pikavae.data.prepared.dataset import PictureSet, open_prepared
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.operations.running.supervision import KEEP_FREED_MEMORY
from pikavae.presets import load_config
from pikavae.training.journal import PROGRESS_NAME
from pikavae.training.losses import autoencoder_terms
from pikavae.training.optimizers import build_optimizer
from pikavae.training.state import TrainState

ROOT = Path(__file__).resolve().parents[1]
SECONDS_BETWEEN_LOOKS = 0.05
COLUMNS = ("plain", "bare steps", "bare", "whole", "bare CPU", "worker CPU", "parent CPU")


def main() -> None:
    """Print a table of milliseconds a picture, and what follows from its medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(json.dumps(bare(arguments.bare, arguments.steps, arguments.threads)))
        return
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="pikavae-overhead-") as home:
        environment = {**os.environ, "PIKAVAE_HOME": home, "PYTHONPATH": str(ROOT)}
        benchmark = Benchmark(environment, arguments.steps, arguments.threads)
        print(f"ms a picture | {' | '.join(COLUMNS)}\n--- |{' ---: |' * len(COLUMNS)}")
        for number in range(arguments.rounds):
            ways = [benchmark.plain, benchmark.bare, benchmark.whole]
            row = {name: 1000 * value for way in ways[:: -1 if number % 2 else 1] for name, value in way().items()}
            rows.append(row)
            print_row(f"round {number + 1}", row)
    medians = {name: statistics.median(row[name] for row in rows) for name in COLUMNS}
    print_row("median", medians)
    both = medians["worker CPU"] + medians["parent CPU"]
    for what, whole, base in (
        ("time around the model", medians["whole"], medians["bare"]),
        ("time against the plain loop", medians["whole"], medians["plain"]),
        ("time beside the training steps, validation counted", medians["whole"], medians["bare steps"]),
        ("CPU of the process that trains", medians["worker CPU"], medians["bare CPU"]),
        ("CPU with the parent's", both, medians["bare CPU"]),
    ):
        print(f"overhead, {what}: {100 * (whole / base - 1):.1f} %")


def print_row(name: str, values: dict[str, float]) -> None:
    """Print a line of the table."""
    print(f"{name} | {' | '.join(f'{values[column]:.2f}' for column in COLUMNS)}", flush=True)


@dataclass(frozen=True)
class Benchmark:
    """Both ways to train, each in processes of its own. Their numbers are seconds a picture.

    Attributes:
        environment: of the processes.
        steps: how many are trained.
        threads: of the process that trains.
    """

    environment: dict[str, str]
    steps: int
    threads: int

    def whole(self) -> dict[str, float]:
        """Return the time of a training as a person starts it, and the CPU's of both processes while it goes on."""
        command = [sys.executable, "-m", "flows.cli", "run", "demo", *self._flags(), "--fresh"]
        process = psutil.Popen(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, text=True)
        worker, parent = cpu_of_training(process)
        output, _ = process.communicate()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        folder = Path(self.environment["PIKAVAE_HOME"], "runs", json.loads(output.splitlines()[-1])["run_id"])
        trained = json.loads((folder / "train.json").read_text())
        pictures = trained["images_seen"]
        return {
            "whole": 1.0 / trained["images_per_second"],
            "worker CPU": worker / pictures,
            "parent CPU": parent / pictures,
        }

    def bare(self, variables: Mapping[str, str] = KEEP_FREED_MEMORY) -> dict[str, float]:
        """Return what the function `bare` measures, on the pictures that the command prepares."""
        prepared = self._output("-m", "flows.cli", "prepare", "demo", *self._flags())["path"]
        sizes = ["--steps", str(self.steps), "--threads", str(self.threads)]
        return self._output("-m", "benchmarks.overhead", "--bare", prepared, *sizes, **variables)

    def plain(self) -> dict[str, float]:
        """Return the time of the bare loop as Python starts it."""
        return {"plain": self.bare({})["bare"]}

    def _flags(self) -> list[str]:
        return [f"--training.steps={self.steps}", f"--training.threads={self.threads}", "--json"]

    def _output(self, *command: str, **variables: str) -> dict[str, Any]:
        """Return the last line that Python prints, which is JSON."""
        environment = {**self.environment, **variables}
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return values


def cpu_of_training(command: psutil.Popen) -> tuple[float, float]:
    """Seconds of CPU, while a command trains, of the process that does and of all others that the command has."""
    workers: list[psutil.Process] = []
    while not workers and command.poll() is None:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        workers = [process for process in command.children(recursive=True) if is_at_work(process)]
    if not workers:
        return math.nan, math.nan
    parents = [command, *(process for process in command.children(recursive=True) if process not in workers)]
    first = last = (cpu_of(workers), cpu_of(parents))
    with suppress(psutil.NoSuchProcess):  # it ended
        while all(process.status() != psutil.STATUS_ZOMBIE for process in workers):
            last = (cpu_of(workers), cpu_of(parents))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return last[0] - first[0], last[1] - first[1]


def is_at_work(process: psutil.Process) -> bool:
    """Return True if it is a process that trains, and has begun to."""
    try:
        words = process.cmdline()
    except psutil.Error:  # it ended meanwhile
        return False
    return "pikavae.training.worker" in words and Path(words[-1], PROGRESS_NAME).exists()


def cpu_of(processes: Iterable[psutil.Process]) -> float:
    """Their user and system time so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def bare(folder: Path, steps: int, threads: int) -> dict[str, float]:
    """Seconds a picture of the bare loop: of its steps alone, with the passes over validation pictures, and of CPU."""
    config: Config = load_config("demo", {"training.steps": steps, "training.threads": threads})
    torch.set_num_threads(threads)
    size, device = config.training.batch_size, torch.device("cpu")
    state = TrainState.fresh(config, device)
    model, optimizer = state.model, build_optimizer(state.model, config.optimizer)
    weights = list(model.parameters())
    prepared = open_prepared(folder)
    pictures = prepared.train
    batches = [ready(pictures, size, first) for first in range(0, 16 * size, size)]
    side = config.data.image_size // config.model.downsampling_factor
    noise = torch.randn(size, config.model.latent_channels, side, side)
    shown, scored = (
        ready(prepared.validation, config.training.preview_images),
        [
            ready(prepared.validation, len(indices), indices[0])
            for indices in prepared.validation.batches(config.evaluation.batch_size)
        ],
    )
    began, cpu, beside = time.perf_counter(), time.process_time(), 0.0
    for step in range(1, steps + 1):
        images = batches[step % len(batches)]
        reconstructions, posterior = model(images, noise)
        terms = autoencoder_terms(config.loss, images, reconstructions, posterior, 1.0, None)
        torch.stack([term.weighted for term in terms.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights, config.optimizer.max_grad_norm or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        since = time.perf_counter()
        for every, passes in ((config.training.preview_every, [shown]), (config.training.validate_every, scored)):
            if step % int(every) == 0:
                look(model, passes)
        beside += time.perf_counter() - since
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    count = steps * size
    return {"bare steps": (seconds - beside) / count, "bare": seconds / count, "bare CPU": cpu / count}


def ready(pictures: PictureSet, count: int, first: int = 0) -> Tensor:
    """(count, 3, H, W) float32 in [-1, 1], in the layout that the preset trains with."""
    images = pictures.batch(list(range(first, first + count)))["pixel_values"]
    return images.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def look(model: AutoencoderKL, passes: list[Tensor]) -> None:
    """Encode and decode each batch."""
    for images in passes:
        model.decode(model.encode(images).mode())


if __name__ == "__main__":
    main()
