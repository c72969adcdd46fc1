"""A command takes the settings that it reads, and refuses the others with the commands that read them."""

import sys
from pathlib import Path

import pytest

from flows import housekeeping
from flows.catalog import COMMANDS
from flows.cli import main
from flows.command_line import arguments
from flows.server import environment
from flows.server.environment import Services
from pikavae import config as configuration
from pikavae.config import Config
from pikavae.presets import field_names, load_config
from pikavae.production.changes import promote
from tests.conftest import TINY
from tests.support import commands
from tests.support.house import files_alone
from tests.support.published_forms import write_form

NAMES = set(field_names())
IN_SOME_CASES = {"model.channels", "model.norm_groups", "data.image_size", "model.like"}
"""The sides of pictures are checked against the model's levels, and a file of weights may lack its groups and side.

`model.like` is read by the configuration alone, which replaces it by sizes."""
NOT_RUN = {"run", "plan", "train", "sweep", "schedule", "schedule when-new", "watch"}
"""They read every section; `watch` reads the champion's configuration, with its own settings in it."""
SERVERS = {
    "up",
    *(f"schedule {verb}" for verb in ("list", "pause", "resume", "run", "remove", "housekeeping", "watch")),
}
"""They need a server; `up` reads what `ui` reads"""


class Recorder:
    """Notes which settings of a command line's configuration are read."""

    def __init__(self, monkeypatch):
        self.sections, self.read = {}, set()
        recorder = self

        def reading(section, name):
            recorder.note(section, name, sys._getframe(1).f_code.co_filename)
            return object.__getattribute__(section, name)

        for part in Config.model_fields.values():
            monkeypatch.setattr(part.annotation, "__getattribute__", reading)
        override = arguments.override
        monkeypatch.setattr(arguments, "override", lambda base, given: self.watch(override(base, given)))

    def watch(self, config):
        """Note from now on what is read of a configuration."""
        self.sections = {id(section): (name, section) for name, section in config}
        self.read.clear()
        return config

    def note(self, section, name, file):
        """Note a read, except by the configuration itself, whose `flat` reads everything, for records and keys."""
        if id(section) not in self.sections or Path(file).parent == Path(configuration.__file__).parent:
            return
        dotted = f"{self.sections[id(section)][0]}.{name}"
        self.read |= {"model.channels"} if name == "downsampling_factor" else {dotted} & NAMES


@pytest.mark.slow
def test_commands_take_what_they_read(monkeypatch, capsys, tmp_path, folder_of_pictures):
    finished = commands.run(load_config("demo", TINY))
    run, version, picture = f"run:{finished['run_id']}", str(finished["version"]), folder_of_pictures / "00.png"
    weights, groups = write_form("LDM file", tmp_path / "theirs"), ("--model.norm_groups", "4")
    served = Services(owner="", mlflow="http://127.0.0.1:9", prefect="")
    monkeypatch.setattr(environment, "running_services", lambda *_: served)
    monkeypatch.setattr(housekeeping, "_close_flow_runs", lambda: "no server is asked")
    monkeypatch.setenv("PIKAVAE_NOTIFY_URLS", "http://127.0.0.1:9/")  # where nobody listens
    monkeypatch.setattr(promote, "smoke_test", files_alone)
    out, by = ("--out", tmp_path / "out"), ("--reason", "a test")
    small = ("--data.source", folder_of_pictures, "--data.image_size", "16", "--evaluation.sizes", "none")
    recorder, read = Recorder(monkeypatch), {}
    for name, *words in [
        ("prepare", "demo", "--data.sprites_count", "24"),
        ("evaluate", run),
        ("evaluate", weights, *groups, *small),
        ("evaluate", version, "--against", f"{run}@2"),
        ("register", f"{run}@2"),
        ("register", weights, *groups, *small, "--model.channels", "8", "16"),
        ("reconstruct", version, picture, *out),
        ("reconstruct", weights, picture, *out, *groups),
        ("interpolate", version, picture, picture, *out),
        ("interpolate", weights, picture, picture, *out, *groups),
        ("sample", version, picture, *out),
        ("sample", weights, picture, *out, *groups),
        ("half-safe", version, picture, "--out", tmp_path / "half-safe"),
        ("half-safe", weights, picture, "--out", tmp_path / "half-safe-too", *groups),
        ("encode", version),
        ("encode", weights, *groups, *small[:4]),
        ("import", weights, *groups, "--registry.model_name", "others"),
        ("export", version, tmp_path / "model"),
        ("export", weights, tmp_path / "vae.safetensors", *groups),
        ("promote", version, *by),
        ("promote", weights, *by, *groups, *small, "--promotion.psnr_floor", "0"),
        ("approve", version, *by),
        ("rules",),
        ("rules set", "--request-days", "7", *by),
        ("models list",),
        ("models show", version),
        ("models show", run),
        ("models lineage", version),
        ("models lineage", run),
        ("models history",),
        ("models verify",),
        ("models repair",),
        ("rollback", *by),
        ("sign", "--make-key", tmp_path / "key"),
        ("prune", "--dry-run"),
        ("housekeeping",),
        ("store relocate", "--dry-run"),
        ("ui",),
        ("notify",),
        ("doctor",),
    ]:
        recorder.watch(Config())
        status = main([*name.split(), *map(str, words)])
        assert status in ((0, 3) if name in ("promote", "rollback") else (0,)) or name == "rollback", (
            name,
            words,
            capsys.readouterr().err,
        )
        read.setdefault(name, set()).update(recorder.read)
    assert read.keys() | NOT_RUN | SERVERS == COMMANDS.keys()
    taken = {name: {field for field in NAMES if COMMANDS[name].reads(field)} for name in read}
    assert {name: fields - taken[name] for name, fields in read.items() if fields - taken[name]} == {}
    single = {name: {setting for setting in COMMANDS[name].settings if "." in setting} for name in read}
    unread = {name: fields - read[name] - IN_SOME_CASES for name, fields in single.items()}
    assert {name: fields for name, fields in unread.items() if fields} == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["rollback", "--training.steps", "3"],
            "--training.steps: `rollback` does not read this setting; run, plan, t",
        ),
        (
            ["prune", "--data.source=x"],
            "--data.source: `prune` does not read this setting; run, plan, prepare, train, s",
        ),
        (["doctor", "--no-data.flip"], "--no-data.flip: `doctor` does not read this setting; run, plan, prepare, "),
        (["evaluate", "1", "--loss.kl-weight", "0"], "`evaluate` does not read this setting; run, plan, train, sweep"),
        (["approve", "1", "--data.source", "x"], "--data.source: `approve` does not read this setting; run, "),
        (
            ["up", "--promotion.approval", "manual"],
            "; run, plan, train, sweep, promote, approve, schedule and schedule when-new do",
        ),
        (["run", "--cron", "x"], "--cron: `run` takes no such flag; schedule, schedule "),
        (
            ["models", "show", "1", "--all"],
            "--all: `models show` takes no such flag; models verify and models repair do",
        ),
        (["schedule", "list", "--cron", "x"], "--cron: `schedule list` takes no such flag; schedule, sch"),
    ],
)
def test_a_setting_that_a_command_does_not_read_is_refused_with_the_commands_that_do(words, said, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_prepare_takes_the_line_of_a_run(capsys):
    line = ["demo", "--training.steps", "3", "--data.source", "no/such/folder"]
    for command in ("prepare", "run"):
        assert main([command, *line]) == 2
        assert "data.source 'no/such/folder'" in capsys.readouterr().err
