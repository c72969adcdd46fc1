"""What a person sees of a training's speed."""

import itertools
import json
import logging
import sys
import time

from pikavae.training.display import Display
from pikavae.training.journal import PROGRESS_NAME


def test_time_left_is_that_of_the_last_minute(tmp_path, monkeypatch, caplog):
    """The first step took ten minutes, as if it were compiled; a step a second follows, and a hundred are left."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    caplog.set_level(logging.INFO)
    shown = Display(tmp_path)
    for step, second in enumerate(itertools.chain([0.0], range(600, 700)), 1):
        clock[0] = float(second)
        (tmp_path / PROGRESS_NAME).write_text(
            json.dumps({"start": 0, "step": step, "progress": step / 200, "loss": 1.0})
        )
        shown.update()
        shown.update()  # nothing new: it counts for nothing
    assert caplog.messages[-1] == "step 92, 46%, 1.00 steps/s, loss 1.0000, 108 s left"


def test_a_resumed_training_has_no_speed_before_its_second_step(tmp_path, monkeypatch, caplog):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    caplog.set_level(logging.INFO)
    shown = Display(tmp_path)
    for second, loss, progress in ((0, None, 0.0), (20, 0.5, 0.5), (40, 0.5, 0.75)):
        clock[0] = float(second)
        now = {"start": 10, "step": 10 if loss is None else 10 + second // 20, "progress": progress, "loss": loss}
        (tmp_path / PROGRESS_NAME).write_text(json.dumps(now))
        shown.update()
    assert caplog.messages == [
        "training resumes from the checkpoint of step 10",
        "step 11, 50%, loss 0.5000",
        "step 12, 75%, 0.05 steps/s, loss 0.5000, 20 s left",
    ]
