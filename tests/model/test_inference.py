"""A model that is prepared for use: float32 that is exact, and the layout of its device."""

import re

import pytest
import torch

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.inference import exact_float32, prepare_for_use
from tests.support.places import ROOT

SIZES = ModelConfig(channels=(8, 16), num_res_blocks=1, norm_groups=4)


def layouts(model):
    """Which layouts the 3x3 convolutions' weights have."""
    weights = [weight for weight in model.parameters() if weight.ndim == 4 and min(weight.shape) > 1]
    return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}


def test_on_the_cpu_only_the_type_changes():
    model = AutoencoderKL(SIZES).double().train()
    ready = prepare_for_use(model, torch.device("cpu"))
    assert ready is model
    assert not ready.training
    assert {weight.dtype for weight in ready.parameters()} == {torch.float32}
    assert layouts(ready) == {False}


def test_on_cuda_channels_are_innermost():
    """Without a GPU: the device is left out of each move, and noted."""
    devices = []

    class Here(AutoencoderKL):
        def to(self, *to, **layout):
            devices.extend(part for part in to if isinstance(part, torch.device))
            return super().to(*(part for part in to if not isinstance(part, torch.device)), **layout)

    ready = prepare_for_use(Here(SIZES), torch.device("cuda"))
    assert devices == [torch.device("cuda")]
    assert layouts(ready) == {True}


def test_no_other_code_moves_a_model_to_use_it():
    """So that none is left in the slow layout: tensors are moved elsewhere, and training's model by its state."""
    moves = re.compile(r"\bmodels?\.to\(|read_snapshot\([^\n]*\)\.to\(")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pikavae").rglob("*.py")
        if moves.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"pikavae/model/inference.py", "pikavae/training/state.py"}


@pytest.fixture
def fast():
    """A precision that a GPU may shorten, as a training leaves it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_float32_matmul_precision(before)


def settings():
    """What decides how exact float32 is on a GPU."""
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic


@pytest.mark.usefixtures("fast")
def test_float32_is_exact_inside_and_as_before_afterwards():
    before = settings()
    assert before != ("highest", False, False, True)
    inside = []

    def fail():
        with exact_float32():
            inside.append(settings())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside == [("highest", False, False, True)]
    assert settings() == before
