"""The commands that bring models in and take them elsewhere."""

from __future__ import annotations

from pathlib import Path

from flows.options import Options, parse_options
from flows.words import Result, split_words
from pikavae.config import Config
from pikavae.errors import UserError


def export(words: list[str]) -> Result:
    """Write a model as a folder that diffusers loads: `export MODEL DIR`."""
    names, flags = split_words(words)
    options = parse_options(Options, Config(), flags, "pikavae export MODEL DIR")
    if len(names) != 2:
        raise UserError("export: name a model and a new folder, `pikavae export MODEL DIR`")
    from pikavae import operations

    path = operations.export_model(names[0], Path(names[1]), options.config)
    return {"path": str(path)}, f"{path}\ndiffusers: AutoencoderKL.from_pretrained({str(path)!r})"


def import_(words: list[str]) -> Result:
    """Register published weights as a version with a run of its own: `import PATH` or `import hub:ORG/NAME`."""
    names, flags = split_words(words)
    options = parse_options(Options, Config(), flags, "pikavae import PATH")
    if len(names) != 1:
        raise UserError("import: name one folder or file of weights, or hub:ORG/NAME")
    from pikavae import operations

    done = operations.import_model(names[0], options.config)
    version = done.version
    result = {"model": version.name, "version": version.version, "run_id": version.run_id}
    said = f"{version.name} version {version.version}{', imported before' if done.reused else ''}"
    notes = [note for note in version.tags.get("pikavae.imported.notes", "").splitlines() if note]
    return result, "\n".join([said, f"run {version.run_id}", *notes])
