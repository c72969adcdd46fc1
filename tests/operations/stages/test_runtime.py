"""How many threads a training gets: as named, as before, or as many as are free."""

import logging

import pytest
import torch

from pikavae.operations.stages import runtime
from pikavae.operations.stages.runtime import threads_of, use_threads
from pikavae.presets import load_config
from pikavae.training.loop import train
from tests.training.conftest import config, make_config, prepared  # noqa: F401 - fixtures


@pytest.fixture(autouse=True)
def sixteen(monkeypatch):
    """A machine of sixteen CPUs, eleven of them free, whose user names no number."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runtime, "count_allowed", lambda: 16)
    monkeypatch.setattr(runtime, "count_free", lambda: 11)
    torch.set_num_threads(16)
    yield
    torch.set_num_threads(before)


NAMED = {"training.threads": 3}


@pytest.mark.parametrize(
    ("overrides", "environment", "processes", "threads"),
    [({}, {}, 1, 11), ({}, {}, 4, 2), ({}, {"OMP_NUM_THREADS": "16"}, 1, 16), (NAMED, {"OMP_NUM_THREADS": "16"}, 2, 3)],
)
def test_a_training_takes_what_is_free_unless_a_number_is_named(
    tmp_path, monkeypatch, overrides, environment, processes, threads, caplog
):
    caplog.set_level(logging.INFO)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert threads_of(load_config("demo", overrides), processes, tmp_path) == threads
    assert ("training takes 11 of 16 CPUs" in caplog.text) is (not overrides and not environment)


def test_a_training_resumes_with_the_threads_it_had(tmp_path, prepared, config, monkeypatch):  # noqa: F811
    """So that it ends with the same bits, however busy the machine is when it resumes."""
    torch.set_num_threads(2)
    train(config, prepared, tmp_path, torch.device("cpu"))
    torch.set_num_threads(16)
    automatic = make_config(**{"training.threads": None})
    assert threads_of(automatic, 1, tmp_path / "checkpoints") == 2
    assert threads_of(automatic, 2, tmp_path / "checkpoints") == 5  # other processes, other rounding
    assert threads_of(make_config(**NAMED), 1, tmp_path / "checkpoints") == 3
    newest = max((tmp_path / "checkpoints").iterdir()) / "state.json"
    newest.write_text("{")
    assert threads_of(automatic, 1, tmp_path / "checkpoints") == 2  # of the whole one before


def test_work_in_this_process_has_one_number_however_busy_the_machine_is(monkeypatch):
    use_threads(load_config("demo"))
    assert torch.get_num_threads() == 16
    monkeypatch.setattr(runtime, "count_allowed", lambda: 5)
    use_threads(load_config("demo"))
    assert torch.get_num_threads() == 5
    use_threads(load_config("demo", NAMED))
    assert torch.get_num_threads() == 3
