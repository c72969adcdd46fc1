"""What everything around the model costs: a whole `pikavae run`'s training against a bare loop of the same model.

    python -m benchmarks.overhead --steps 400 --rounds 3

Bare: forward, loss, backward and optimizer step over batches that lie ready in memory; nothing is read, drawn, logged,
averaged or saved. Whole: the flow's training stage, as a person starts it: loader, noise, EMA, curves and pictures into
the journal and to MLflow, checkpoints with their validation, Prefect around it. Each in processes of its own, in turn;
medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from pikavae.config import Config, load_config
from pikavae.data.dataset import open_prepared
from pikavae.training.losses import autoencoder_terms
from pikavae.training.optimizers import build_optimizer
from pikavae.training.state import TrainState

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 10


def main() -> None:
    """Print a line for each round, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        print(json.dumps(bare(arguments.bare, arguments.steps, arguments.threads)))
        return
    with tempfile.TemporaryDirectory(prefix="pikavae-overhead-") as home:
        environment = {**os.environ, "PIKAVAE_HOME": home, "PYTHONPATH": str(ROOT)}
        flags = [f"--training.steps={arguments.steps}", f"--training.threads={arguments.threads}", "--json"]
        whole_command = [sys.executable, "-m", "flows.cli", "run", "demo", *flags, "--fresh"]
        times: dict[str, list[float]] = {"bare": [], "whole": []}
        for number in range(arguments.rounds):
            result = json.loads(last_line(whole_command, environment))
            trained = json.loads(Path(home, "runs", result["run_id"], "train.json").read_text())
            times["whole"].append(1.0 / trained["images_per_second"])
            (prepared,) = Path(home, "prepared").glob("*/record.json")
            bare_command = [sys.executable, "-m", "benchmarks.overhead", "--bare", str(prepared.parent)]
            bare_command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            times["bare"].append(float(last_line(bare_command, environment)))
            row = ", ".join(f"{name} {1000 * values[-1]:.2f} ms a picture" for name, values in times.items())
            print(f"round {number + 1}: {row}", flush=True)
        medians = {name: statistics.median(values) for name, values in times.items()}
        print(f"overhead {100 * (medians['whole'] / medians['bare'] - 1):.1f} %")


def last_line(command: list[str], environment: dict[str, str]) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def bare(folder: Path, steps: int, threads: int) -> float:
    """Seconds a picture of the bare loop."""
    config: Config = load_config("demo", {"training.steps": steps, "training.threads": threads})
    torch.set_num_threads(threads)
    size, device = config.training.batch_size, torch.device("cpu")
    state = TrainState.fresh(config, device)
    model, optimizer = state.model, build_optimizer(state.model, config.optimizer)
    pictures = open_prepared(folder).train
    batches = [
        pictures.batch(list(range(first, first + size)))["pixel_values"].contiguous(memory_format=torch.channels_last)
        for first in range(0, 16 * size, size)
    ]
    side = config.data.image_size // config.model.downsampling_factor
    noise = torch.randn(size, config.model.latent_channels, side, side)
    began = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            began = time.perf_counter()
        images = batches[step % len(batches)]
        reconstructions, posterior = model(images, noise)
        terms = autoencoder_terms(config.loss, images, reconstructions, posterior, 1.0, None)
        torch.stack([term.weighted for term in terms.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm or 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - began) / (steps * size)


if __name__ == "__main__":
    main()
