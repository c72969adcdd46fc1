"""Turn weights under any name into a whole snapshot folder. Weights of other makers are converted once.

imported/<key>/      a snapshot made from published weights, named by their content and by how they were read
  imported.json      the origin of the weights, and the hashes that are verified before each use
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pikavae.config import Config, DataConfig, ModelConfig, channels_for, content_hash
from pikavae.errors import DamagedFileError
from pikavae.model.sizes import (
    CONFIG_NAME,
    RUN_CONFIG_NAME,
    WEIGHTS_NAME,
    model_config,
    refuse_other_sizes,
    sizes_of,
)
from pikavae.model.snapshot import write_snapshot
from pikavae.model.tiny import build_autoencoder
from pikavae.operations.stages.describing import IMPORTED_MARK
from pikavae.operations.stages.results import is_whole
from pikavae.tracker.client import Workspace
from pikavae.weights.parts import split_part
from pikavae.weights.published import Published, published_files, read_published
from pikavae.workspace.files import exclusive, folder_atomically, remove_leftovers, sha256_of
from pikavae.workspace.provenance import code_of
from pikavae.workspace.records import Record, read_object

logger = logging.getLogger(__name__)

RECORD_NAME = "imported.json"
SNAPSHOT_FILES = (CONFIG_NAME, WEIGHTS_NAME, RUN_CONFIG_NAME)
DEFAULT_NORM_GROUPS = ModelConfig().norm_groups
DEFAULT_IMAGE_SIZE = DataConfig().image_size


class ImportRecord(Record):
    """Holds the origin of converted weights, and the hash of each file of their snapshot."""

    source: str = ""
    form: str
    notes: Sequence[str]
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class Conversion:
    """Holds a snapshot folder made of some weights, the form that they came in, and notes on what was assumed."""

    folder: Path
    form: str
    notes: tuple[str, ...] = ()


def convert(
    workspace: Workspace,
    path: Path,
    *,
    norm_groups: int = DEFAULT_NORM_GROUPS,
    image_size: int = DEFAULT_IMAGE_SIZE,
    required: Mapping[str, Any] | None = None,
) -> Conversion:
    """Return the snapshot folder of some weights: the folder itself if it is one, else the converted snapshot.

    Args:
        workspace: the state folder.
        path: what `read_published` takes.
        norm_groups: the number of groups, if the file does not state it.
        image_size: the side in pixels of the training pictures, if nothing states it.
        required: the sizes that it must have, fields of section `model` by name.

    Raises:
        UserError: it cannot be read whole, or its sizes differ; nothing was written.
    """
    required = required or {}
    if all((path / name).is_file() for name in SNAPSHOT_FILES):
        published = read_published(path)
        refuse_other_sizes(published.config, required, path)
        return Conversion(path, published.form)
    _, part = split_part(path)
    key = content_hash(
        {
            **({} if part is None else {"part": part}),
            "sha256": [sha256_of(file) for file in published_files(path)],
            "norm_groups": norm_groups,
            "image_size": image_size,
            "code of the import": code_of("import"),
        }
    )
    folder = workspace.home / "imported" / key
    if found := find_imported(folder):
        sizes = model_config(read_object(folder / CONFIG_NAME), where=str(folder / CONFIG_NAME))
        refuse_other_sizes(sizes, required, path)
        return found
    published = read_published(path, norm_groups=norm_groups)
    refuse_other_sizes(published.config, required, path)
    with exclusive(workspace.home / "imported.lock", waiting="another process converts weights; waiting for it"):
        remove_leftovers(folder.parent)
        return find_imported(folder) or write_imported(folder, published, image_size, source=str(path))


def find_imported(folder: Path) -> Conversion | None:
    """Return a converted snapshot, if it exists and every file has its recorded hash."""
    if not folder.is_dir():
        return None
    try:
        record = ImportRecord.read(folder / RECORD_NAME)
        if record.sha256.keys() == set(SNAPSHOT_FILES) and is_whole(folder, record.sha256):
            return Conversion(folder, record.form, tuple(record.notes))
    except (OSError, DamagedFileError) as error:
        logger.warning("%s: %s", folder / RECORD_NAME, error)
    logger.warning("%s: damaged since it was converted; it is converted again", folder)
    return None


def write_imported(folder: Path, published: Published, image_size: int, *, source: str) -> Conversion:
    """Write weights as a snapshot folder with a record of their origin; whole or not at all."""
    with torch.device("meta"):
        model = build_autoencoder(published.config)
    model.load_state_dict(published.state, assign=True)
    size = published.image_size or image_size
    channels = channels_for(published.config.image_channels)
    settings = Config(data=DataConfig(image_size=size, channels=channels), model=published.config)
    text = IMPORTED_MARK + settings.to_yaml()
    with folder_atomically(folder) as temporary:
        write_snapshot(temporary, model, image_size=size, config=text, scaling=published.scaling)
        record = ImportRecord(
            source=source,
            form=published.form,
            notes=published.notes,
            sha256={name: sha256_of(temporary / name) for name in SNAPSHOT_FILES},
        )
        (temporary / RECORD_NAME).write_text(record.to_json(), encoding="utf-8")
    logger.info("converted %s (%s) to %s", source, published.form, folder)
    for note in published.notes:
        logger.info("%s: %s", Path(source).name, note)
    return Conversion(folder, published.form, published.notes)


def stated_sizes(model: ModelConfig) -> dict[str, object]:
    """Return the sizes that the user set, those that are not the defaults. Weights of other sizes are refused."""
    defaults = sizes_of(ModelConfig())
    return {name: value for name, value in sizes_of(model).items() if value != defaults[name]}
