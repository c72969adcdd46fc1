"""Tensors of the files that torch writes (its zip format, since torch 1.6), without running what they pickled.

A whole module that was saved is read too: its tensors are recognised by the name of the function that torch would call,
and cut out of the archive after their bounds were checked.
"""

from __future__ import annotations

import itertools
import math
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .inert_pickle import Call, InertPickleError, Name, Stored, read_structure

MAX_PICKLE_BYTES = 64 * 2**20
MAX_MODULES = 20_000
MAX_DEPTH = 32
LOCAL_HEADER_BYTES = 30

STORAGES = {
    "torch FloatStorage": torch.float32,
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}
TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")


def read_inert(path: Path) -> dict[str, object]:
    """The tensors of a torch file in zip format by name, without running what it pickled.

    Of a pickled module these are its parameters and buffers under the names of its `state_dict`. Of a pickled dict they
    are its entries, of which those that are dicts are dicts of tensors, and what is no tensor is None. The tensors are
    views of the mapped file: copy what you keep.

    Raises:
        InertPickleError: the file is damaged, or holds neither.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
        reader = _TensorReader(path, entries)
    except (  # each was seen on 30,000 files damaged at random, and nothing else was
        zipfile.BadZipFile,  # the directory of entries is broken
        NotImplementedError,  # it asks for a version of zip that Python does not read
        UnicodeDecodeError,  # the name of an entry is no UTF-8
    ) as error:
        raise InertPickleError(str(error)) from None
    value = read_structure(reader.pickled())
    if isinstance(value, Call) and "_modules" in _mapping(value.state):
        return dict(_module_tensors(value, reader))
    if not isinstance(value, dict) and not _mapping(value):
        raise InertPickleError("neither a module nor a dict of tensors")
    return {name: _plain(content, reader) for name, content in _mapping(value).items()}


def _plain(content: object, reader: _TensorReader) -> object:
    inner = _mapping(content)
    if inner and "_modules" not in _mapping(getattr(content, "state", None)):
        return {name: reader.tensor(value) for name, value in inner.items()}
    return reader.tensor(content)


def _mapping(value: object) -> dict[str, object]:
    """The entries, under names, of a dict or of the call that makes an OrderedDict; empty for everything else."""
    items = value.items if isinstance(value, Call) else value
    return {key: item for key, item in items.items() if isinstance(key, str)} if isinstance(items, dict) else {}


def _module_tensors(module: Call, reader: _TensorReader) -> Iterator[tuple[str, object]]:
    """Parameters and buffers below a pickled module, named as its `state_dict` names them."""
    open_modules: list[tuple[str, object, int]] = [("", module, 0)]
    for visited in itertools.count():
        if not open_modules:
            return
        prefix, current, depth = open_modules.pop()
        state = _mapping(current.state) if isinstance(current, Call) else {}
        # One module can stand in many places of a pickle, and in itself: bounds, or the walk would not end.
        if depth > MAX_DEPTH or visited > MAX_MODULES:
            raise InertPickleError("more modules than an autoencoder has")
        for kind in ("_parameters", "_buffers"):
            for name, value in _mapping(state.get(kind)).items():
                if (tensor := reader.tensor(value)) is not None:
                    yield f"{prefix}{name}", tensor
        children = _mapping(state.get("_modules"))
        open_modules += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children.items())]


class _TensorReader:
    """Cuts tensors out of the mapped archive; every position is checked against the file's length first."""

    def __init__(self, path: Path, entries: dict[str, zipfile.ZipInfo]) -> None:
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InertPickleError("a zip archive, but not one that torch wrote")
        self.entries, self.root = entries, pickles[0].removesuffix("data.pkl")
        with path.open("rb") as file:
            self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        if f"{self.root}byteorder" in entries:
            start, size = self._place("byteorder")
            if self.mapped[start : start + size] != b"little":
                raise InertPickleError("written on a machine of another byte order")

    def pickled(self) -> bytes:
        start, size = self._place("data.pkl")
        if size > MAX_PICKLE_BYTES:
            raise InertPickleError(f"a pickle of {size:,} bytes, which is no list of weights")
        return self.mapped[start : start + size]

    def tensor(self, value: object) -> Tensor | None:
        """The tensor that torch would make of this call; None where it is no tensor of a kind that is read."""
        called = value.target.text if isinstance(value, Call) and isinstance(value.target, Name) else None
        arguments = value.arguments if isinstance(value, Call) and isinstance(value.arguments, tuple) else ()
        if called in PARAMETERS and arguments and arguments[0] is not value:
            inner = arguments[0]
            is_tensor = isinstance(inner, Call) and isinstance(inner.target, Name) and inner.target.text in TENSORS
            return self.tensor(inner) if is_tensor else None
        if called not in TENSORS or len(arguments) < 4:
            return None
        storage, offset, size, stride = arguments[:4]
        numbers = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
        if len(numbers) != 1 + 2 * len(size) or any(type(number) is not int or number < 0 for number in numbers):
            raise InertPickleError("a tensor of unreadable size")
        flat = self._storage(storage)
        if flat is None:
            return None
        if math.prod(size) == 0:
            return torch.empty(size, dtype=flat.dtype)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= len(flat) or math.prod(size) > len(flat):
            raise InertPickleError("a tensor that reaches beyond its storage")
        return flat.as_strided(size, stride, offset)

    def _storage(self, stored: object) -> Tensor | None:
        reference = stored.reference if isinstance(stored, Stored) else None
        if not isinstance(reference, tuple) or len(reference) != 5 or reference[0] != "storage":
            raise InertPickleError("a tensor without a storage")
        kind, key, count = reference[1], reference[2], reference[4]
        dtype = STORAGES.get(kind.text) if isinstance(kind, Name) else None
        if dtype is None:
            return None
        start, size = self._place(f"data/{key}" if isinstance(key, str) else "")
        if count != size // dtype.itemsize or size % dtype.itemsize:
            raise InertPickleError(f"storage {key} is of another length than it says")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        aligned = start % dtype.itemsize == 0  # torch aligns to 64 bytes; other writers need not
        source = self.mapped if aligned else bytearray(self.mapped[start : start + size])
        return torch.frombuffer(source, dtype=dtype, count=count, offset=start if aligned else 0)

    def _place(self, name: str) -> tuple[int, int]:
        """Where the bytes of an entry begin in the file, and how many they are."""
        info = self.entries.get(self.root + name)
        if info is None:
            raise InertPickleError(f"entry {name} is missing")
        header = self.mapped[info.header_offset : info.header_offset + LOCAL_HEADER_BYTES]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or header[:4] != b"PK\x03\x04":
            raise InertPickleError(f"entry {name} is compressed or damaged, which torch does not write")
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        start = info.header_offset + LOCAL_HEADER_BYTES + lengths
        if start + info.file_size > len(self.mapped):
            raise InertPickleError(f"entry {name} is cut short")
        return start, info.file_size
