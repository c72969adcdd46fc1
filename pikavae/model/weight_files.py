"""Files and folders of weights as others write them: what kind they are is told by their content, never by their name.

No code in a file is ever run: safetensors has none, `torch_archive` reads torch's zip format, pickled modules and
checkpoints with classes of a trainer too, and torch's own reader, called with `weights_only`, its older format.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import UserError
from .inert_pickle import InertPickleError
from .torch_archive import read_inert

LFS_POINTER = b"version https://git-lfs"
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")
FOLDER_FILES = (  # in the order of preference
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
)
# What torch's reader raises over bytes that are no pickle of weights depends on where they break.
DAMAGE = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, EOFError, OSError)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: it cannot be read, is something else, or stands for a file that was not downloaded.
    """
    refuse_stand_in(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({_one_line(error)}); download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object; download it again")
    return content


def refuse_stand_in(path: Path) -> None:
    """Raise a UserError for what is often saved in place of a file: nothing, a web page, a Git LFS pointer."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise UserError(f"{path}: an empty file; download it again")
    if head.startswith(LFS_POINTER):
        raise UserError(f"{path}: a Git LFS pointer instead of the file; fetch it with `git lfs pull`")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(WEB_PAGE):
        raise UserError(f"{path}: a web page instead of the file; download it again, logged in where that is needed")


def weights_in(folder: Path) -> Path:
    """The weights file of a diffusers model folder, or the index of its parts; full precision before half.

    Raises:
        UserError: there is none.
    """
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights beside config.json; expected {FOLDER_FILES[0]}, its parts, or a .bin file")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors of a file, or of the parts that an index names, and what was left aside.

    Returns:
        Tensors on the CPU by name, which may be views of the mapped file, and notes for the user.

    Raises:
        UserError: the file is damaged, no file of weights, or a part is missing.
    """
    if path.suffix == ".json":
        return _read_parts(path)
    refuse_stand_in(path)
    with path.open("rb") as file:
        head = file.read(9)
    # Eight bytes of length, then JSON. Asked first: the length can begin as a pickle does, a pickle has no such length.
    if head[5:] == b"\0\0\0{":
        return _read_safetensors(path), []
    if zipfile.is_zipfile(path) or head[:1] == b"\x80":
        return _tensors_of(_read_torch(path), path)
    if head[:4] == b"PK\x03\x04":
        raise UserError(f"{path}: a torch file that is cut short; download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path), []
    raise UserError(f"{path}: neither a safetensors file nor one of torch's; name a file or folder of weights")


def parts_of(path: Path) -> list[Path]:
    """The files that an index names; none for a file that is no index.

    Raises:
        UserError: it names none, or one that is not in its folder.
    """
    return sorted(set(_places(path).values())) if path.suffix == ".json" else []


def _places(index: Path) -> dict[str, Path]:
    """The file that holds each tensor."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(part, str) for part in places.values()):
        raise UserError(f"{index}: names no parts under weight_map; download it again")
    for part in sorted(set(places.values())):
        if Path(part).name != part or Path(part).suffix == ".json" or not (index.parent / part).is_file():
            raise UserError(f"{index}: part {part!r} is not in the folder; download it too")
    return {name: index.parent / part for name, part in places.items()}


def _read_parts(index: Path) -> tuple[dict[str, Tensor], list[str]]:
    places = _places(index)
    tensors: dict[str, Tensor] = {}
    for part in sorted(set(places.values())):
        content, _ = read_tensors(part)
        if twice := sorted(content.keys() & tensors.keys()):
            raise UserError(f"{index}: {twice[0]} is in two parts; download the folder again")
        tensors |= content
    if absent := sorted(places.keys() - tensors.keys()):
        raise UserError(f"{index}: {len(absent)} names are in no part: {', '.join(absent[:3])}; download it again")
    return tensors, [f"{len(set(places.values()))} parts"]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged safetensors file ({_one_line(error)}); download it again") from None
    return tensors


def _read_torch(path: Path) -> object:
    if zipfile.is_zipfile(path):
        try:
            return read_inert(path)
        except InertPickleError as error:
            raise UserError(
                f"{path}: holds no weights that can be read, and its code is never run ({_one_line(error)}); "
                f"download it again, or save its state dict alone, best as safetensors"
            ) from None
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about pickle protocols that torch may not read: it fails where it does not
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: in torch's format from before version 1.6, with more than weights; "
            f"save its state dict again with a current torch"
        ) from None
    except DAMAGE as error:
        raise UserError(f"{path}: damaged torch file ({_one_line(error)}); download it again") from None


def _tensors_of(content: object, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__} instead of weights by name")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    others = len(content) - len(tensors)
    return tensors, [f"{others} entries that are no tensors left aside"] if others else []


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
