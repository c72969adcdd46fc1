"""Configurations of runs that take seconds."""

from pikavae.presets import load_config
from tests.conftest import TINY


def tiny(**overrides):
    """Return `demo` as a run of a few seconds."""
    return load_config("demo", {**TINY, **overrides})


def tiny_on_cpu(**overrides):
    """Return the same for a CPU, whatever this machine has."""
    return tiny(**{"training.device": "cpu", **overrides})
