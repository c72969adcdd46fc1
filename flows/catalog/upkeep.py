"""List the commands that keep the state folder in order, and servers up."""

from __future__ import annotations

from flows.catalog.schedules import SCHEDULE_COMMANDS
from flows.commands import notify, upkeep
from flows.terminal import options
from flows.terminal.command import Command

UPKEEP_COMMANDS: dict[str, Command] = {
    "prune": Command(
        upkeep.prune,
        "Free disk space.",
        about="Each run keeps its best and last snapshots and those that something refers to.",
        options=options.PruneOptions,
        examples=("prune --dry-run", "prune --keep 1"),
    ),
    "housekeeping": Command(
        upkeep.housekeeping,
        "Close cut-off runs, prune, verify, back up, delete old logs.",
        about="`up` does this when it starts, and the deployment `housekeeping` does it in Prefect. The state folder's "
        "housekeeping.json says what was done.",
        options=options.HousekeepingOptions,
        examples=("housekeeping", "housekeeping --keep-backups 30"),
    ),
    "store relocate": Command(
        upkeep.relocate,
        "Correct MLflow's addresses after a move of the folder.",
        about="MLflow's database holds absolute addresses. Every other command refuses a state folder that was moved.",
        options=options.RelocateOptions,
        examples=("store relocate --dry-run", "store relocate --from /old/place/mlruns"),
    ),
    "up": Command(
        upkeep.up,
        "Run MLflow, Prefect and a worker until Ctrl-C.",
        about="The worker runs what is scheduled or asked for in Prefect's forms. A line here says how each "
        "run began and ended. Only this machine reaches the servers, unless --host opens them.",
        options=options.UpOptions,
        settings=("tracking",),
        examples=("up", "up --host 0.0.0.0 --prefect-port 4201"),
    ),
    **SCHEDULE_COMMANDS,
    "ui": Command(
        upkeep.ui,
        "Serve MLflow's pages until Ctrl-C.",
        about="If `up` or another `ui` serves them already, it shows the address and ends.",
        options=options.UiOptions,
        settings=("tracking",),
        examples=("ui", "ui --run RUN_ID"),
    ),
    "notify": Command(
        notify.notify,
        "Show what notifications are pending, or send a test.",
        about="Addresses are in `notify.yaml` of the state folder, or in the variable PIKAVAE_NOTIFY_URLS.",
        options=options.NotifyOptions,
        examples=("notify --test", "notify --send"),
    ),
    "doctor": Command(
        upkeep.doctor,
        "Report what is here, what is missing, and how to get it.",
        examples=("doctor", "doctor --json"),
    ),
}
