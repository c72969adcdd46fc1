"""Read what a torch file pickled without running any of it.

A whole module that was saved with `torch.save` is a pickle that names classes and functions and asks for them to be
called. This reader has no way to do so: it steps through the opcodes that the standard library's `pickletools` lists,
and where a pickle imports a name, it keeps the name; where a pickle calls, it keeps what would have been called and
with what. Nothing is looked up, imported or called, whatever the file says. Then tensors are recognised by the name of
the function that torch would call, and cut out of the archive after their bounds were checked.

Only torch's zip format (since torch 1.6) is read.
"""

from __future__ import annotations

import itertools
import math
import mmap
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


class InertPickleError(ValueError):
    """The file is damaged, or holds something that is not read here."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """A class or function that the pickle names: `module qualname`. It is never looked up."""

    text: str


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """What the pickle refers to outside itself: in torch files, a storage."""

    reference: object


@dataclass(eq=False, slots=True)
class Call:
    """A call or construction that the pickle asks for and that is not made, with what would be put into the result."""

    target: object
    arguments: object
    state: object = None
    items: dict[object, object] = field(default_factory=dict)


class _Machine:
    """The stack and memo of a pickle. Every opcode moves values; none calls anything that the pickle names."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def nothing(self, _: object) -> None:
        """For opcodes that only frame the others."""

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, _: object = None) -> Any:
        if self.marks and self.marks[-1] == len(self.stack):
            raise InertPickleError("the pickle takes a value that is not there")
        return self.stack.pop()

    def mark(self, _: object) -> None:
        self.marks.append(len(self.stack))

    def since_mark(self, _: object = None) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def tuple_of(self, count: int) -> None:
        self.push(tuple(reversed([self.pop() for _ in range(count)])))

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Call) else target
        if isinstance(items, dict):
            # Nested tuples as keys would be hashed by recursion, and records have no value: neither names a weight.
            items.update((key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True) if _is_plain(key))

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def call(self, _: object) -> None:
        arguments, target = self.pop(), self.pop()
        self.push(Call(target, arguments))

    def call_with_keywords(self, _: object) -> None:
        self.pop()
        self.call(None)

    def call_since_mark(self, _: object) -> None:
        values = self.since_mark()
        self.push(Call(values[0], tuple(values[1:])))

    def build(self, _: object) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Call):
            self.stack[-1].state = state

    def stack_name(self, _: object) -> None:
        name, module = self.pop(), self.pop()
        self.push(Name(f"{module} {name}" if isinstance(name, str) and isinstance(module, str) else ""))

    def new_dict(self, _: object) -> None:
        pairs = self.since_mark()
        self.push({})
        self.set_items(pairs)

    def memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def put(self, number: int) -> None:
        self.memo[number] = self.stack[-1]


def _is_plain(key: object) -> bool:
    return key is None or isinstance(key, str | bytes | int | float)


INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
FLOATS = ("FLOAT", "BINFLOAT")
BYTES = ("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")

OPCODES: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys((*INTEGERS, *FLOATS, *BYTES, *TEXTS), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda m, number: m.push(m.memo[number])),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _Machine.nothing),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), _Machine.call),
    "OBJ": _Machine.call_since_mark,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "INST": lambda m, name: m.push(Call(Name(name), tuple(m.since_mark()))),
    "BUILD": _Machine.build,
    "GLOBAL": lambda m, name: m.push(Name(name)),
    "STACK_GLOBAL": _Machine.stack_name,
    "PERSID": lambda m, reference: m.push(Stored(reference)),
    "BINPERSID": lambda m, _: m.push(Stored(m.pop())),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.since_mark,
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "MEMOIZE": _Machine.memoize,
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "TUPLE": lambda m, _: m.push(tuple(m.since_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_SET": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.since_mark()),
    "FROZENSET": lambda m, _: m.push(m.since_mark()),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.since_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.since_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": _Machine.new_dict,
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.since_mark()),
}
"""What each opcode of a pickle does here. Those that are not listed (of copyreg's registry, of out-of-band buffers) are
not read."""


def read_structure(pickled: bytes) -> object:
    """The structure of a pickle: plain values and containers, `Name`, `Call` and `Stored`.

    Raises:
        InertPickleError: the pickle is damaged or has an opcode that is not read.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in OPCODES:
                raise InertPickleError(f"opcode {opcode.name} is not read")
            OPCODES[opcode.name](machine, argument)
        return machine.pop()
    except (ValueError, IndexError, KeyError) as error:
        raise InertPickleError(f"damaged pickle ({error or type(error).__name__})") from None


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
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
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
