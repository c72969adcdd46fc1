"""Define what a sweep tries: for each field a list of values or a range. Read it from a file, and check it.

A space file has sections as presets do. A field has a list of values, or one of these:

    optimizer:
      learning_rate: {log_range: [1.0e-4, 1.0e-2]}
    loss:
      kl_weight: [1.0e-8, 1.0e-7]          # the same as {choices: [1.0e-8, 1.0e-7]}
      equivariance: {range: [0, 0.5]}      # perhaps with a step: {range: [0, 0.5], step: 0.1}
    model:
      num_res_blocks: {integers: [1, 3]}
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from pikavae.config import MODEL, Config, NamesPath
from pikavae.errors import UserError
from pikavae.operations.stages.keys import NOT_IN_KEYS, START_FIELD
from pikavae.presets import did_you_mean, field_names, unknown_field_hint

KINDS = ("choices", "range", "log_range", "integers")
SWEPT_SECTIONS = ("model", "loss", "optimizer", "training")
SWEPT_DATA = ("data.flip",)
"""Fields of section `data` that leave the validation pictures as they are."""

Value = Any
"""A value of a field, with JSON's types."""


@dataclass(frozen=True)
class Choices:
    """Holds a list of values to try."""

    values: tuple[Value, ...]

    def content(self) -> dict[str, Any]:
        """Return it with JSON's types."""
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Range:
    """Holds a range of numbers to try, with both ends.

    Attributes:
        low: the least.
        high: the largest.
        kind: `range` or `log_range` of numbers, or `integers`. A `log_range` of a whole number has whole numbers.
        is_whole: True if only whole numbers are tried.
        step: the distance between two numbers that are tried; None for any number between.
    """

    low: float
    high: float
    kind: Literal["range", "log_range", "integers"]
    is_whole: bool
    step: float | None = None

    @property
    def is_log(self) -> bool:
        """Return True if each order of magnitude is tried as often as the others."""
        return self.kind == "log_range"

    def content(self) -> dict[str, Any]:
        """Return it with JSON's types."""
        return {self.kind: [self.low, self.high], **({"step": self.step} if self.step is not None else {})}


@dataclass(frozen=True)
class Space:
    """Holds what is tried of each field, by its dotted name."""

    dimensions: Mapping[str, Choices | Range]

    def __contains__(self, field: str) -> bool:
        return field in self.dimensions

    @property
    def num_combinations(self) -> int | None:
        """Return how many combinations there are; None if there is a range."""
        counts = [len(one.values) for one in self.dimensions.values() if isinstance(one, Choices)]
        return math.prod(counts) if len(counts) == len(self.dimensions) else None

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Yield every combination of lists; the last field changes first."""
        lists = [one.values for one in self.dimensions.values() if isinstance(one, Choices)]
        for values in itertools.product(*lists):
            yield dict(zip(self.dimensions, values, strict=True))

    def content(self) -> dict[str, Any]:
        """Return what is tried of each field, with JSON's types."""
        return {field: one.content() for field, one in self.dimensions.items()}


def make_space(swept: Mapping[str, Sequence[Value]], file: str | None, fixed: Mapping[str, Any]) -> Space:
    """Make the space of a command line.

    Args:
        swept: the values of each field that was given several, by its dotted name.
        file: a space file, or None.
        fixed: the fields that were given one value.

    Raises:
        UserError: a field cannot be swept, is named twice, or a value is not one of its; or there is nothing to sweep.
    """
    dimensions: dict[str, Choices | Range] = {
        field: choices_of(field, values, where=f"--{field.replace('_', '-')}") for field, values in swept.items()
    }
    for field, stated in _fields_of(file).items() if file is not None else ():
        if field in swept or field in fixed:
            raise UserError(f"{file}: {field}: it is set by --{field.replace('_', '-')} too; keep one of the two")
        dimensions[field] = _dimension(field, stated, f"{file}: {field}")
    if not dimensions:
        raise UserError(
            "sweep: no field has several values; give some, as in --optimizer.learning-rate 0.001 0.005, or name a "
            "space file by --space"
        )
    return Space(dimensions)


def choices_of(field: str, values: Sequence[Value], *, where: str) -> Choices:
    """Check the list of a field's values, and bring each to the field's type.

    Raises:
        UserError: the field cannot be swept, a value is not one of its or is there twice, or there are fewer than two.
    """
    refuse_field(field, where)
    if len(values) < 2:
        found = "the list is empty" if not values else f"one value only, {values[0]!r}"
        raise UserError(f"{where}: {found}; a sweep needs two or more, and one is set by --{field.replace('_', '-')}")
    checked = [value_of(field, value, where) for value in values]
    texts = [json.dumps(value) for value in checked]
    for place, text in enumerate(texts):
        if text in texts[:place]:
            raise UserError(f"{where} {values[place]!r}: this value is there twice; leave one out")
    return Choices(tuple(checked))


def refuse_field(field: str, where: str) -> None:
    """Refuse a field that a sweep cannot vary.

    Raises:
        UserError: there is no such field, or it decides no training, other pictures, or only where a training runs.
    """
    if field not in field_names():
        raise UserError(f"{where}: no such field; {unknown_field_hint(field)}")
    section = field.partition(".")[0]
    if section == "data" and field not in SWEPT_DATA:
        raise UserError(
            f"{where}: section data decides the pictures, and scores on other pictures cannot be compared; run a sweep "
            f"for each value"
        )
    if section not in SWEPT_SECTIONS and section != "data":
        raise UserError(
            f"{where}: section {section} decides no training; fields of {', '.join(SWEPT_SECTIONS)} can be swept"
        )
    if field in NOT_IN_KEYS and field != START_FIELD:
        raise UserError(f"{where}: it sets where or how a training works and not what it learns; give it one value")
    if field == "model.like":
        raise UserError(f"{where}: it stands for several sizes; sweep these, such as model.latent_channels")
    marks = [mark for mark in _info(field).metadata if isinstance(mark, NamesPath) and mark is not MODEL]
    if marks:
        raise UserError(f"{where}: it names a file; give it one value")


def value_of(field: str, value: Value, where: str) -> Value:
    """Bring a value to its field's type, with JSON's types.

    Raises:
        UserError: the field does not take it.
    """
    info = _info(field)
    kind: Any = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        checked = adapter.dump_python(adapter.validate_python(value), mode="json")
    except ValidationError as error:
        said = error.errors(include_url=False)[0]["msg"]
        raise UserError(f"{where} {value!r}: {said[0].lower()}{said[1:]}") from None
    if isinstance(checked, float) and not math.isfinite(checked):
        raise UserError(f"{where} {value!r}: input should be a finite number")
    return checked


def _info(field: str) -> FieldInfo:
    section, _, name = field.partition(".")
    part = Config.model_fields[section].annotation
    assert isinstance(part, type)
    assert issubclass(part, BaseModel)
    return part.model_fields[name]


def _fields_of(file: str) -> dict[str, Any]:
    """Return what a space file states of each field, by its dotted name.

    Raises:
        UserError: it is missing, not YAML, names a field twice, or has no sections.
    """
    path = Path(file).expanduser()
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"--space {file}: {(error.strerror or str(error)).lower()}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not a YAML file: {' '.join(str(error).split())}") from None
    if not tree:
        raise UserError(f"{file}: it is empty; name fields and their values, such as `loss: {{kl_weight: [1.0, 2.0]}}`")
    if not isinstance(tree, Mapping):
        raise UserError(f"{file}: expected sections such as `loss:` and `training:`, found {type(tree).__name__}")
    fields: dict[str, Any] = {}
    for section, parts in tree.items():
        if not isinstance(parts, Mapping) or not parts:
            hint = "" if section in Config.model_fields else f"; {unknown_field_hint(str(section))}"
            raise UserError(f"{file}: {section}: expected fields below this section{hint}")
        fields |= {f"{section}.{name}": stated for name, stated in parts.items()}
    return fields


class _Loader(yaml.SafeLoader):
    """Reads YAML and refuses a name that a mapping has twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, name in enumerate(names):
            if name in names[:place]:
                line = node.value[place][0].start_mark.line + 1
                raise UserError(f"{name!r} on line {line} of the space file: it is there twice; keep one of the two")
        return super().construct_mapping(node, deep)


def _dimension(field: str, stated: Value, where: str) -> Choices | Range:
    """Read what a space file states of one field."""
    refuse_field(field, where)
    if isinstance(stated, list):
        return choices_of(field, stated, where=where)
    if not isinstance(stated, Mapping):
        raise UserError(f"{where}: expected a list of values, or one of {', '.join(KINDS)}, found {stated!r}")
    kinds = [name for name in stated if name != "step"]
    for name in kinds:
        if name not in KINDS:
            raise UserError(
                f"{where}: {name}: {did_you_mean(str(name), [*KINDS, 'step']) or f'expected one of {KINDS}'}"
            )
    if len(kinds) != 1:
        raise UserError(f"{where}: expected one of {', '.join(KINDS)}, found {' and '.join(kinds) or 'none'}")
    (kind,) = kinds
    given = stated[kind]
    if not isinstance(given, list):
        raise UserError(f"{where}: {kind}: expected a list, found {given!r}")
    if kind != "choices":
        return _range(field, kind, given, stated.get("step"), where)
    if "step" in stated:
        raise UserError(f"{where}: step belongs to range and integers; choices have none")
    return choices_of(field, given, where=where)


def _range(field: str, kind: Any, ends: list[Any], step: Any, where: str) -> Range:
    """Check the ends of a range, and its step."""
    kinds = _types(field)
    if not kinds & {int, float} or kinds & {str, bool}:
        raise UserError(f"{where}: {kind}: the field is no number; list its values")
    is_whole = float not in kinds
    if kind == "range" and is_whole:
        raise UserError(f"{where}: range: the field takes whole numbers; use integers, or list the values")
    if len(ends) != 2:
        raise UserError(f"{where}: {kind}: expected the two ends, such as [1, 4], found {len(ends)} values")
    low, high = (value_of(field, end, f"{where}: {kind}") for end in ends)
    if kind == "integers":
        low, high = (_whole(end, f"{where}: integers") for end in (low, high))
    if low is None or high is None or not low < high:
        raise UserError(f"{where}: {kind} {ends}: the first end must be less than the second")
    if kind == "log_range" and low <= 0:
        raise UserError(f"{where}: log_range {ends}: both ends must be greater than 0")
    return Range(low, high, kind, is_whole or kind == "integers", _step(kind, step, low, high, where))


def _step(kind: str, step: Any, low: float, high: float, where: str) -> float | None:
    if step is None:
        return None
    if kind == "log_range":
        raise UserError(f"{where}: step belongs to range and integers; log_range has none")
    try:
        size = float(step)
    except (TypeError, ValueError):
        raise UserError(f"{where}: step {step!r}: expected a number") from None
    if kind == "integers":
        size = _whole(size, f"{where}: step")
    count = (high - low) / size if size > 0 else 0.0
    if count < 1 or abs(count - round(count)) > 1e-6 * count:
        raise UserError(f"{where}: step {step!r}: it must be positive and divide the range from {low:g} to {high:g}")
    return size


def _whole(number: Any, where: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
        raise UserError(f"{where} {number!r}: expected whole numbers")
    return int(number)


def _types(field: str) -> set[type]:
    """Return the plain types that a field takes, with those in unions and in annotated types."""
    found: set[type] = set()
    waiting: list[Any] = [_info(field).annotation]
    while waiting:
        kind = waiting.pop()
        if kind in {int, float, str, bool}:
            found.add(kind)
        elif getattr(kind, "__origin__", None) not in {tuple, Literal}:
            waiting += get_args(kind)
        else:
            found.add(str)
    return found
