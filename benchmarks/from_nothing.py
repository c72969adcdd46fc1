"""Train a preset from nothing for some minutes, and print what it reaches on the validation pictures.

    python -m benchmarks.from_nothing --source ../shared/data/emoji --minutes 2
    python -m benchmarks.from_nothing --preset scratch-small --source sprites --minutes 1 --device cpu

The minutes count everything that a training does: first steps, compiling, validation, previews and checkpoints. A row
is a measurement of all validation pictures; the last line says how long measuring and previews took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from pikavae.data.prepare import prepare
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.presets import load_config
from pikavae.training.loop import train
from pikavae.training.observer import Observer
from pikavae.training.validation import Validation


class Scores(Observer):
    """Prints a row for each measurement."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Print the validation scores."""
        if "val/psnr" in metrics:
            seconds = time.perf_counter() - self.began
            print(f"| {step} | {seconds:.0f} | {metrics['val/psnr']:.2f} | {metrics['val/ssim']:.4f} |", flush=True)


class Looks:
    """Sums the seconds in which a training measures and shows validation pictures, to the end of the device's work."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._written = Validation.look

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self) -> Any:
        """Return a context in which looks are timed."""

        def look(validation: Validation, model: AutoencoderKL, *, measure: bool, show: bool) -> Any:
            if not (measure or show):
                return self._written(validation, model, measure=measure, show=show)
            self._synchronize()  # the steps before are not the look's
            began = time.perf_counter()
            result = self._written(validation, model, measure=measure, show=show)
            self._synchronize()
            self.seconds += time.perf_counter() - began
            return result

        return mock.patch.object(Validation, "look", look)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="scratch")
    parser.add_argument("--source", required=True, help="as `data.source`")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.FIELD=VALUE", help="more settings")
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    more = dict(one.split("=", 1) for one in chosen.set)
    settings = {"data.source": chosen.source, "training.minutes": chosen.minutes, "training.steps": 1_000_000}
    config = load_config(chosen.preset, {**settings, "training.device": device.type, **more})
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    with tempfile.TemporaryDirectory(prefix="pikavae-benchmark-") as folder:
        prepared = prepare(config.data, Path(folder, "prepared"))[0]
        print(f"{chosen.preset}, {len(prepared.train)} pictures, {len(prepared.validation)} held out; {card}\n")
        print("| step | seconds | PSNR dB | SSIM |\n| --- | --- | --- | --- |", flush=True)
        looks = Looks(device)
        with looks.timed():
            result = train(config, prepared, Path(folder, "run"), device, Scores())
    seconds = 60 * chosen.minutes
    print(f"\n{result.steps} steps, {result.images_per_second:.1f} pictures/s over everything")
    print(f"validation and previews: {looks.seconds:.1f} s, {looks.seconds / seconds:.1%} of {seconds:.0f} s")


if __name__ == "__main__":
    main()
