"""Every test has a home of its own; nothing reaches the network or the user's state."""

import contextlib
import importlib.util
import logging
import os
from unittest import mock

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # read while mlflow is imported, here by the tests themselves
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read while torch is: test processes run beside each other

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read while Triton is imported: kernels run on the CPU, slowly

# The tests of model, training and evaluation also run where MLflow is not installed, as on a machine with a GPU
pytest_plugins = (
    [f"tests.support.{name}" for name in ("registries", "ready_database", "forking")]
    if importlib.util.find_spec("mlflow")
    else []
)

TINY = {
    "data.sprites_count": "24",
    "data.image_size": "16",
    "data.validation_fraction": "0.3",
    "model.channels": ["8", "8"],
    "model.norm_groups": "4",
    "training.steps": "6",
    "training.batch_size": "2",
    "training.threads": "1",
    "training.log_every": "1",
    "training.preview_every": "2",
    "training.validate_every": "2",
    "training.checkpoint_every": "2",
    "promotion.psnr_floor": "0",
    "evaluation.sizes": [],
}
"""A run of a few seconds, as overrides of `demo`."""


def pytest_configure():
    """Import Prefect before a test can set it up: it reads the environment once, and later tests would log to it."""
    with contextlib.suppress(ImportError):
        import prefect  # noqa: F401


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no test process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path):
    """A temporary PIKAVAE_HOME, none of the variables that would lead elsewhere, and none that a test leaves behind."""
    with mock.patch.dict(os.environ):
        for name in ("MLFLOW_TRACKING_URI", "PREFECT_HOME", "PREFECT_API_URL", "PIKAVAE_MLFLOW_UI", "HF_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIKAVAE_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # no weights of the user's cache
        logging.getLogger("pikavae").setLevel(logging.INFO)
        yield


@pytest.fixture(scope="session")
def vgg16_file(tmp_path_factory):
    """A file like that of torchvision's VGG16, its weights random."""
    from tests.support.networks import random_vgg16, saved

    return saved(random_vgg16(), tmp_path_factory.mktemp("vgg16") / "vgg16.pth")


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """A file like that of FID's Inception v3, its weights random."""
    from tests.support.networks import random_inception, saved

    return saved(random_inception(), tmp_path_factory.mktemp("inception") / "inception.pth")


@pytest.fixture
def tiny_flags():
    """`TINY` as words of a command line."""
    words = []
    for name, value in TINY.items():
        words += [f"--{name}", *([value] if isinstance(value, str) else value)]
    return words


@pytest.fixture
def folder_of_pictures(tmp_path):
    """Twelve small pictures with sidecar captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(12):
        small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((20, 18), Image.Resampling.BICUBIC).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"picture number {i}")
    return folder


DISTURBED_WORKER = """
# Python reads a module of this name in every process: here it disturbs the one that trains, at a step, once.
import os, sys
if "pikavae.training.worker" in sys.orig_argv:
    import pathlib
    from pikavae.training.step import Stepper

    real = Stepper.step
    what, step, once = os.environ["DISTURB"].split(",")
    def step_or_worse(self, *rest):
        if self.state.step == int(step) and not pathlib.Path(once).exists():
            if not once.endswith("never"):
                pathlib.Path(once).touch()
            if what == "kill":
                os.kill(os.getpid(), 9)
            if what == "kill everything":
                os.kill(os.getppid(), 9)
                os.kill(os.getpid(), 9)
            if what == "run out of memory":
                import torch
                raise torch.OutOfMemoryError("GPU 0 has a total capacity of 11.91 GiB of which")
            if what == "raise":
                from pikavae.errors import NonFiniteLossError
                raise NonFiniteLossError("step 3: loss nan")
        return real(self, *rest)
    Stepper.step = step_or_worse
"""


@pytest.fixture
def disturb(monkeypatch, tmp_path, real_process):
    """Makes the process that trains die or fail at a step."""

    def arrange(what, step, *, always=False):
        folder = tmp_path / "disturbance"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(DISTURBED_WORKER)
        once = "never" if always else "once"
        monkeypatch.setenv("DISTURB", f"{what},{step},{folder / once}")
        monkeypatch.syspath_prepend(str(folder))
        return folder

    return arrange
