"""Use a model: make pictures with it, import and export it."""

from __future__ import annotations

from pathlib import Path

from flows.terminal.command import Arguments, Result
from flows.terminal.options import HalfSafeOptions, InterpolateOptions, Options, ReconstructOptions, SampleOptions
from flows.terminal.tables import table
from pikavae.workspace.home import expand_user

ABOUT_NOISE = (
    "Decoded noise, which is no picture of the data: neighbours in a picture's latent belong together, here they do "
    "not. It takes a diffusion model that was trained on the latents to make pictures."
)
ABOUT_DRAWS = "Drawn from the posteriors, as training sees the pictures; `reconstruct` decodes their modes."


def reconstruct(arguments: Arguments[ReconstructOptions]) -> Result:
    """Encode and decode pictures."""
    from pikavae import operations

    name, *pictures = arguments.names
    paths, out = _expand(pictures), expand_user(arguments.options.out, "--out")  # the model may be a download
    model = operations.resolve(arguments.workspace, name, arguments.config)
    return _list_files(operations.reconstruct(model, paths, out, arguments.config))


def interpolate(arguments: Arguments[InterpolateOptions]) -> Result:
    """Decode latents between those of two pictures."""
    from pikavae import operations

    (name, *pictures), options = arguments.names, arguments.options
    (first, second), out = _expand(pictures), expand_user(options.out, "--out")
    model = operations.resolve(arguments.workspace, name, arguments.config)
    return _list_files(operations.interpolate(model, first, second, out, arguments.config, frames=options.frames))


def sample(arguments: Arguments[SampleOptions]) -> Result:
    """Decode noise, or draws from the posteriors of pictures."""
    from pikavae import operations

    (name, *pictures), options = arguments.names, arguments.options
    paths, out = _expand(pictures), expand_user(options.out, "--out")
    files = operations.sample(
        arguments.workspace,
        operations.resolve(arguments.workspace, name, arguments.config),
        paths,
        out,
        arguments.config,
        count=options.count,
        seed=options.seed,
    )
    return _list_files(files, ABOUT_DRAWS if pictures else ABOUT_NOISE)


def export(arguments: Arguments[Options]) -> Result:
    """Write a model as a folder or a file for other programs."""
    from pikavae import operations

    (name, out), workspace = arguments.names, arguments.workspace
    target = operations.export_target(Path(out))
    model = operations.model_to_export(workspace, name, arguments.config)
    path = operations.export_model(workspace, model, target, arguments.config)
    return {"path": str(path)}, f"{path}\n{operations.tools_note(path)}"


def half_safe(arguments: Arguments[HalfSafeOptions]) -> Result:
    """Write a copy of a model that stays finite in fp16."""
    from pikavae import operations

    name, *pictures = arguments.names
    paths, out = _expand(pictures), expand_user(arguments.options.out, "--out")
    model = operations.resolve(arguments.workspace, name, arguments.config)
    found = operations.half_safe(arguments.workspace, model, paths, out, arguments.config)
    result = {
        "path": None if found.path is None else str(found.path),
        "layers": {row.name: {"before": row.before, "after": row.after, "scale": row.scale} for row in found.layers},
        "peak": found.peak,
        "difference": found.difference,
        "fp16": {"before": found.before.content(), "after": found.after.content()},
    }
    if found.path is None:
        return result, "\n".join(
            [
                f"nothing to rescale: its largest number is {found.peak[0]:.3g} on these pictures",
                f"fp16: {found.before.reason}",
            ]
        )
    rows = [(row.name, f"{row.before:.3g}", f"{row.after:.3g}", f"{row.scale:g}") for row in found.layers]
    lines = table(("LAYER", "LARGEST BEFORE", "AFTER", "DIVIDED BY"), rows, 3)
    lines += [f"fp16 before: {found.before.reason}", f"fp16 after: {found.after.reason}", f"{found.error}"]
    return result, "\n".join([*lines, str(found.path)])


def import_(arguments: Arguments[Options]) -> Result:
    """Register published weights as a version."""
    from pikavae import operations

    model = operations.model_to_import(arguments.workspace, arguments.names[0], arguments.config)
    done = operations.import_model(arguments.workspace, model, arguments.config)
    version = done.version
    result = {"model": version.name, "version": version.version, "run_id": version.run_id}
    head = f"{version.name} version {version.version}{', imported before' if done.reused else ''}"
    notes = [note for note in version.tags.get("pikavae.imported.notes", "").splitlines() if note]
    return result, "\n".join([head, f"run {version.run_id}", *notes])


def _expand(pictures: list[str]) -> list[Path]:
    return [expand_user(picture, "picture") for picture in pictures]


def _list_files(files: list[Path], *remarks: str) -> Result:
    """Return the result that lists the written files, with remarks."""
    return {"files": [str(file) for file in files]}, "\n".join([*map(str, files), *remarks])
