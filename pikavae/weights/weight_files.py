"""Read files and folders of weights that others wrote; content decides their kind, not the name.

No code in a file is ever run: safetensors has none, and `torch_archive` reads torch's files, also pickled modules and
checkpoints with a trainer's classes.
"""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pikavae.errors import UserError
from pikavae.weights.inert_pickle import InertPickleError
from pikavae.weights.torch_archive import read_inert

LFS_POINTER = b"version https://git-lfs"
MAX_JSON_BYTES = 16 * 2**20
MAX_JSON_DEPTH = 16
WEB_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")
FOLDER_FILES = (  # in the order of preference
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
    "diffusion_pytorch_model.fp16.bin",
    "diffusion_pytorch_model.bin.index.fp16.json",
)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        UserError: it cannot be read, is something else, or is a placeholder for a file that was not downloaded.
    """
    refuse_stand_in(path)
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise UserError(f"{path}: {size:,} bytes, too large for a description of weights; download it again")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({_one_line(error)}); download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a JSON object; download it again")
    if _is_deeper(content, MAX_JSON_DEPTH):
        raise UserError(f"{path}: nested more than {MAX_JSON_DEPTH} levels deep; download it again")
    return content


def _is_deeper(content: object, depth: int) -> bool:
    """Return True if containers are nested deeper than `depth`, found without recursion."""
    level = [content]
    for _ in range(depth):
        inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [one for several in inner for one in several]
    return any(isinstance(one, dict | list) for one in level)


def refuse_stand_in(path: Path) -> None:
    """Refuse, with a UserError, what is often saved in place of a file: nothing, a web page, a Git LFS pointer."""
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
    """Return the weights file of a diffusers model folder, or the index of its parts; full precision before half.

    Raises:
        UserError: there is none.
    """
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights beside config.json; expected {FOLDER_FILES[0]}, its parts, or a .bin file")


def read_tensors(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read all tensors of a file, or of the parts that an index names, with notes on what was ignored.

    Returns:
        Tensors on the CPU by name, which may be views of the mapped file, and notes for the user.

    Raises:
        UserError: the file is damaged or holds no weights, or a part is missing.
    """
    if path.suffix == ".json":
        return _read_parts(path)
    refuse_stand_in(path)
    with path.open("rb") as file:
        head = file.read(9)
    # Eight bytes of length, then JSON. Checked first: the length may look like a pickle, but no pickle like the length.
    if head[5:] == b"\0\0\0{":
        return _read_safetensors(path), []
    if zipfile.is_zipfile(path) or head[:1] == b"\x80":
        return _read_torch(path)
    if head[:4] == b"PK\x03\x04":
        raise UserError(f"{path}: a torch file that is cut short; download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path), []
    if tarfile.is_tarfile(path):
        raise UserError(
            f"{path}: a tar archive, as torch before 0.1.10 wrote it; name the file of weights in it, or save its "
            f"state dict again with a current torch"
        )
    raise UserError(f"{path}: neither a safetensors file nor one of torch's; name a file or folder of weights")


def parts_of(path: Path) -> list[Path]:
    """Return the files that an index names; none for a file that is not an index.

    Raises:
        UserError: the index names no file, or one that is not in its folder.
    """
    return sorted(set(_places(path).values())) if path.suffix == ".json" else []


def _places(index: Path) -> dict[str, Path]:
    """Return the file of each tensor by its name."""
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


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; empty for files of other kinds and for an index of parts."""
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):  # of another kind, whatever its name
        return {}


def _read_torch(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    try:
        tensors, others = read_inert(path)
    except InertPickleError as error:
        raise UserError(
            f"{path}: holds no weights that can be read, and code in it is never run ({_one_line(error)}); "
            f"download it again, or save its state dict alone, best as safetensors"
        ) from None
    return tensors, [f"{others} entries that are not tensors are ignored"] if others else []


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
