"""The commands of the four stages, and `encode`, whose latents another training begins with."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.options import EncodeOptions, EvaluateOptions, Options, RunOptions
from flows.progress import progress
from flows.words import Result, model_options, preset_options, refuse_extra
from pikavae.errors import PikavaeError


def run(words: list[str]) -> Result:
    """Prepare, train, evaluate and register, as a Prefect flow."""
    options = preset_options("run", words, RunOptions)
    from pikavae import operations

    plans = operations.plan(options.config)  # the user's mistakes show before a server is started
    finished = all(stage.status == "hit" for stage in plans.values()) and not options.fresh
    if finished:
        done = operations.run(options.config)
    else:
        from flows.environment import end_orphans, set_up_prefect

        set_up_prefect(operations.home())
        end_orphans(operations.home())
        done = run_flow(options)
    return done, closing_lines(done)


def run_flow(options: RunOptions) -> dict[str, Any]:
    """The four stages as a flow; raises a PikavaeError when Prefect's server went away and did not come back."""
    import httpx

    from flows.pipeline import pipeline

    try:
        return pipeline(options.config, fresh=options.fresh)
    except httpx.TransportError as error:
        raise PikavaeError(
            f"Prefect's server stopped answering ({error}); what was trained is kept: start the server, or unset "
            f"PREFECT_API_URL, and the same command goes on from there"
        ) from None


def closing_lines(done: dict[str, Any]) -> str:
    """What a person wants to know at the end of a run."""
    from pikavae import operations

    folder, program = Path(done["report"]), sys.argv[0]
    work = ", ".join(f"{name} {stage['status']} in {stage['seconds']:.0f} s" for name, stage in done["stages"].items())
    return "\n".join(
        [
            "",
            operations.load_report(folder).table(),
            "",
            f"{work}.",
            f"Registered as {done['model']} version {done['version']}.",
            "",
            f"Report with pictures:  {folder / operations.REPORT_PAGE}",
            f"Browse this run:       {program} ui --run {done['run_id']}",
            f"Try your own picture:  {program} reconstruct {done['version']} PICTURE.png --out reconstructions",
            f"Put it in production:  {program} promote {done['version']} --reason 'why'",
            f"All versions:          {program} models list",
        ]
    )


def plan(words: list[str]) -> Result:
    """Say what `run` would do: what is used again, what runs, and which input changed."""
    options = preset_options("plan", words, Options)
    from pikavae import operations

    plans = operations.plan(options.config)
    lines = [f"{name:<10}{stage.status:<8}{stage.reason}" for name, stage in plans.items()]
    return {"stages": {name: asdict(stage) for name, stage in plans.items()}}, "\n".join(lines)


def prepare(words: list[str]) -> Result:
    """Prepare the pictures only."""
    options = preset_options("prepare", words, Options)
    from pikavae import operations

    with progress("preparing") as tell:
        pictures = operations.prepare(options.config, tell).pictures
    result = {
        "fingerprint": pictures.fingerprint,
        "num_images": pictures.record["num_images"],
        "num_quarantined": pictures.record["num_quarantined"],
        "path": str(pictures.path),
    }
    aside = [f"set aside: {item['name']}: {item['reason']}" for item in pictures.record["quarantined"]]
    return result, "\n".join([str(pictures.path), *aside])


def train(words: list[str]) -> Result:
    """Prepare and train only."""
    options = preset_options("train", words, RunOptions)
    from pikavae import operations

    trained = operations.train(options.config, operations.prepare(options.config), fresh=options.fresh)
    kept = ("start_step", "steps", "images_seen", "images_per_second")
    result = {"run_id": trained.run.run_id, **{name: trained.result[name] for name in kept}}
    return {**result, "snapshot": str(trained.snapshot)}, f"run {trained.run.run_id}\n{trained.snapshot}"


def evaluate(words: list[str]) -> Result:
    """Measure any model on a frozen set of pictures, set it beside others, and compare it with one."""
    model, extra, options = model_options("evaluate", words, EvaluateOptions)
    refuse_extra(extra)
    from pikavae import operations

    against = [] if options.against is None else [options.against]
    beside = operations.evaluate_beside(model, options.config, [*against, *options.beside])
    evaluated = beside.evaluated
    result = {"metrics": dict(evaluated.report.metrics), "report": str(evaluated.folder), **beside.summary()}
    lines = [beside.table(), "", f"Report: {evaluated.folder / operations.REPORT_PAGE}"]
    if beside.page is not None:
        lines += [f"Side by side: {beside.page}"]
    if options.against is not None:
        compared = operations.compare_models(model, options.against, options.config)
        result |= compared.summary()
        lines += ["", compared.table(), "", f"Comparison with pictures: {compared.page}"]
    return result, "\n".join(lines)


def register(words: list[str]) -> Result:
    """Register a run's snapshot, or a folder or file of weights, as a candidate version."""
    model, extra, options = model_options("register", words, Options)
    refuse_extra(extra)
    from pikavae import operations

    version = operations.register_model(model, options.config).version
    return {"model": version.name, "version": version.version}, f"{version.name} version {version.version}"


def encode(words: list[str]) -> Result:
    """Store the latents of the prepared pictures, for a latent-diffusion trainer."""
    model, extra, options = model_options("encode", words, EncodeOptions)
    refuse_extra(extra)
    from pikavae import operations

    out = None if options.out is None else Path(options.out)
    with progress("encoding") as tell:
        done = operations.encode(model, options.config, out, logvar=options.logvar, progress=tell)
    return done, f"{done['path']}\n{done['num_images']} latents, scaling factor {done['scaling_factor']:.6g}"
