"""Read presets, YAML files of `configs/` that name what differs from the defaults, and explain mistakes in them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pikavae.config import FAMILIES, Config
from pikavae.errors import UserError

NOTIFY_HINT = (
    "addresses hold secrets, and settings are recorded with every run: write them into `notify.yaml` of the state "
    "folder, or into PIKAVAE_NOTIFY_URLS"
)


def presets_folder() -> Path:
    """Return the folder of presets: beside the packages in a checkout, inside the package in an installed wheel."""
    packaged = Path(__file__).with_name("_configs")
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[1] / "configs"


def preset_names() -> list[str]:
    """Return the names that `load_config` takes besides paths."""
    return sorted(path.stem for path in presets_folder().glob("*.yaml"))


def load_config(preset: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a preset by name or path and lay `overrides` (dotted names to values) over it.

    Raises:
        UserError: there is no such preset, it is not YAML, or a field is unknown or out of its bounds.
    """
    name = str(preset)
    path = presets_folder() / f"{name}.yaml" if name in preset_names() else Path(name)
    if not path.is_file():
        hint = did_you_mean(name, preset_names()) or f"presets are {', '.join(preset_names())}"
        raise UserError(f"preset {name!r}: no such preset and no such file; {hint}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{path}: not a YAML file of settings: it is nested too deep") from None
    return parse_config(tree, where=str(path), overrides=overrides)


def parse_config(tree: object, *, where: str = "configuration", overrides: Mapping[str, Any] | None = None) -> Config:
    """Make a configuration of a nested mapping, with `overrides` by dotted name on top.

    An override of `model.like` replaces all sizes of the mapping, and one of `data.channels` the model's channels.

    Raises:
        UserError: a field is unknown or out of its bounds; the message names the first one and the remedy in a line.
    """
    if not isinstance(tree, Mapping):
        raise UserError(f"{where}: expected sections such as `data:` and `training:`, found {type(tree).__name__}")
    if "notify" in tree:
        raise UserError(f"{where}: notify: no section of the configuration; {NOTIFY_HINT}")
    merged: dict[str, Any] = {key: dict(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    if isinstance(merged.get("model"), dict):
        merged["model"] = without_sizes(merged["model"], overrides or {})
    for dotted, value in (overrides or {}).items():
        section, _, field = dotted.partition(".")
        merged.setdefault(section, {})[field] = value
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return one line for the first mistake in `error`: field, value, remedy."""
    first = error.errors(include_url=False)[0]
    # After section and field, only positions in a list are the user's words; the rest are names of what pydantic tried.
    parts = [part for place, part in enumerate(first["loc"]) if place < 2 or isinstance(part, int)]
    dotted = ".".join(map(str, parts))
    if first["type"] == "extra_forbidden":
        return f"{dotted}: no such field; {unknown_field_hint(dotted)}"
    if first["type"] == "value_error":
        said = str(first["ctx"]["error"])
        return said if len(parts) < 2 else f"{dotted} {first['input']!r}: {said}"
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{dotted} {first['input']!r}: {message}"


def field_names() -> list[str]:
    """Return the dotted names of all fields, in the tree's order."""
    sections = {section: type(part) for section, part in Config()}
    return [f"{section}.{name}" for section, part in sections.items() for name in part.model_fields]


def unknown_field_hint(dotted: str) -> str:
    """Suggest a field for the unknown field `dotted`, or say where the fields are listed."""
    section, _, field = dotted.partition(".")
    same = [name for name in field_names() if name.partition(".")[2] == (field or section)]
    if same:
        return f"did you mean {same[0]}?"
    siblings = [name for name in field_names() if name.startswith(f"{section}.")]
    candidates = siblings if siblings and field else [*Config.model_fields, *field_names()]
    return did_you_mean(dotted, candidates) or "`--help` lists all fields"


def did_you_mean(word: str, candidates: list[str]) -> str | None:
    """Return `did you mean ...?` with the nearest of `candidates`, or None if none is near."""
    near = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else None


def without_sizes(model: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of section `model` without the sizes that an override replaces.

    `model.like` replaces those of its family, and `data.channels` the channels of a picture.
    """
    replaced = set(FAMILIES["sd1"]) if str(overrides.get("model.like")) in FAMILIES else set[str]()
    replaced |= {"image_channels"} if "data.channels" in overrides else set()
    return {name: value for name, value in model.items() if name not in replaced}
