"""Reads folders that `datasets` wrote by `save_to_disk`: only the files of their record, in its order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pikavae.data.files.listing import printable_path
from pikavae.errors import UserError

SPLITS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"


def saved_splits(root: Path) -> dict[str, list[str]] | None:
    """Return the Arrow files of each split of a saved data set, relative to `root`; None if it is not one.

    A data set that was saved without splits has one split, called "". Other files, such as the `cache-*.arrow` that
    `datasets` writes while it maps, belong to no split.

    Raises:
        UserError: a record is damaged, or names a file that is missing or outside the folder.
    """
    if (root / SPLITS).is_file():
        names = _field(root / SPLITS, "splits")
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_plain(name) for name in names):
            raise UserError(f"{printable_path(root / SPLITS)}: splits {names!r}: expected a list of names of folders")
        return {name: [f"{name}/{file}" for file in _files(root / name)] for name in names}
    if (root / STATE).is_file() and (root / INFO).is_file():
        return {"": _files(root)}
    return None


def _files(folder: Path) -> list[str]:
    state = folder / STATE
    if any(_field(state, name, None) for name in ("_indices_files", "_indices_data_files")):
        raise UserError(f"{printable_path(state)}: holds an index over its rows; save it again after flatten_indices()")
    entries = _field(state, "_data_files")
    files = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries or [None]]
    for file in files:
        if not isinstance(file, str) or not _is_plain(file):
            raise UserError(f"{printable_path(state)}: _data_files names {file!r}, which is not a file of its folder")
        if not (folder / file).is_file():
            raise UserError(
                f"{printable_path(folder / file)}: not there, though {STATE} names it; copy the whole folder"
            )
    return [file for file in files if file is not None]


def _is_plain(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and "\0" not in name and name not in {".", ".."}


def _field(path: Path, name: str, *default: Any) -> Any:
    """Return a field of a record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record.get(name, *default) if default else record[name]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{printable_path(path)}: no record of save_to_disk that can be read ({error!r})") from None
