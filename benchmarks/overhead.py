"""What everything around the model costs: a whole `pikavae run`'s training against a bare loop of the same model.

    python -m benchmarks.overhead --steps 400 --rounds 3

Bare: forward, loss, backward and optimizer step over batches that lie ready in memory, and the model's passes over the
validation pictures as often as the run makes them; nothing is read, drawn, measured, logged, averaged or saved. Whole:
the flow's training stage, as a person starts it: loader, noise, EMA, metrics, curves and pictures into the journal and
to MLflow, checkpoints, Prefect around it. Each in processes of its own, in turn; medians. The second figure counts the
passes over validation pictures as overhead too.
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
from torch import Tensor

from pikavae.config import Config
from pikavae.data.dataset import PictureSet, open_prepared
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.presets import load_config
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
        times: dict[str, list[float]] = {"steps": [], "bare": [], "whole": []}
        for number in range(arguments.rounds):
            result = json.loads(last_line(whole_command, environment))
            trained = json.loads(Path(home, "runs", result["run_id"], "train.json").read_text())
            times["whole"].append(1.0 / trained["images_per_second"])
            (prepared,) = Path(home, "prepared").glob("*/record.json")
            bare_command = [sys.executable, "-m", "benchmarks.overhead", "--bare", str(prepared.parent)]
            bare_command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
            for name, seconds in json.loads(last_line(bare_command, environment)).items():
                times[name].append(seconds)
            row = ", ".join(f"{name} {1000 * values[-1]:.2f} ms a picture" for name, values in times.items())
            print(f"round {number + 1}: {row}", flush=True)
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, what in (("bare", "around the model"), ("steps", "beside its training steps, validation counted")):
            print(f"overhead {what}: {100 * (medians['whole'] / medians[name] - 1):.1f} %")


def last_line(command: list[str], environment: dict[str, str]) -> str:
    """The last line that a command prints."""
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def bare(folder: Path, steps: int, threads: int) -> dict[str, float]:
    """Seconds a picture of the bare loop: of the training steps alone, and with the passes over validation pictures."""
    config: Config = load_config("demo", {"training.steps": steps, "training.threads": threads})
    torch.set_num_threads(threads)
    size, device = config.training.batch_size, torch.device("cpu")
    state = TrainState.fresh(config, device)
    model, optimizer = state.model, build_optimizer(state.model, config.optimizer)
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
    began = beside = 0.0
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
        if step >= WARM_UP:
            since = time.perf_counter()
            for every, passes in ((config.training.preview_every, [shown]), (config.training.validate_every, scored)):
                if (step - WARM_UP + 1) % int(every) == 0:
                    look(model, passes)
            beside += time.perf_counter() - since
    seconds = time.perf_counter() - began
    return {"steps": (seconds - beside) / (steps * size), "bare": seconds / (steps * size)}


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
