"""How long a promotion and a rollback of a full-size model take, phase by phase, besides the gates' evaluation.

    python -m benchmarks.promoting

The model has random weights and the size of the Stable Diffusion v1 VAE (335 MB). What is timed is what `approve` and
`rollback` do: bytes copied into the production store, published in MLflow, used by a fresh process, aliases moved.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pikavae.config import ModelConfig
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.snapshot import write_snapshot
from pikavae.production.changes import promote
from pikavae.production.changes.verify import verify_production
from pikavae.production.packages import store
from pikavae.registry import versions
from pikavae.tracker import run_log
from pikavae.tracker.client import Workspace

NAME = "candidates"
BOUNDS = {"promotion": 30.0, "rollback": 5.0}


def main() -> int:
    """Print the phases of two promotions and a rollback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=list(ModelConfig().channels))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pikavae-promoting-") as name:
        home = Path(name, "home")
        workspace = Workspace(home)
        size = register(workspace, Path(name), tuple(arguments.channels))
        print(f"a snapshot of {size / 1e6:.0f} MB", flush=True)
        phases: dict[str, float] = {}
        for module, function, phase in (
            (store, "keep", "bytes into the store"),
            (promote, "find_or_publish", "published in MLflow"),
            (promote, "smoke_test", "used by a fresh process"),
            (promote, "move", "ledger and aliases"),
        ):
            setattr(module, function, timed(getattr(module, function), phase, phases))
        slow = []
        for what, work in (
            ("promotion", functools.partial(promote.promote, workspace, model_name=NAME, version=1, reason="1")),
            ("promotion", functools.partial(promote.promote, workspace, model_name=NAME, version=2, reason="2")),
            ("rollback", functools.partial(promote.rollback, workspace, reason="3")),
        ):
            phases.clear()
            began = time.monotonic()
            work()
            seconds = time.monotonic() - began
            phases["the rest"] = seconds - sum(phases.values())
            print(f"{what:<10} {seconds:6.1f} s: " + ", ".join(f"{name} {took:.1f}" for name, took in phases.items()))
            if seconds > BOUNDS[what]:
                slow.append(what)
        began = time.monotonic()
        found = verify_production(workspace).disagreements
        print(f"verify     {time.monotonic() - began:6.1f} s: {len(found)} disagreements")
    return 1 if slow or found else 0


def register(workspace: Workspace, folder: Path, channels: tuple[int, ...]) -> int:
    """Register two candidates, and return the bytes of a snapshot."""
    client, experiment = workspace.client, workspace.experiment_id("training")
    run = run_log.RunLog.start(client, experiment, "a run", tags={}, params={})
    for number in (1, 2):
        snapshot = folder / f"step-{number:08d}"
        snapshot.mkdir()
        model = AutoencoderKL(ModelConfig(channels=channels))
        write_snapshot(snapshot, model, image_size=64, config="data: {}\n")
        versions.register(
            client,
            run_id=run.run_id,
            snapshot=snapshot,
            model_name=NAME,
            image_size=64,
            step=number,
            metrics={},
            tags={"pikavae.register_key": str(number)},
            description="",
        )
    return sum(path.stat().st_size for path in snapshot.iterdir())


def timed(function: Callable[..., Any], phase: str, phases: dict[str, float]) -> Callable[..., Any]:
    """Return the function, which adds its seconds to a phase."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        with measured(phase, phases):
            return function(*arguments, **named)

    return wrapped


@contextlib.contextmanager
def measured(phase: str, phases: dict[str, float]) -> Iterator[None]:
    """Add the seconds of the block to a phase."""
    began = time.monotonic()
    yield
    phases[phase] = phases.get(phase, 0.0) + time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
