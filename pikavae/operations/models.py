"""Use a model: find it by what the user calls it, measure it, reconstruct pictures with it, list what is registered."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pikavae import runs, stages
from pikavae.config import Config, DataConfig, RegistryConfig
from pikavae.data.dataset import PictureSet
from pikavae.data.pictures import UnreadablePictureError, decode
from pikavae.errors import UserError
from pikavae.evaluation.report import Report
from pikavae.files import write_atomically
from pikavae.home import home
from pikavae.model.snapshot import CONFIG_NAME, SETTINGS_NAME, read_snapshot
from pikavae.model.tiling import reconstruct_any_size
from pikavae.operations.describing import report_tags, version_metrics
from pikavae.operations.exchange import IMPORT_TAG, NOT_MEASURED, import_model
from pikavae.operations.imported import is_registered_name, path_of
from pikavae.operations.pipeline import (
    choose_device,
    evaluate,
    evaluate_snapshot,
    prepare,
    register,
    use_threads,
)
from pikavae.operations.results import Evaluated, Registered, Trained
from pikavae.presets import load_config
from pikavae.registry import production, versions
from pikavae.registry.production_model import PRODUCTION_NAME
from pikavae.registry.versions import Version
from pikavae.tracking import connect

MAX_PIXELS = DataConfig().max_pixels
WHITE = (255, 255, 255)
RUN_MODEL = re.compile(r"run:([^@]*)(?:@(.*))?")


def find_model(model: str, model_name: str) -> Path:
    """The snapshot folder of what the user named.

    Args:
        model: a candidate version (`3`), `champion`, `run:<id>` with `@<step>` or `@best` or neither, or the path of a
            snapshot or diffusers folder.
        model_name: the registered model whose versions are the candidates.

    Raises:
        UserError: there is no such model; the message names what there is.
    """
    if model.isdecimal():
        client = connect(home())
        return versions.snapshot_of(client, versions.get_version(client, model_name, int(model)), home() / "downloads")
    if model == "champion":
        client = connect(home())
        return versions.snapshot_of(client, versions.get_champion(client, PRODUCTION_NAME), home() / "downloads")
    if named := RUN_MODEL.fullmatch(model):
        return runs.find_run(home(), named[1]).snapshot(named[2])
    folder = path_of(model)
    if folder is not None and (folder / CONFIG_NAME).is_file():
        return folder
    raise UserError(
        f"model {model!r}: no version number, champion, run:<id>[@step or @best], nor a folder with {CONFIG_NAME}"
    )


def config_of_model(model: str, model_name: str = RegistryConfig().model_name) -> Config:
    """The configuration that made a model, from its snapshot; the defaults for weights of another maker.

    Args:
        model: what `find_model` takes.
        model_name: the registered model whose versions are the candidates.
    """
    folder = path_of(model)
    if not is_registered_name(model) and (folder is None or not (folder / CONFIG_NAME).is_file()):
        return Config()
    settings = find_model(model, model_name) / SETTINGS_NAME
    return load_config(settings) if settings.is_file() else Config()


def evaluate_model(model: str, config: Config) -> Evaluated:
    """Measure any model on the validation pictures of the configured data; found again when it was done before.

    An imported version that has no scores yet gets these.
    """
    snapshot = find_model(model, config.registry.model_name)
    if version := _import_without_scores(model, config):
        return _score_import(version, config)
    use_threads(config)
    return evaluate_on(prepare(config).pictures.validation, snapshot, config)


def evaluate_on(pictures: PictureSet, snapshot: Path, config: Config) -> Evaluated:
    """Measure a snapshot on these pictures; found again when it was done before."""
    inputs = stages.evaluate_inputs(
        config, run_id=None, model=runs.snapshot_digest(snapshot), evaluation_set=pictures.digest
    )
    return evaluate_snapshot(config, pictures, snapshot, inputs)


def register_model(model: str, config: Config) -> Registered:
    """Register any model as a candidate version, with a report of its own on the configured data.

    Args:
        model: `run:<id>[@step or @best]`, or what `import_model` takes: a snapshot, a diffusers folder or a file of
            weights becomes a version with a run of its own. A snapshot of a run of this home counts as the run's.
        config: where it goes and what it is measured on; for a run's snapshot, the configuration that made it.

    Raises:
        UserError: there is no such model, it is a version already, or its run is not finished.
    """
    if model.isdecimal() or model == versions.CHAMPION:
        raise UserError(f"register {model!r}: a version already; name run:<id>[@step or @best], a folder or a file")
    named = RUN_MODEL.fullmatch(_run_of(model) or model)
    if named is None:
        imported = import_model(model, config)
        if imported.version.metrics:
            return imported
        _score_import(imported.version, config)
        return replace(
            imported, version=versions.get_version(connect(home()), imported.version.name, imported.version.version)
        )
    run = runs.find_run(home(), named[1])
    result = run.result
    if result is None:
        raise UserError(f"register {model!r}: the run is not finished; the command that started it goes on with it")
    trained = Trained(run, result, run.snapshot(named[2]), reused=True)
    use_threads(config)
    prepared = prepare(config)
    return register(config, prepared, trained, evaluate(config, prepared, trained))


def _run_of(model: str) -> str | None:
    """`run:<id>@<step>` of the path of a snapshot that a run of this home keeps; None for all else."""
    path = Path(model).expanduser().resolve()
    if path.parent.name != "snapshots" or path.parents[2] != home() / "runs" or not path.is_dir():
        return None
    return f"run:{path.parents[1].name}@{runs.step_of(path)}"


def _import_without_scores(model: str, config: Config) -> Version | None:
    """The imported version, named by its number or its run, that was never measured."""
    named = RUN_MODEL.fullmatch(model)
    if named is None and not model.isdecimal():
        return None
    run_id = runs.find_run(home(), named[1]).run_id if named else None
    for version in versions.list_versions(connect(home()), config.registry.model_name):
        if (
            IMPORT_TAG in version.tags
            and not version.metrics
            and (str(version.version) == model or version.run_id == run_id)
        ):
            return version
    return None


def _score_import(version: Version, config: Config) -> Evaluated:
    """Measure an imported version on the configured data; its run and the version get the scores."""
    run = runs.find_run(home(), version.run_id)
    use_threads(config)
    prepared = prepare(config)
    evaluated = evaluate(config, prepared, Trained(run, run.result or {}, run.snapshot(), reused=True))
    description = connect(home()).get_model_version(version.name, str(version.version)).description or ""
    versions.add_scores(
        connect(home()),
        version,
        step=0,
        metrics=version_metrics(evaluated.report),
        tags=report_tags(evaluated, prepared),
        description=f"{evaluated.report.summary_markdown()}\n\n{description.replace(NOT_MEASURED, '').strip()}",
    )
    return evaluated


def reconstruct(model: str, images: list[Path], out: Path, config: Config) -> list[Path]:
    """Encode and decode picture files at their own size; the results are PNG files of the same stem in `out`.

    Sides that the downsampling factor does not divide are padded and cropped back; pictures of over a megapixel go
    through in overlapping tiles, so that memory does not grow with them.

    Raises:
        UserError: a file is not there or is no picture, or two files would have the same name in `out`.
    """
    loaded = read_snapshot(find_model(model, config.registry.model_name)).to(choose_device(config))
    targets = [out / f"{path.stem}.png" for path in images]
    check_pictures(images, targets)
    for path, target in zip(images, targets, strict=True):
        write_atomically(target, png_bytes(reconstruct_any_size(loaded, read_picture(path))))
    return targets


def check_pictures(images: list[Path], targets: list[Path]) -> None:
    """See to it that all picture files can be read, and stay, before `targets` are written; one is in memory at a time.

    Raises:
        UserError: one cannot, two would be written to the same file, or one would be written over.
    """
    if twice := sorted({path.stem for path in images if sum(path.stem == other.stem for other in images) > 1}):
        raise UserError(f"IMAGE: several files are called {twice[0]!r}, and each would be written to one file")
    given = {path.resolve() for path in images}
    if lost := [target for target in targets if target.resolve() in given]:
        raise UserError(f"--out {lost[0].parent}: {lost[0].name} there is one of the pictures; name another folder")
    for path in images:
        read_picture(path)


def read_picture(path: Path) -> Tensor:
    """A picture file as (1, 3, H, W) float32 in [-1, 1], upright, transparency over white.

    Raises:
        UserError: it is not there, or is no picture that can be read.
    """
    try:
        image = decode(path.read_bytes(), WHITE, MAX_PIXELS).image
    except OSError as error:
        raise UserError(f"IMAGE {path}: {error.strerror}") from None
    except UnreadablePictureError as error:
        raise UserError(f"IMAGE {path}: {error}") from None
    pixels = torch.from_numpy(np.asarray(image).copy())  # (H, W, 3)
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0


def png_bytes(image: Tensor) -> bytes:
    """One picture, (1, 3, H, W) in about [-1, 1], as the bytes of an 8-bit PNG file."""
    from io import BytesIO

    from pikavae.evaluation.panels import to_uint8

    buffer = BytesIO()
    Image.fromarray(to_uint8(image)[0].permute(1, 2, 0).numpy()).save(buffer, format="PNG")
    return buffer.getvalue()


def list_models(config: Config) -> list[Version]:
    """The registered candidates, the newest first; what production has made of them is among their aliases."""
    client, name = connect(home()), config.registry.model_name
    roles = production.roles(client, name)
    return [
        replace(version, aliases=(*version.aliases, *roles.get(version.version, ())))
        for version in versions.list_versions(client, name)
    ]


def show_model(version: int, config: Config) -> Version:
    """One candidate.

    Raises:
        UserError: there is no such version; the message lists those there are.
    """
    return versions.get_version(connect(home()), config.registry.model_name, version)


def load_report(folder: Path) -> Report:
    """The report of an evaluation folder."""
    return Report.load(folder)
