"""What an evaluation costs: all of it against the model's own encode and decode of the same pictures.

    python -m benchmarks.evaluating --model full --size 256 --count 32

Both in one process, on one device, in turn; medians. Pictures are sprites, drawn beforehand, that lie in memory as
8-bit ones. Own: each batch to the device, encoded and decoded. Whole: `evaluate`, from these pictures to the files of
the report. Studies and codecs look at a bounded number of pictures and a page shows as many, so that their share of a
large set is small. The second table has the parts that see every picture, in processor time of this process.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pikavae.config import EvaluationConfig, ModelConfig
from pikavae.data.pictures.form import RGB
from pikavae.data.sprites.draw import draw_sprite
from pikavae.evaluation.evaluate import measure, measurements_of
from pikavae.evaluation.measure.measurement import MeasuredBatch, images_of
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32
from pikavae.presets import load_config

MODELS: dict[str, Callable[[], ModelConfig]] = {"full": ModelConfig, "demo": lambda: load_config("demo").model}


@dataclass
class Sprites:
    """Drawn pictures, (N, 3, H, W) uint8."""

    content: Tensor
    digest: str = "sprites"

    @property
    def names(self) -> list[str]:
        """Return the pictures' numbers as names."""
        return [str(i) for i in range(len(self.content))]

    @property
    def captions(self) -> list[str]:
        """Return an empty caption for each picture."""
        return [""] * len(self.content)

    @property
    def channels(self) -> Sequence[str]:
        """Return the names of a picture's channels."""
        return RGB

    @property
    def image_size(self) -> int:
        """Return the pixels along a side."""
        return int(self.content.shape[-1])

    def __len__(self) -> int:
        return len(self.content)

    def pixels(self, indices: Sequence[int]) -> Tensor:
        """Return the pictures of these indices."""
        return self.content[list(indices)]

    def whole_pixels(self, index: int) -> Tensor | None:  # noqa: ARG002 - nothing is cut away
        """Return nothing: the pictures are shown whole."""
        return None

    def batches(self, size: int) -> Iterator[list[int]]:
        """Return all indices."""
        for start in range(0, len(self), size):
            yield list(range(start, min(start + size, len(self))))


def main() -> None:
    """Print a line for each round, the medians and the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="demo")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=EvaluationConfig().batch_size)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = AutoencoderKL(MODELS[arguments.model]()).eval().to(device)
    drawn = [np.array(draw_sprite(0, i, arguments.size).image) for i in range(arguments.count)]
    pictures = Sprites(torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous())
    config = EvaluationConfig(batch_size=arguments.batch_size)
    print(f"{arguments.model} model, {arguments.count} pictures of {arguments.size} px, {device}, ", end="")
    print(f"{arguments.threads} threads, batches of {arguments.batch_size}")
    whole(model, Sprites(pictures.content[:2]), config, device)  # libraries are imported by what uses them
    times: dict[str, list[float]] = {"own": [], "whole": []}
    for number in range(arguments.rounds):
        times["own"].append(own(model, pictures, config, device))
        times["whole"].append(whole(model, pictures, config, device))
        shown = ", ".join(f"{name} {values[-1]:.2f} s" for name, values in times.items())
        print(f"round {number + 1}: {shown}, ratio {times['whole'][-1] / times['own'][-1]:.3f}")
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"medians: own {medians['own']:.2f} s, whole {medians['whole']:.2f} s: ", end="")
    print(f"an evaluation takes {medians['whole'] / medians['own']:.3f} times the model's own passes")
    print(f"\n{'part':<14}{'ms a picture':>14}")
    for name, seconds in parts(model, pictures, config, device).items():
        print(f"{name:<14}{1000 * seconds / len(pictures):>14.2f}")


def own(model: AutoencoderKL, pictures: Sprites, config: EvaluationConfig, device: torch.device) -> float:
    """Seconds of the model's own passes."""
    began = time.perf_counter()
    with torch.inference_mode(), exact_float32():
        for indices in pictures.batches(config.batch_size):
            model.decode(model.encode(images_of(pictures, indices).to(device)).mode())
    wait(device)
    return time.perf_counter() - began


def whole(model: AutoencoderKL, pictures: Sprites, config: EvaluationConfig, device: torch.device) -> float:
    """Seconds of an evaluation."""
    with tempfile.TemporaryDirectory(prefix="pikavae-evaluating-") as out:
        began = time.perf_counter()
        measure(model, pictures, config, Path(out), device=device, provenance={})
        return time.perf_counter() - began


def parts(model: AutoencoderKL, pictures: Sprites, config: EvaluationConfig, device: torch.device) -> dict[str, float]:
    """Seconds of processor time by what takes them: the model, and each measurement."""
    spent: dict[str, float] = {}

    def timed(name: str, work: Callable[[], None]) -> None:
        began = time.process_time()
        work()
        wait(device)
        spent[name] = spent.get(name, 0.0) + time.process_time() - began

    with torch.inference_mode(), exact_float32():
        measurements = measurements_of(model, pictures, config, device)
        for indices in pictures.batches(config.batch_size):
            images = images_of(pictures, indices).to(device)
            made: list[MeasuredBatch] = []

            def pass_through(
                images: Tensor = images, made: list[MeasuredBatch] = made, indices: list[int] = indices
            ) -> None:
                posterior = model.encode(images)
                made.append(MeasuredBatch(indices, images, model.decode(posterior.mode()), posterior))

            timed("model", pass_through)
            for measurement in measurements:
                timed(type(measurement).__name__, partial(measurement.update, made[0]))
    return spent


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
