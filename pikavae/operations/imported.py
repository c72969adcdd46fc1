"""Weights by whatever name the user gives them, as a whole snapshot folder. Those of other makers are converted once.

imported/<key>/      a snapshot made of somebody's weights, named by their content and by how they were read
  imported.json      what they were, and the hashes by which the snapshot is verified before each use
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pikavae.config import Config, DataConfig, ModelConfig, content_hash
from pikavae.errors import DamagedFileError, UserError
from pikavae.files import exclusive, folder_atomically, remove_leftovers, sha256_of
from pikavae.home import home
from pikavae.model.autoencoder import AutoencoderKL
from pikavae.model.published import Published, published_files, read_published, refuse_other_sizes, sizes_of
from pikavae.model.snapshot import (
    CONFIG_NAME,
    SETTINGS_NAME,
    WEIGHTS_NAME,
    diffusers_config,
    model_config,
    write_snapshot,
)
from pikavae.operations.cards import IMPORTED_MARK
from pikavae.operations.results import is_whole
from pikavae.registry import versions
from pikavae.registry.package import SNAPSHOT_FOLDER
from pikavae.registry.production_model import PRODUCTION_NAME
from pikavae.runs import RunFolder, read_json
from pikavae.tracking import connect
from pikavae.versions import code_version

logger = logging.getLogger(__name__)

HUB = "hub:"
RECORD_NAME = "imported.json"
SNAPSHOT_FILES = (CONFIG_NAME, WEIGHTS_NAME, SETTINGS_NAME)
DEFAULT_NORM_GROUPS = ModelConfig().norm_groups
DEFAULT_IMAGE_SIZE = DataConfig().image_size


@dataclass(frozen=True)
class Snapshot:
    """A whole snapshot folder, what its weights were before, and what was assumed or left aside, a line each."""

    folder: Path
    form: str
    notes: tuple[str, ...] = ()


def starting_weights(config: Config) -> Path | None:
    """The snapshot folder that `training.start` names, whole and of the sizes of section `model`.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its sizes are others; nothing was written.
        DamagedFileError: a file of a version or a finished run has another hash than was recorded for it.
    """
    start = config.training.start
    if start is None:
        return None
    return find_snapshot(start, config, field="training.start", required=sizes_of(config.model)).folder


def find_snapshot(name: str, config: Config, *, field: str, required: Mapping[str, Any]) -> Snapshot:
    """A model by any name that a user has for it, whole.

    Args:
        name: a snapshot folder (used as it is), a diffusers folder, a pipeline's folder or a weights file, `hub:` and
            what `fetch_weights` takes, a candidate version, `champion`, or `run:<id>[@step or @best]`.
        config: `registry.model_name` has the versions; `model.norm_groups` counts where a file does not tell it.
        field: the dotted name of the setting, for messages.
        required: what its sizes must be, fields of section `model` by name.

    Raises:
        UserError: there is no such model, it cannot be read whole, or its sizes are others; nothing was written.
        DamagedFileError: a file of a version or a finished run has another hash than was recorded for it.
    """
    if not is_registered_name(name):
        return snapshot_of(published_path(name, field=field), norm_groups=config.model.norm_groups, required=required)
    # Imported here: that module uses the stages, and the stages use this one.
    from pikavae.operations.models import find_model

    try:
        folder = find_model(name, config.registry.model_name)
        found = snapshot_of(folder, required=required)
    except UserError as error:
        raise UserError(f"{field} {name!r}: {error}") from None
    if not is_whole(folder, recorded_hashes(name, folder, config.registry.model_name)):
        raise DamagedFileError(
            f"{field} {name!r}: {folder} holds other bytes than were recorded; restore it, or name another model"
        )
    return found


def recorded_hashes(name: str, folder: Path, model_name: str) -> dict[str, str]:
    """The SHA-256 of each file of a snapshot, as written down when its run ended or its version was registered.

    Snapshots of a run's earlier steps have none.

    Args:
        name: a version, `champion` or `run:...`.
        folder: where that is.
        model_name: the registered model whose versions are the candidates.
    """
    if name.startswith("run:"):
        result = RunFolder(folder.parents[1]).result
        hashes: dict[str, str] = result["snapshot_sha256"] if result and result["snapshot"] == folder.name else {}
        return hashes
    client = connect(home())
    if name == versions.CHAMPION:
        version = versions.get_champion(client, PRODUCTION_NAME)
    else:
        version = versions.get_version(client, model_name, int(name))
    inside = f"{SNAPSHOT_FOLDER}/"
    return {file.removeprefix(inside): digest for file, digest in version.manifest.items() if file.startswith(inside)}


def is_registered_name(name: str) -> bool:
    """Whether it is a version, `champion` or `run:...`, which win over paths of the same name."""
    return name.isdecimal() or name == versions.CHAMPION or name.startswith("run:")


def path_of(name: str) -> Path | None:
    """The file or folder that a name is the path of; None where there is none, or no path could be so."""
    try:
        path = Path(name).expanduser()
        path.stat()
    except (OSError, ValueError, RuntimeError):  # too long; a zero byte; a home of nobody's
        return None
    return path


def published_path(name: str, *, field: str) -> Path:
    """The file or folder of a path or a hub id; what is on the hub is downloaded.

    Raises:
        UserError: nothing is there.
    """
    if name.startswith(HUB):
        from pikavae.data.hub_weights import fetch_weights

        return fetch_weights(name.removeprefix(HUB), field=field)
    path = path_of(name)
    if path is None:
        raise UserError(
            f"{field} {name!r}: no such file or folder; a model of the hub is named {HUB}ORG/NAME, one of this "
            f"project by its version number, champion, or run:<id>[@step or @best]"
        )
    return path.absolute()


def snapshot_of(
    path: Path,
    *,
    norm_groups: int = DEFAULT_NORM_GROUPS,
    image_size: int = DEFAULT_IMAGE_SIZE,
    required: Mapping[str, Any] | None = None,
) -> Snapshot:
    """The snapshot folder of somebody's weights: the folder itself when it is one, else what they are converted to.

    Args:
        path: what `read_published` takes.
        norm_groups: the number of groups of a file that does not tell it.
        image_size: the side, in pixels, of the pictures that it was trained at, where nothing tells it.
        required: what its sizes must be, fields of section `model` by name.

    Raises:
        UserError: it cannot be read whole, or its sizes are others; nothing was written.
    """
    required = required or {}
    if all((path / name).is_file() for name in SNAPSHOT_FILES):
        published = read_published(path)
        refuse_other_sizes(published.config, required, path)
        return Snapshot(path, published.form)
    key = content_hash(
        {
            "sha256": [sha256_of(file) for file in published_files(path)],
            "norm_groups": norm_groups,
            "image_size": image_size,
            "code of pikavae/model": code_version("model"),
        }
    )
    folder = home() / "imported" / key
    if found := find_imported(folder):
        sizes = model_config(read_json(folder / CONFIG_NAME), where=str(folder / CONFIG_NAME))
        refuse_other_sizes(sizes, required, path)
        return found
    published = read_published(path, norm_groups=norm_groups)
    refuse_other_sizes(published.config, required, path)
    with exclusive(home() / "imported.lock", waiting="another process converts weights; waiting for it"):
        remove_leftovers(folder.parent)
        return find_imported(folder) or write_imported(folder, published, image_size, source=str(path))


def find_imported(folder: Path) -> Snapshot | None:
    """A converted snapshot, if it is there and every file has the hash that it was written with."""
    if not folder.is_dir():
        return None
    try:
        record = read_json(folder / RECORD_NAME)
        if record["sha256"].keys() == set(SNAPSHOT_FILES) and is_whole(folder, record["sha256"]):
            return Snapshot(folder, record["form"], tuple(record["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s: %s", folder / RECORD_NAME, error)
    logger.warning("%s: damaged since it was converted; it is made anew", folder)
    return None


def write_imported(folder: Path, published: Published, image_size: int, *, source: str) -> Snapshot:
    """Write weights as a snapshot folder with a record of what they were; whole or not at all."""
    with torch.device("meta"):
        model = AutoencoderKL(published.config)
    model.load_state_dict(published.state, assign=True)
    size = published.image_size or image_size
    settings = Config(data=DataConfig(image_size=size), model=published.config)
    sizes = diffusers_config(published.config, size)
    del sizes["scaling_factor"]
    if published.scaling_factor is not None:
        sizes["scaling_factor"] = published.scaling_factor
    with folder_atomically(folder) as temporary:
        write_snapshot(temporary, model, image_size=size, settings=IMPORTED_MARK + settings.to_yaml())
        (temporary / CONFIG_NAME).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")
        record = {
            "source": source,
            "form": published.form,
            "notes": published.notes,
            "sha256": {name: sha256_of(temporary / name) for name in SNAPSHOT_FILES},
        }
        (temporary / RECORD_NAME).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    logger.info("converted %s (%s) to %s", source, published.form, folder)
    return Snapshot(folder, published.form, published.notes)
