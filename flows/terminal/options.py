"""Declare each command's own options; the settings of the configuration are declared in `pikavae.config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field


def option(default: Any, text: str, *, name: str = "", repeats: bool = False, missing: str = "") -> Any:
    """Return a dataclass field for an option.

    Args:
        default: its value if it is not given.
        text: its help, one sentence.
        name: its name in the terminal, if that is no name in Python.
        repeats: True if each use of the flag adds a value.
        missing: the message if it is missing or blank; only for an option that a command cannot do without.
    """
    return field(default=default, metadata={"help": text, "name": name, "repeats": repeats, "missing": missing})


@dataclass(frozen=True)
class Options:
    """Holds the option of every command."""

    json: bool = option(False, "Print one JSON object as the last line, and everything else to standard error.")


@dataclass(frozen=True)
class RunOptions(Options):
    """Holds the options of `run` and `train`."""

    fresh: bool = option(False, "Train again even if the same training is finished.")
    name: str | None = option(
        None, "The run's name in MLflow and Prefect; by default the preset, what differs from it, and the time."
    )
    note: str | None = option(None, "What to know about the run, in Markdown; it stands first on the run's page.")
    tag: tuple[str, ...] = option(
        (), "A tag of the run as name=value, such as data=emoji; repeat the flag for more.", repeats=True
    )


@dataclass(frozen=True)
class SweepOptions(Options):
    """Holds the options of `sweep`."""

    space: str | None = option(None, "A YAML file with lists and ranges of values to try.")
    trials: int = option(
        30, "How many trials the sweep has in all. If lists have no more combinations, each of these is tried."
    )
    minutes: float | None = option(None, "Begin no trial after this time; the one that is under way ends.")
    metric: str | None = option(
        None, "The metric of the report that ranks trials; by default evaluation.primary_metric."
    )
    name: str = option("", "The sweep's name; by default one that follows from the preset and its settings.")
    seed: int = option(0, "The seed of the values that are drawn if not every combination is tried.")
    prune: bool = option(True, "Stop a trial early if its validation scores are worse than those of the others.")
    retry_failed: bool = option(False, "Try again what failed in an earlier attempt.")


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Holds the options of `evaluate`."""

    against: str | None = option(None, "A second model to measure and to compare with, picture by picture.")
    beside: tuple[str, ...] = option(
        (), "Another model for the table, which always has the champion; repeat the flag for more.", repeats=True
    )


@dataclass(frozen=True)
class WatchOptions(Options):
    """Holds the options of `watch`."""

    tolerance: float = option(
        0.0, "By how much the metric that ranks models may be worse than in the champion's report, in its unit."
    )


@dataclass(frozen=True)
class ReconstructOptions(Options):
    """Holds the options of `reconstruct`."""

    out: str = option(".", "The folder for the pictures, or a .png file if there is only one.")


@dataclass(frozen=True)
class InterpolateOptions(Options):
    """Holds the options of `interpolate`."""

    out: str = option(".", "The folder for the frames.")
    frames: int = option(9, "The number of frames, including both ends.")


@dataclass(frozen=True)
class SampleOptions(Options):
    """Holds the options of `sample`."""

    out: str = option(".", "The folder for the pictures.")
    count: int = option(4, "The number of draws from each picture, or in all if no picture is named.")
    seed: int = option(0, "The seed of the draws; the same seed gives the same pictures.")


@dataclass(frozen=True)
class EncodeOptions(Options):
    """Holds the options of `encode`."""

    out: str | None = option(None, "The folder for the latents; by default one in the state folder.")
    logvar: bool = option(False, "Also store the posterior's log-variance, which is needed to sample latents.")
    precision: Literal["float32", "bf16"] = option(
        "float32", "The encoder's format; for bf16 it is said how far the latents are from float32."
    )


@dataclass(frozen=True)
class HalfSafeOptions(Options):
    """Holds the options of `half-safe`."""

    out: str = option(
        "", "The new folder for the model.", missing="--out: it is missing; name a new folder for the rescaled model"
    )


@dataclass(frozen=True)
class ReasonOptions(Options):
    """Holds the reason that `approve` and `rollback` take."""

    reason: str = option(
        "",
        "The reason, which the ledger records.",
        missing="--reason: it is empty; say why, for those who read the ledger later",
    )


@dataclass(frozen=True)
class PromoteOptions(ReasonOptions):
    """Holds the options of `promote`."""

    force: bool = option(False, "Override gates that fail, except integrity and reports; the ledger records it.")


@dataclass(frozen=True)
class RulesOptions(ReasonOptions):
    """Holds the options of `rules set`."""

    approver: tuple[str, ...] = option(
        (),
        "Who may approve and change the rules: USER@HOST, or mlflow:NAME; repeat the flag for more. You must be one.",
        repeats=True,
    )
    two_people: bool = option(False, "Whoever asked for a promotion may not approve it.")
    request_days: Annotated[int, Field(ge=1, le=3650)] | None = option(
        None, "How many days a request waits before it expires."
    )
    automatic: bool = option(
        False, "Let promotion.approval automatic promote without a person, although there are such rules."
    )


@dataclass(frozen=True)
class SignOptions(Options):
    """Holds the options of `sign`."""

    reason: str = option("", "Why it is signed, for the ledger.")
    make_key: str | None = option(
        None, "Write a new private key to this file, and its public key beside it with .pub; sign nothing."
    )


@dataclass(frozen=True)
class VerifyOptions(Options):
    """Holds the options of `models verify`."""

    all: bool = option(False, "Read the bytes of every former champion too, not only of champion and previous.")


@dataclass(frozen=True)
class RepairOptions(VerifyOptions):
    """Holds the options of `models repair`."""

    head: str | None = option(
        None, "The ledger's last event as NUMBER:HASH that you know to be right, if MLflow has none or another."
    )


@dataclass(frozen=True)
class PruneOptions(Options):
    """Holds the options of `prune`."""

    dry_run: bool = option(False, "List what would be removed, and change nothing.")
    keep: int | None = option(
        None, "How many of each run's last snapshots to keep; by default its training.keep_checkpoints."
    )


@dataclass(frozen=True)
class HousekeepingOptions(Options):
    """Holds the options of `housekeeping`."""

    keep_backups: int = option(7, "How many backups of each database stay.")


@dataclass(frozen=True)
class RelocateOptions(Options):
    """Holds the options of `store relocate`."""

    old: str | None = option(
        None, "Where the state folder was; by default the place that MLflow's database names.", name="from"
    )
    dry_run: bool = option(False, "List what would be changed, and change nothing.")


@dataclass(frozen=True)
class UiOptions(Options):
    """Holds the options of `ui`."""

    run: str | None = option(None, "The id of a run to open.")
    port: int = option(5000, "The port on 127.0.0.1.")


@dataclass(frozen=True)
class UpOptions(Options):
    """Holds the options of `up`."""

    mlflow_port: int = option(5000, "The port of MLflow's pages.")
    prefect_port: int = option(4200, "The port of Prefect's server.")
    host: str = option(
        "127.0.0.1", "The IP address to listen on; one that other machines reach needs a password (PIKAVAE_AUTH_FILE)."
    )
    public_name: str = option(
        "", "This machine's name in links, as other machines know it; by default its host name, or --host."
    )
    write_systemd: str | None = option(
        None, "Start nothing, and write a unit for systemd that does, with these options, into this file."
    )
    write_compose: str | None = option(
        None, "Start nothing, and write a file for Docker Compose that does, with these options, into this file."
    )


@dataclass(frozen=True)
class NotifyOptions(Options):
    """Holds the options of `notify`."""

    test: bool = option(False, "Send a test to every address, and say which it reached.")
    send: bool = option(False, "Send what is pending now.")


@dataclass(frozen=True)
class ClockOptions(Options):
    """Holds what every schedule has."""

    cron: str = option(
        "",
        "The cron line: minute, hour, day of the month, month, day of the week.",
        missing='--cron is missing; an example is --cron "0 3 * * 1", Mondays at 3:00',
    )
    timezone: str = option("UTC", "The IANA time zone of the schedule, such as Europe/Berlin.")


@dataclass(frozen=True)
class ScheduleOptions(ClockOptions):
    """Holds the options of `schedule`."""

    name: str = option("", "The schedule's name, by default the preset's; a schedule of the same name is replaced.")
    from_champion: bool = option(False, "Begin with the champion's weights instead of new ones.")
    note: str | None = option(None, "What to know about the runs, in Markdown; it stands first on their pages.")
    tag: tuple[str, ...] = option(
        (), "A tag of the runs as name=value, such as data=emoji; repeat the flag for more.", repeats=True
    )


@dataclass(frozen=True)
class ScheduleWatchOptions(ClockOptions, WatchOptions):
    """Holds the options of `schedule watch`."""

    name: str = option("watch", "The schedule's name; a schedule of the same name is replaced.")


@dataclass(frozen=True)
class HousekeepingScheduleOptions(ClockOptions):
    """Holds the options of `schedule housekeeping`."""

    keep_backups: Annotated[int, Field(ge=1)] = option(7, "How many backups of each database stay.")


@dataclass(frozen=True)
class NewDataOptions(Options):
    """Holds the options of `schedule when-new`."""

    at_least: str = option("10%", "How many new pictures are enough: a number, or a share of those trained on.")
    cron: str = option("*/15 * * * *", "The cron line of the polls.")
    timezone: str = option("UTC", "The IANA time zone of the cron line, such as Europe/Berlin.")
    name: str = option("", "The schedule's name, by default the preset's; a schedule of the same name is replaced.")
    from_champion: bool = option(False, "Begin with the champion's weights instead of new ones.")
    note: str | None = option(None, "What to know about the runs, in Markdown; it stands first on their pages.")
    tag: tuple[str, ...] = option(
        (), "A tag of the runs as name=value, such as data=emoji; repeat the flag for more.", repeats=True
    )
    quiet_minutes: Annotated[float, Field(ge=0)] = option(
        10.0, "How long no file may have changed, so that no half copy is read."
    )
    tries: Annotated[int, Field(ge=1)] = option(3, "How often a training that fails is begun.")
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = option(
        0.1, "The share of added files that may be unreadable."
    )
    max_alike: Annotated[float, Field(ge=0, le=1)] = option(
        0.5, "The share of the added pictures that may be copies or look like another."
    )
    max_brightness: Annotated[float, Field(ge=0, le=1)] = option(
        0.25, "How far the new pictures' mean brightness may be off; 1 is black to white."
    )
    max_size: Annotated[float, Field(ge=1)] = option(3.0, "How many times larger or smaller new pictures may be.")
    max_gone: Annotated[float, Field(ge=0, le=1)] = option(0.5, "The share of the trained pictures that may be gone.")
