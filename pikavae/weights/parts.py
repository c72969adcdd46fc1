"""Find the autoencoder's tensors in a file: by the prefix of their names if only one fits, or by the part's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pikavae.errors import UserError
from pikavae.weights.keymaps import canonical_name, prefixes_of, strip_wrappers

MARK = "#"
"""The separator between a path and a part of the file: `last.ckpt#ema`."""
LEFT_ASIDE = {"loss.": "names of the training loss", "model_ema.": "EMA copies"}


@dataclass(frozen=True)
class Part:
    """Holds tensors of a file that may be an autoencoder's.

    Attributes:
        name: the prefix of their names without the dot at its end: `first_stage_model`, or nothing.
        weights: the tensors by name, without the prefix and without what torch's wrappers add.
        notes: a line for each thing that was ignored.
    """

    name: str
    weights: dict[str, Tensor]
    notes: tuple[str, ...]


def split_part(path: Path) -> tuple[Path, str | None]:
    """Split a file's or folder's path from the requested part, if any; a file with the whole name has priority."""
    base, mark, part = path.name.rpartition(MARK)
    if not mark or not base or path.exists():
        return path, None
    return path.with_name(base), part


def choose_part(tensors: dict[str, Tensor], wanted: str | None, where: Path, fits: Callable[[Part], bool]) -> Part:
    """Return the part of a file that is an autoencoder.

    Args:
        tensors: all tensors of the file, by name.
        wanted: the name of the part; None if only one part can be meant.
        where: the file, for messages.
        fits: returns True if a part is a whole autoencoder; called only if there are several parts.

    Raises:
        UserError: several parts are whole and differ, or there is no such part; the message lists the parts.
    """
    tensors = _without_container(tensors)
    prefixes = prefixes_of(tensors)
    parts = [_part(tensors, prefix, prefixes) for prefix in prefixes]
    names = [part.name for part in parts]
    if wanted is not None:
        if wanted not in names:
            there = ", ".join(f"{where.name}{MARK}{name}" for name in names) or "none"
            raise UserError(f"{where}{MARK}{wanted}: no such part of the file; there are {there}")
        return parts[names.index(wanted)]
    if len(parts) > 1:
        whole = [part for part in parts if fits(part)] or parts[:1]
        parts = [whole[0], *(part for part in whole[1:] if not _are_equal(part, whole[0]))]
    if len(parts) > 1:
        listed = " or ".join(f"{where.name}{MARK}{part.name}" for part in parts)
        raise UserError(f"{where}: holds {len(parts)} autoencoders that differ; name one of them: {listed}")
    return parts[0] if parts else _part(tensors, "", [])


def _without_container(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without the name of the dict that contains all of them, such as `state_dict`."""
    first = {name.partition(".")[0] for name in tensors}
    if len(first) != 1 or first & {"encoder", "decoder"} or not all("." in name for name in tensors):
        return tensors
    return _without_container({name.partition(".")[2]: value for name, value in tensors.items()})


def _part(tensors: dict[str, Tensor], prefix: str, prefixes: list[str]) -> Part:
    others = tuple(other for other in prefixes if other.startswith(prefix) and other != prefix)
    own = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and not (others and name.startswith(others))
    }
    outside = len(tensors) - len(own)
    what = f"{prefix}*" if prefix else "the part without a prefix"
    notes = [f"{outside} names outside {what} are ignored"] if outside else []
    for start, kind in LEFT_ASIDE.items():
        names = [name for name in own if name.startswith(start)]
        notes += [f"{len(names)} {kind} ({start}*) ignored"] if names else []
        own = {name: value for name, value in own.items() if not name.startswith(start)}
    # If a file has a weight under its old and its new name, the old one remains and is reported as unexpected.
    for rename in (strip_wrappers, canonical_name):
        renamed = {name: rename(name) for name in own}
        own = {name if renamed[name] in own else renamed[name]: value for name, value in own.items()}
    return Part(prefix.removesuffix("."), own, tuple(notes))


def _are_equal(one: Part, other: Part) -> bool:
    return one.weights.keys() == other.weights.keys() and all(
        value.dtype == other.weights[name].dtype and torch.equal(value, other.weights[name])
        for name, value in one.weights.items()
    )
