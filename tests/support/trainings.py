"""An observer that writes down what a training tells it, and the weights that a training leaves."""

import torch
from safetensors.torch import load_file

from pikavae.model.snapshot import WEIGHTS_NAME
from pikavae.training.observer import Observer

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


class Notes(Observer):
    """Writes down what it is told, and ends the process at a step when asked to."""

    def __init__(self, kill_at=None):
        self.kill_at = kill_at
        self.points, self.previews, self.kept_steps, self.dropped_steps, self.begun = [], [], [], [], None

    def on_start(self, step):
        self.begun = step

    def on_step(self, state, loss, progress):
        if state.step == self.kill_at:
            raise Killed

    def log(self, metrics, step):
        self.points += [(step, name, value) for name, value in metrics.items()]

    def preview(self, reconstructions, step):
        self.previews.append((step, reconstructions))

    def on_checkpoint(self, step, metrics):
        self.kept_steps.append(step)

    def on_drop(self, step):
        self.dropped_steps.append(step)

    def values(self, name):
        return {step: value for step, point, value in self.points if point == name}


def weights(folder, step=6):
    return load_file(folder / "snapshots" / f"step-{step:08d}" / WEIGHTS_NAME)


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
