"""A whole training, with all that is around the model, against its bare step."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.gpu.both import Ours, Row, Setting, free, in_turn, stepper

RUN_STEPS = 150
RECIPE = {
    "optimizer.name": "muon",
    "optimizer.learning_rate": 0.005,
    "optimizer.max_grad_norm": 1.0,
    "model.resample_shortcuts": True,
    "model.zero_init_residuals": True,
    "training.ema_decay": 0.995,
    "training.compile": False,
}
"""What the whole run trains with, beside sizes: the recipe of a training from nothing."""


def measure_whole(setting: Setting) -> list[Row]:
    """Measure a whole training, with all that is around the model, against the bare step of the same model."""
    from pikavae.data.prepare import prepare
    from pikavae.data.prepared.dataset import open_prepared
    from pikavae.presets import parse_config
    from pikavae.training.loop import train
    from pikavae.training.observer import Observer

    size, count = next(iter(setting.batches.items()))
    steps, block = (RUN_STEPS, 10) if setting.device.type == "cuda" else (4, 1)
    changes = {
        **RECIPE,
        "data.image_size": size,
        "data.source": "sprites",
        "data.sprites_count": 512 if setting.device.type == "cuda" else 24,
        "training.device": setting.device.type,
        "training.precision": "bf16",
        "training.batch_size": count,
        "training.steps": steps,
    }
    model = {f"model.{name}": value for name, value in setting.model.model_dump().items()}
    config = parse_config({}, overrides=model | changes)

    class Clock(Observer):
        """Notes when each block of steps has ended on the device."""

        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step(self, state: Any, *_: object) -> None:
            if state.step % block == 0:
                setting.synchronize()
                self.ends.append(time.perf_counter())

    clock, bare_setting = Clock(), copy.copy(setting)
    bare_setting.model, bare_setting.snapshot = config.model, None
    network = Ours(bare_setting)
    step = stepper(bare_setting, network, setting.batch(count, size, Ours.layout), "bf16", network)
    bare = in_turn(bare_setting, {"bare": step})["bare"]
    del network, step
    free(setting)
    with tempfile.TemporaryDirectory(prefix="pikavae-benchmark-") as folder:
        prepared = open_prepared(setting.prepared) if setting.prepared else None
        prepared = prepared or prepare(config.data, Path(folder, "prepared"))[0]
        result = train(config, prepared, Path(folder, "run"), setting.device, clock)
    free(setting)
    return share_of_bare(bare, clock.ends, block, result.images_per_second, count)


def share_of_bare(bare: float, ends: Sequence[float], block: int, whole: float, count: int) -> list[Row]:
    """Return rows of pictures a second: of the bare step, of the run's steps, and of the run with all that it does.

    Args:
        bare: seconds of a bare step.
        ends: when each block of steps of the run has ended; the second half counts.
        block: the steps of a block.
        whole: pictures a second of the whole run.
        count: pictures in a step.
    """
    blocks = [later - earlier for earlier, later in pairwise(ends)]
    step = statistics.median(blocks[len(blocks) // 2 :]) / block
    rates = {
        "bare step": count / bare,
        "run, steps between measurements": count / step,
        "run with first steps, validation, previews and checkpoints": whole,
    }
    return [{"what": name, "pictures/s": rate, "share of bare": rate * bare / count} for name, rate in rates.items()]
