"""From the words of a command line to a configuration: presets, `--section.field value`, and one-line errors."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from pydantic import ValidationError

from pikavae.config import Config
from pikavae.errors import UserError
from pikavae.presets import did_you_mean, explain, field_names, parse_config, unknown_field_hint

ConfigFlags = Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]


@dataclass(frozen=True)
class Options:
    """What every command takes."""

    config: ConfigFlags
    json: bool = False
    """Print one JSON object as the last line of standard output, and everything for a person to standard error."""


@dataclass(frozen=True)
class RunOptions(Options):
    """What `run` and `train` take."""

    fresh: bool = False
    """Train again even if the same was trained before."""


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """What `evaluate` takes."""

    against: str | None = None
    """Another model, to measure on the same pictures and to compare with picture by picture."""
    beside: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Another model for the table, which may be said several times; the champion is there by itself."""


@dataclass(frozen=True)
class ReconstructOptions(Options):
    """What `reconstruct` takes."""

    out: str = "."
    """The folder for the reconstructed pictures."""


@dataclass(frozen=True)
class InterpolateOptions(Options):
    """What `interpolate` takes, after a model and two picture files of one size.

    It decodes the straight line between their latents. Both ends are reconstructions; what is between shows how
    smooth the decoder is, and is no picture of the data.
    """

    out: str = "."
    """The folder for the frames."""
    frames: int = 9
    """How many, both ends among them."""


@dataclass(frozen=True)
class SampleOptions(Options):
    """What `sample` takes, after a model, and picture files or none.

    An autoencoder makes no new pictures: that takes a diffusion model that was trained on its latents. Without picture
    files, it decodes noise of the latents' mean and deviation, which is where a diffusion model begins, to look at.
    With picture files, it decodes draws from their posteriors, which is what training sees.
    """

    out: str = "."
    """The folder for the pictures."""
    count: int = 4
    """How many draws, of each picture or in all."""
    seed: int = 0
    """Of the draws: the same seed gives the same pictures."""


@dataclass(frozen=True)
class EncodeOptions(Options):
    """What `encode` takes."""

    out: str | None = None
    """The folder for the latents; by default one below the state folder, named by what it holds."""
    logvar: bool = False
    """Store the posterior's log-variance as well, so that latents can be sampled."""


@dataclass(frozen=True)
class ReasonOptions(Options):
    """What `approve` and `rollback` take."""

    reason: str = ""
    """Why; kept in the ledger."""


@dataclass(frozen=True)
class PromoteOptions(ReasonOptions):
    """What `promote` takes."""

    force: bool = False
    """Override gates that fail, besides those of the files themselves; recorded, and still to be approved."""


@dataclass(frozen=True)
class ModelsOptions(Options):
    """What `models` takes."""

    all: bool = False
    """verify, repair: read the bytes of all versions that ever were champion, not of champion and previous alone."""
    head: str | None = None
    """repair: the ledger's last event, NUMBER:HASH, that you know to be right, where MLflow has none or another."""


@dataclass(frozen=True)
class PruneOptions(Options):
    """What `prune` takes."""

    dry_run: bool = False
    """List what would go, and change nothing."""
    keep: int | None = None
    """How many of the last snapshots of each run stay; by default as many as the run was told to keep."""


@dataclass(frozen=True)
class RelocateOptions(Options):
    """What `store relocate` takes."""

    old: Annotated[str | None, tyro.conf.arg(name="from")] = None
    """Where the state folder was; by default what MLflow's database says."""
    dry_run: bool = False
    """List what would be changed, and change nothing."""


@dataclass(frozen=True)
class UiOptions(Options):
    """What `ui` takes."""

    run: str | None = None
    """The id of a run to open."""
    port: int = 5000
    """The port on 127.0.0.1."""


@dataclass(frozen=True)
class UpOptions(Options):
    """What `up` takes."""

    mlflow_port: int = 5000
    """The port of the MLflow UI on 127.0.0.1."""
    prefect_port: int = 4200
    """The port of Prefect's server on 127.0.0.1."""


@dataclass(frozen=True)
class ScheduleOptions(Options):
    """What `schedule` takes."""

    cron: str = ""
    """Minute, hour, day of the month, month, day of the week; "0 3 * * 1" is Mondays at 3:00."""
    timezone: str = "UTC"
    """The IANA time zone of the line, such as Europe/Berlin."""
    name: str = ""
    """What the schedule is called; one of the same name is replaced. By default the preset's name."""
    from_champion: bool = False
    """Begin with the champion's weights instead of new ones."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse_options(kind: type[AnyOptions], base: Config, flags: Sequence[str], program: str) -> AnyOptions:
    """Lay the flags over `base`. `--help` prints the flags with their defaults and exits.

    Raises:
        UserError: a flag is unknown or its value out of bounds; one line with the remedy.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(flags), default=kind(config=base), prog=program, use_underscores=True)
    except ValidationError as error:  # what concerns two sections at once, tyro lets through
        raise UserError(explain(error)) from None
    except SystemExit as ending:
        if not ending.code:
            raise
    raise UserError(_explain(kind, base, flags, complaint.getvalue()))


def _explain(kind: type[Options], base: Config, flags: Sequence[str], complaint: str) -> str:
    """The first flag that is wrong, in one line, by our own check of the fields; tyro says it in a box of several."""
    known = {*field_names(), *kind.__dataclass_fields__} - {"config"}
    overrides: dict[str, Any] = {}
    for name, values in _values_by_flag(flags).items():
        if name not in known:
            return f"--{name}: no such flag; {did_you_mean(name, sorted(known)) or unknown_field_hint(name)}"
        if "." in name:
            overrides[name] = yaml.safe_load(values[0]) if len(values) == 1 else values
    try:
        parse_config(base.model_dump(mode="json"), where="command line", overrides=overrides)
    except UserError as error:
        return str(error)
    return " ".join(line.strip() for line in complaint.splitlines() if line.strip(" -─│╭╮╰╯"))


def _values_by_flag(flags: Sequence[str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    name = ""
    for word in flags:
        if word.startswith("--"):
            name, _, value = word[2:].replace("-", "_").partition("=")
            grouped[name] = [value] if value else []
        elif name:
            grouped[name].append(word)
        else:
            raise UserError(f"{word!r}: expected a flag such as --training.steps; the preset or model comes first")
    return grouped
