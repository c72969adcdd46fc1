"""Fourteen days: what happens on each, and at which moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pikavae.training.journal import JOURNAL_NAME
from pikavae.workspace.runs import TRAIN_NAME
from tests.faults.fortnight.box import Box, wait_for
from tests.support.listening import Listener

FIRST_PICTURES, PICTURES_A_DAY, SIDE = 48, 4, 32
MID_TRAINING_LINES = 12
STEP_SECONDS = 150
"""How far the clock steps: more than the schedule's period."""


@dataclass
class Night:
    """A day of the fortnight, and what came of it.

    Attributes:
        number: from 1 on.
        fault: what went wrong, in words.
        act: does it, given the box and the day.
        waits: whether the day lasts until its pictures are trained on; if not, the next day's pictures come at once.
        known: the folders of the trainings of the days before.
        seconds: how long it lasted.
    """

    number: int
    fault: str
    act: Callable[[Box, Night, Listener], None]
    waits: bool = True
    known: set[Path] = field(default_factory=set)
    run: Path | None = None
    seconds: float = 0.0

    def begun(self, box: Box) -> Path:
        """Wait until its training has begun, and return the run's folder."""
        new = wait_for(lambda: box.runs() - self.known, f"day {self.number}: the beginning of a training")
        (self.run,) = new
        box.set_schedule(active=False)  # once a day
        return self.run

    def mid_training(self, box: Box) -> Path:
        """Wait until its training is under way."""
        run = self.begun(box)
        wait_for(
            lambda: (
                (run / JOURNAL_NAME).exists() and (run / JOURNAL_NAME).read_bytes().count(b"\n") > MID_TRAINING_LINES
            ),
            f"day {self.number}: the first steps",
            0.02,
        )
        assert not (run / TRAIN_NAME).exists(), f"day {self.number}: the training was too short to be hit"
        return run


def add_pictures(folder: Path, day: int) -> None:
    """Put a day's pictures into the source, each with its name at once, as a copy program does that renames."""
    folder.mkdir(exist_ok=True)
    count = PICTURES_A_DAY if day else FIRST_PICTURES
    for number in range(count):
        generator = np.random.default_rng(1000 * day + number)
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        temporary = folder / ".arriving"
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(temporary, format="PNG")
        temporary.rename(folder / f"day-{day:02d}-{number:02d}.png")


def add_damaged_pictures(folder: Path) -> None:
    """Put pictures into the source that cannot be read: cut short, empty, and a text."""
    whole = next(folder.glob("*.png")).read_bytes()
    (folder / "cut-short.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "a-text.png").write_text("this is no picture")


def nothing(_box: Box, _night: Night, _listener: Listener) -> None:
    """Leave the box alone."""


def promote(box: Box, night: Night, _listener: Listener) -> None:
    """Make the first version champion, so that later ones are compared with it."""
    finished(box, night)
    box.command("promote", "1", "--reason", "the first", works=(3,))
    box.command("approve", "1", "--reason", "seen")


def damaged_pictures(box: Box, night: Night, listener: Listener) -> None:
    """The listener refuses everything until the day's run has ended; it was given damaged pictures."""
    listener.status = 500
    finished(box, night)
    listener.status = 200


def kill(role: str) -> Callable[[Box, Night, Listener], None]:
    """Kill the processes of a role while the day's training is under way."""

    def act(box: Box, night: Night, _listener: Listener) -> None:
        night.mid_training(box)
        box.kill(role)

    return act


def kill_mlflow(box: Box, night: Night, _listener: Listener) -> None:
    """Kill MLflow's server with its workers."""
    import psutil

    night.mid_training(box)
    assert box.mlflow.process is not None
    parent = psutil.Process(box.mlflow.process.pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.kill()


def kill_postgres(box: Box, night: Night, _listener: Listener) -> None:
    """Kill PostgreSQL while a training is under way."""
    night.mid_training(box)
    box.cluster.kill()


def kill_postgres_after_training(box: Box, night: Night, _listener: Listener) -> None:
    """Kill PostgreSQL when the training has ended and the model is measured."""
    run = night.begun(box)
    wait_for((run / TRAIN_NAME).exists, "the end of the training", 0.01)
    box.cluster.kill()


def fill_disk(box: Box, night: Night, _listener: Listener) -> None:
    """Fill the disk of the state folder until the run has ended, or nothing moves any more; then make room."""
    night.mid_training(box)
    filler = box.disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):  # "No space left on device"
        while True:
            file.write(bytes(2**20))
    deadline = time.monotonic() + 60
    while box.find("flow") and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(15)  # a look of `up` at the news, which it cannot write down now
    filler.unlink()


def step_clock(seconds: int) -> Callable[[Box, Night, Listener], None]:
    """Let the clock of everything that `up` has started step while a training is under way."""

    def act(box: Box, night: Night, _listener: Listener) -> None:
        night.mid_training(box)
        box.set_clock(seconds)

    return act


def kill_before_comparing(box: Box, night: Night, _listener: Listener) -> None:
    """Kill the flow when its version is registered and not yet compared with the champion."""
    run = night.begun(box)
    wait_for(lambda: any(run.glob("registrations/*.json")), "the registration", 0.005)
    box.kill("flow")


def reboot(box: Box, night: Night, _listener: Listener) -> None:
    """Kill everything at once, and start it again."""
    night.mid_training(box)
    box.kill_everything()
    box.boot()


def finished(box: Box, night: Night) -> None:
    """Wait until the day's training has a version and nothing is at work; the schedule fires again if that needs it."""
    run = night.run or night.begun(box)

    def is_over() -> bool:
        if box.is_at_work():
            return False
        has_version = any(run.glob("registrations/*.json"))
        box.set_schedule(active=not has_version)
        return has_version

    wait_for(is_over, f"day {night.number}: its version", 2.0)


def plan(box: Box) -> list[Night]:
    """The fortnight. Without a C compiler the clock is left alone, and the days say so."""
    has_clock = box.has_clock
    forward, back = f"the clock steps {STEP_SECONDS} s forward", f"the clock steps {STEP_SECONDS} s back"
    missing = "left alone: no C compiler for the clock"
    disk = "the disk is full" if box.is_mounted else "left alone: no small disk could be mounted"
    acts: list[tuple[str, Callable[[Box, Night, Listener], None]]] = [
        ("none; its version becomes champion", promote),
        ("kill -9 of the training", kill("training")),
        ("kill -9 of PostgreSQL", kill_postgres),
        ("kill -9 of the worker", kill("worker")),
        (disk, fill_disk if box.is_mounted else nothing),
        ("kill -9 of the flow before it compares", kill_before_comparing),
        ("a reboot: everything killed at once", reboot),
        ("damaged pictures; the address refuses", damaged_pictures),
        ("kill -9 of PostgreSQL after training", kill_postgres_after_training),
        ("kill -9 of MLflow's server", kill_mlflow),
        (forward if has_clock else missing, step_clock(STEP_SECONDS) if has_clock else nothing),
        (back if has_clock else missing, step_clock(0) if has_clock else nothing),
        ("kill -9 of the flow, and new pictures at once", kill("flow")),
        ("kill -9 of Prefect's server", kill("Prefect")),
    ]
    nights = [Night(number, fault, act) for number, (fault, act) in enumerate(acts, 1)]
    nights[12].waits = False
    return nights


def live(box: Box, night: Night, listener: Listener) -> None:
    """Live through a day: its pictures come while nothing is at work, and the schedule does the rest."""
    began = time.monotonic()
    wait_for(lambda: not box.is_at_work(), "the end of what runs", 2.0)
    night.known = box.runs()
    if night.act is damaged_pictures:
        add_damaged_pictures(box.source)
    add_pictures(box.source, night.number)
    box.set_schedule(active=True)
    night.act(box, night, listener)
    if night.waits:
        finished(box, night)
    night.seconds = time.monotonic() - began
