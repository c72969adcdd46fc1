"""Read tensors from files of torch without running their pickles: the zip format, and the format before torch 1.6.

A saved module is read too: its tensors are recognised by the name of the function that torch would call, and cut out of
the mapped file after their bounds were checked.
"""

from __future__ import annotations

import itertools
import math
import mmap
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor

from pikavae.weights.inert_pickle import Call, InertPickleError, Name, Stored, read_structure

MAX_PICKLE_BYTES = 64 * 2**20
MAX_MODULES = 20_000
MAX_DEPTH = 32
MAX_ENTRIES = 200_000
MAX_NAME = 1000
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that begins a file of torch before 1.6, as its own pickle."""
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


def read_inert(path: Path) -> tuple[dict[str, Tensor], int]:
    """Read the tensors of a torch file by name, without running its pickle.

    A pickled module gives its parameters and buffers under the names of its `state_dict`. A pickled dict gives its
    entries; an entry of an inner dict has the inner dict's name and a dot before its own. The tensors are views of the
    mapped file: copy those you keep.

    Returns:
        The tensors, and the number of entries that are not tensors.

    Raises:
        InertPickleError: the file is damaged, or holds neither a module nor a dict.
    """
    reader = _open_zip(path) if zipfile.is_zipfile(path) else _LegacyReader(path)
    value = read_structure(reader.pickle_bytes())
    if not isinstance(value, dict) and not _mapping(value) and not _is_module(value):
        raise InertPickleError("neither a module nor a dict of tensors")
    tensors: dict[str, Tensor] = {}
    others = 0
    for name, tensor in _named_tensors(value, reader):
        if tensor is None:
            others += 1
        elif name in tensors:
            raise InertPickleError(f"{name} twice")
        else:
            tensors[name] = tensor
    return tensors, others


def _open_zip(path: Path) -> _TensorReader:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
        return _TensorReader(path, entries)
    except (  # all that was raised on 30,000 files damaged at random
        zipfile.BadZipFile,  # the directory of entries is broken
        NotImplementedError,  # it needs a version of zip that Python does not read
        UnicodeDecodeError,  # the name of an entry is not UTF-8
    ) as error:
        raise InertPickleError(str(error)) from None


def _named_tensors(value: object, reader: _TensorReader) -> Iterator[tuple[str, Tensor | None]]:
    """Yield every tensor of nested dicts and of modules in them, in order; None for what is not a tensor."""
    open_values: list[tuple[str, object, int]] = [("", value, 0)]
    for visited in itertools.count():
        if not open_values:
            return
        name, current, depth = open_values.pop()
        # One dict can occur in many places of a pickle, also in itself: without bounds the walk would not end.
        if depth > MAX_DEPTH or visited > MAX_ENTRIES or len(name) > MAX_NAME:
            raise InertPickleError("dicts are nested deeper than in any file of weights")
        if isinstance(current, Call) and _is_module(current):
            yield from ((f"{name}{inner}", tensor) for inner, tensor in _module_tensors(current, reader))
        elif inside := _mapping(current):
            open_values += [(f"{name}{key}.", inner, depth + 1) for key, inner in reversed(inside.items())]
        elif name:
            yield name.removesuffix("."), reader.tensor(current)


def _is_module(value: object) -> bool:
    return isinstance(value, Call) and "_modules" in _mapping(value.state)


def _mapping(value: object) -> dict[str, object]:
    """Return the named entries of a dict or of the call that makes an OrderedDict; empty for everything else."""
    items = value.items if isinstance(value, Call) else value
    return {key: item for key, item in items.items() if isinstance(key, str)} if isinstance(items, dict) else {}


def _module_tensors(module: Call, reader: _TensorReader) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers of a pickled module, under the names of its `state_dict`."""
    open_modules: list[tuple[str, object, int]] = [("", module, 0)]
    for visited in itertools.count():
        if not open_modules:
            return
        prefix, current, depth = open_modules.pop()
        state = _mapping(current.state) if isinstance(current, Call) else {}
        # One module can occur in many places of a pickle, also in itself: without bounds the walk would not end.
        if depth > MAX_DEPTH or visited > MAX_MODULES:
            raise InertPickleError("more modules than an autoencoder has")
        for kind in ("_parameters", "_buffers"):
            for name, value in _mapping(state.get(kind)).items():
                if (tensor := reader.tensor(value)) is not None:
                    yield f"{prefix}{name}", tensor
        children = _mapping(state.get("_modules"))
        open_modules += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children.items())]


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


class _TensorReader:
    """Cuts tensors out of the mapped archive; every position is checked against the file's length first."""

    def __init__(self, path: Path, entries: dict[str, zipfile.ZipInfo]) -> None:
        pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise InertPickleError("a zip archive, but not one that torch wrote")
        self.entries, self.root = entries, pickles[0].removesuffix("data.pkl")
        self.mapped = _map(path)
        if f"{self.root}byteorder" in entries:
            start, size = self._place("byteorder")
            if self.mapped[start : start + size] != b"little":
                raise InertPickleError("written on a machine of another byte order")

    def pickle_bytes(self) -> bytes:
        start, size = self._place("data.pkl")
        if size > MAX_PICKLE_BYTES:
            raise InertPickleError(f"a pickle of {size:,} bytes, too large for a list of weights")
        return self.mapped[start : start + size]

    def tensor(self, value: object) -> Tensor | None:
        """Return the tensor that torch would make of this call; None if it is not a tensor of a kind that is read."""
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
        # The older format has a sixth part, for a view into another storage; torch has written None there since 0.4.
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise InertPickleError("a tensor without a storage")
        if len(reference) == 6 and reference[5] is not None:
            raise InertPickleError("a storage within another, as torch before 0.4 wrote it")
        kind, key, count = reference[1], reference[2], reference[4]
        dtype = STORAGES.get(kind.text) if isinstance(kind, Name) else None
        if dtype is None:
            return None
        start, size = self._storage_place(key if isinstance(key, str) else "")
        if count != size // dtype.itemsize or size % dtype.itemsize:
            raise InertPickleError(f"storage {key} does not have its stated length")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        aligned = start % dtype.itemsize == 0  # torch aligns to 64 bytes; other writers may not
        source = self.mapped if aligned else bytearray(self.mapped[start : start + size])
        return torch.frombuffer(source, dtype=dtype, count=count, offset=start if aligned else 0)

    def _storage_place(self, key: str) -> tuple[int, int]:
        return self._place(f"data/{key}")

    def _place(self, name: str) -> tuple[int, int]:
        """Return the offset and the number of an entry's bytes in the file."""
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


class _LegacyReader(_TensorReader):
    """Cuts tensors out of a file from before torch 1.6: five pickles one after the other, then the raw storages."""

    def __init__(self, path: Path) -> None:
        self.mapped = _map(path)
        magic, _, system, self._pickled, keys = (self._next_pickle() for _ in range(5))
        if read_structure(magic) != LEGACY_MAGIC:
            raise InertPickleError("a pickle, but not one that torch wrote")
        if _mapping(read_structure(system)).get("little_endian") is not True:
            raise InertPickleError("written on a machine of another byte order")
        listed = read_structure(keys)
        if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
            raise InertPickleError("no list of storages")
        self._keys, self._position = listed, self.mapped.tell()
        self._places: dict[str, tuple[int, int]] = {}

    def _next_pickle(self) -> bytes:
        start = self.mapped.tell()
        try:
            for opcode, _, _ in pickletools.genops(cast("IO[bytes]", self.mapped)):
                if self.mapped.tell() - start > MAX_PICKLE_BYTES:
                    raise InertPickleError("a pickle that is not a list of weights")
                if opcode.name == "STOP":
                    break
        except (ValueError, IndexError, KeyError) as error:
            raise InertPickleError(f"damaged pickle ({error or type(error).__name__})") from None
        return self.mapped[start : self.mapped.tell()]

    def pickle_bytes(self) -> bytes:
        stored: list[Stored] = []
        read_structure(self._pickled, stored)
        kinds = {key: kind for one in stored for key, kind in [_key_and_kind(one)]}
        position = self._position
        for key in self._keys:
            dtype = kinds.get(key)
            if dtype is None or position + 8 > len(self.mapped):
                raise InertPickleError(f"storage {key} is missing, or of a kind that is not read")
            count = int.from_bytes(self.mapped[position : position + 8], "little")
            size = count * dtype.itemsize
            if position + 8 + size > len(self.mapped):
                raise InertPickleError(f"storage {key} is cut short")
            self._places[key] = (position + 8, size)
            position += 8 + size
        return self._pickled

    def _storage_place(self, key: str) -> tuple[int, int]:
        if key not in self._places:
            raise InertPickleError(f"storage {key} is missing")
        return self._places[key]


def _key_and_kind(stored: Stored) -> tuple[object, torch.dtype | None]:
    reference = stored.reference
    if not isinstance(reference, tuple) or len(reference) < 5 or not isinstance(reference[1], Name):
        return None, None
    return reference[2] if isinstance(reference[2], str) else None, STORAGES.get(reference[1].text)
