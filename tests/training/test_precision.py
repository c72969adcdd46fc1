"""What `training.precision: auto` stands for, and that it changes no training whose precision was set."""

import pytest
import torch

from pikavae.operations.stages import keys
from pikavae.operations.stages.runtime import for_this_machine
from pikavae.training.precision import resolve_precision

from .conftest import make_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def card(monkeypatch):
    """A CUDA device with or without bf16, as torch reports it."""

    def present(*, bf16: bool):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16 or including_emulation)

    return present


def key(config) -> str:
    return keys.key_of(keys.train_inputs(config, "fingerprint"))


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16"), (False, "float32")])
def test_it_is_bf16_on_cards_with_units_for_it(card, bf16, expected):
    card(bf16=bf16)
    assert resolve_precision(make_config(), CUDA).training.precision == expected


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_it_is_float32_elsewhere(card, device):
    card(bf16=True)
    assert resolve_precision(make_config(), torch.device(device)).training.precision == "float32"


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_what_is_set_stays(precision):
    config = make_config(**{"training.precision": precision})
    assert resolve_precision(config, CUDA) is config


def test_a_key_holds_what_it_stands_for(card):
    auto = make_config(**{"training.device": "auto"})
    assert key(for_this_machine(auto)) == key(make_config(**{"training.precision": "float32"}))
    card(bf16=True)
    assert key(for_this_machine(auto)) == key(make_config(**{"training.precision": "bf16"}))
    card(bf16=False)
    assert key(for_this_machine(auto)) == key(make_config(**{"training.precision": "float32"}))


def test_a_training_on_a_cpu_has_the_key_that_it_had_with_float32():
    on_cpu = {"training.device": "cpu"}
    resolved = for_this_machine(make_config(**on_cpu))
    assert resolved == make_config(**on_cpu, **{"training.precision": "float32"})
