"""Do the four stages one by one or as a flow, and write latents for another training."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.terminal.command import Arguments, Result
from flows.terminal.options import EncodeOptions, EvaluateOptions, Options, RunOptions, WatchOptions
from flows.terminal.progress import progress
from pikavae.errors import PikavaeError
from pikavae.workspace.disks import diagnose
from pikavae.workspace.home import expand_user

if TYPE_CHECKING:
    from pikavae.config import Config
    from pikavae.operations import Labels


def run(arguments: Arguments[RunOptions]) -> Result:
    """Prepare, train, evaluate and register, as a Prefect flow."""
    from pikavae import operations

    config, fresh = arguments.config, arguments.options.fresh
    labels = labels_of(arguments)
    workspace = arguments.workspace
    with operations.attempt(workspace, operations.run_name(config, labels), attended=is_attended()):
        # The user's mistakes are reported before a server is started.
        start = operations.starting_weights(workspace, config)
        plans = operations.plan(workspace, config, start=start)
        finished = all(stage.status == "done" for stage in plans.values()) and not fresh
        if finished:
            done = operations.run(workspace, config, labels=labels)
        else:
            done = run_flow(workspace.home, config, labels, fresh=fresh)
    return done, closing_lines(done)


def labels_of(arguments: Arguments[RunOptions]) -> Labels:
    """Return what a command line calls its run.

    Raises:
        UserError: a name, note or tag that MLflow or Prefect would not take.
    """
    from pikavae.operations import read_labels

    options = arguments.options
    return read_labels(arguments.names[0], name=options.name, note=options.note, tags=options.tag)


def is_attended() -> bool:
    """Return True if a person types at a terminal, who sees a mistake in the command at once."""
    return sys.stdin is not None and sys.stdin.isatty()


def run_flow(home: Path, config: Config, labels: Labels, *, fresh: bool) -> dict[str, Any]:
    """Run the four stages as a flow, on the running server or on one for this run.

    Raises:
        PikavaeError: as the stages, or Prefect's server stopped answering.
    """
    from flows.server.environment import end_orphans, import_prefect, set_up_prefect
    from flows.server.prefect_server import start_server

    set_up_prefect(home)
    end_orphans(home)
    server = None if "PREFECT_API_URL" in os.environ else start_server(home)
    import_prefect()  # while the server starts
    import httpx

    from flows.pipeline import pipeline
    from flows.server.lost_runs import crash_runs_without_owner, mark_owner

    if server is not None:
        server.wait_until_healthy(f"{os.environ['PREFECT_API_URL']}/health")
    try:
        crash_runs_without_owner()
        return pipeline.with_options(on_running=[mark_owner])(config=config, fresh=fresh, labels=labels)
    except (httpx.TransportError, httpx.HTTPStatusError) as error:
        if (explained := diagnose(home)) is not None:
            raise explained from None
        remedy = f"see {server.log}" if server else "start the server, or unset PREFECT_API_URL"
        raise PikavaeError(
            f"Prefect's server stopped answering ({error}): {remedy}; the same command resumes the training"
        ) from None


def closing_lines(done: dict[str, Any]) -> str:
    """Return the lines for a person at the end of a run."""
    from pikavae import operations

    folder, program = Path(done["report"]), sys.argv[0]
    work = ", ".join(f"{name} {stage['status']} in {stage['seconds']:.0f} s" for name, stage in done["stages"].items())
    return "\n".join(
        [
            "",
            operations.Report.load(folder).table(),
            "",
            f"{work}.",
            f"Registered as {done['model']} version {done['version']}.",
            *(f"Warning: {warning}" for warning in done["warnings"]),
            "",
            f"Data page:             {done['page']}",
            f"Report with pictures:  {folder / operations.REPORT_PAGE}",
            f"Browse this run:       {program} ui --run {done['run_id']}",
            f"Try your own picture:  {program} reconstruct {done['version']} PICTURE.png --out reconstructions",
            f"Put it in production:  {program} promote {done['version']} --reason 'why'",
            f"All versions:          {program} models list",
        ]
    )


def plan(arguments: Arguments[Options]) -> Result:
    """Show what `run` would do."""
    from pikavae import operations

    workspace, config = arguments.workspace, arguments.config
    plans = operations.plan(workspace, config, start=operations.starting_weights(workspace, config))
    lines = [f"{name:<10}{stage.status:<8}{stage.reason}" for name, stage in plans.items()]
    return {"stages": {name: asdict(stage) for name, stage in plans.items()}}, "\n".join(lines)


def prepare(arguments: Arguments[Options]) -> Result:
    """Prepare the pictures."""
    from pikavae import operations

    with progress("preparing") as report:
        pictures = operations.prepare(arguments.workspace, arguments.config, report, warn=False).prepared_set
    return operations.data_summary(pictures), operations.data_lines(pictures)


def train(arguments: Arguments[RunOptions]) -> Result:
    """Prepare the pictures and train."""
    from pikavae import operations

    workspace, config, labels = arguments.workspace, arguments.config, labels_of(arguments)
    with operations.attempt(workspace, operations.run_name(config, labels), attended=is_attended()):
        start = operations.starting_weights(workspace, config)
        prepared = operations.prepare(workspace, config)
        fresh = arguments.options.fresh
        trained = operations.train(workspace, config, prepared, start=start, fresh=fresh, labels=labels)
    shown = ("start_step", "steps", "images_seen", "images_per_second")
    result = {"run_id": trained.run.run_id, **{name: getattr(trained.result, name) for name in shown}}
    return {**result, "snapshot": str(trained.snapshot)}, f"run {trained.run.run_id}\n{trained.snapshot}"


def evaluate(arguments: Arguments[EvaluateOptions]) -> Result:
    """Measure a model, show it beside others, and compare it with one."""
    from pikavae import operations

    workspace, options, config = arguments.workspace, arguments.options, arguments.config
    against = [] if options.against is None else [options.against]
    names = [*arguments.names, *against, *options.beside]
    model, *others = (operations.resolve(workspace, name, config) for name in names)
    beside = operations.beside(workspace, model, config, others)
    evaluated = beside.evaluated
    result = {"metrics": dict(evaluated.report.metrics), "report": str(evaluated.folder), **beside.summary()}
    lines = [beside.table(), "", f"Report: {evaluated.folder / operations.REPORT_PAGE}"]
    if beside.page is not None:
        lines += [f"Side by side: {beside.page}"]
    if options.against is not None:
        compared = operations.compare_models(workspace, model, others[0], config)
        result |= compared.summary()
        lines += ["", compared.table(), "", f"Comparison with pictures: {compared.page}"]
    return result, "\n".join(lines)


def watch(arguments: Arguments[WatchOptions]) -> Result:
    """Measure the champion on fresh pictures, beside its report."""
    from pikavae import operations

    workspace = arguments.workspace
    found = operations.watch_champion(workspace, arguments.settings, tolerance=arguments.options.tolerance)
    page = workspace.home / found.page
    lines = [
        *found.findings,
        "",
        f"Page with pictures: {page}",
        f"Its run in MLflow:  {sys.argv[0]} ui --run {found.run_id}",
    ]
    return {**found.content(), "page": str(page)}, "\n".join(lines)


def register(arguments: Arguments[Options]) -> Result:
    """Register a model as a candidate version."""
    from pikavae import operations

    model = operations.model_to_register(arguments.workspace, arguments.names[0], arguments.config)
    version = operations.register_model(arguments.workspace, model, arguments.config).version
    return {"model": version.name, "version": version.version}, f"{version.name} version {version.version}"


def encode(arguments: Arguments[EncodeOptions]) -> Result:
    """Store the latents of the prepared pictures."""
    from pikavae import operations

    workspace, options, config = arguments.workspace, arguments.options, arguments.config
    out = None if options.out is None else expand_user(options.out, "--out")
    model = operations.resolve(workspace, arguments.names[0], config)
    with progress("encoding") as report:
        done = operations.encode(
            workspace, model, config, out, logvar=options.logvar, precision=options.precision, progress=report
        )
    text = f"{done['path']}\n{done['num_images']} latents, scaling factor {done['scaling_factor']:.6g}"
    return done, f"{text}\n{done['distance']}" if "distance" in done else text
