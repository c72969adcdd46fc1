"""Read a pickle without running any of it.

A pickle names classes and functions and asks for them to be called. This reader cannot call them: it reads the opcodes
that the standard library's `pickletools` lists. If a pickle imports a name, it keeps the name; if a pickle calls, it
keeps the function's name and the arguments. Nothing is looked up, imported or called, whatever the file says.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class InertPickleError(ValueError):
    """Reports that the file is damaged, or holds something that is not read here."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """Holds the name of a class or function in the pickle, `module qualname`. It is never looked up."""

    text: str


@dataclass(frozen=True, eq=False, slots=True)
class Stored:
    """Holds a reference to something outside the pickle: in torch files, a storage."""

    reference: object


@dataclass(eq=False, slots=True)
class Call:
    """Records a call or construction that the pickle asks for and that is not made, and the contents of its result."""

    target: object
    arguments: object
    state: object = None
    items: dict[object, object] = field(default_factory=dict)


class _Machine:
    """Keeps the stack and memo of a pickle. Every opcode moves values; none calls anything that the pickle names."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.stored: list[Stored] = []

    def nothing(self, _: object) -> None:
        """Do nothing, for opcodes that only frame the others."""

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self, _: object = None) -> Any:
        if self.marks and self.marks[-1] == len(self.stack):
            raise InertPickleError("the pickle uses a value that was not stored")
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

    def store(self, reference: object) -> None:
        self.stored.append(Stored(reference))
        self.push(self.stored[-1])

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
    "PERSID": _Machine.store,
    "BINPERSID": lambda m, _: m.store(m.pop()),
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
"""The effect of each opcode. Others (of copyreg's registry, of out-of-band buffers) are refused."""


def read_structure(pickled: bytes, stored: list[Stored] | None = None) -> object:
    """Return the structure of a pickle: plain values and containers, `Name`, `Call` and `Stored`.

    Args:
        pickled: the bytes of the pickle.
        stored: gets every reference to something outside, in order.

    Raises:
        InertPickleError: the pickle is damaged or has an opcode that is not read.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name not in OPCODES:
                raise InertPickleError(f"opcode {opcode.name} is not read")
            OPCODES[opcode.name](machine, argument)
        if stored is not None:
            stored += machine.stored
        return machine.pop()
    except (ValueError, IndexError, KeyError) as error:
        raise InertPickleError(f"damaged pickle ({error or type(error).__name__})") from None
