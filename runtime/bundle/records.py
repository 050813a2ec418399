"""JSON documents as dataclasses: read and written from the type hints, every problem named at once.

A field may be of a plain type, `Literal`, a union, a list (as a tuple), a mapping by text, another
dataclass or `JsonValue`, which takes anything; `Annotated[..., Bound(...)]` says where a value may
lie. Unknown fields are refused, except by a dataclass with a field `extra`, which keeps them.
"""

import dataclasses
import functools
import json
import math
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from samus_edge.errors import BadArgumentError

if TYPE_CHECKING:
    JsonValue: TypeAlias = (
        bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
    )
else:
    JsonValue = object  # what the hints of a field say at run time: anything

_T = TypeVar("_T")


class RecordError(BadArgumentError):
    """A document is not what it should be.

    Attributes:
        problems: Clauses, each with the path of its field.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Where a value may lie.

    Attributes:
        text: Completes "must be ...".
        holds: Whether a value of the right type is in bounds.
    """

    text: str
    holds: Callable[[Any], object]


def one_of(names: Sequence[str]) -> Bound:
    """The bound of a text that is one of these names."""
    return Bound(f"one of {', '.join(names)}", lambda value: value in names)


Text = Annotated[str, Bound("a non-empty string", bool)]
# Up to 2**53, JSON integers are exact everywhere.
Size = Annotated[int, Bound("a positive integer up to 2**53", lambda value: 1 <= value <= 2**53)]
_POSITIVE = Bound("positive", lambda value: value > 0)
_NOT_NEGATIVE = Bound("at least 0", lambda value: value >= 0)
Count = Annotated[int, _POSITIVE]
CountOrZero = Annotated[int, _NOT_NEGATIVE]
Positive = Annotated[float, _POSITIVE]
NotNegative = Annotated[float, _NOT_NEGATIVE]
Fraction = Annotated[float, Bound("in [0, 1]", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Bound("in [0, 1)", lambda value: 0 <= value < 1)]

LEFT_OUT_IF_EMPTY: Final = types.MappingProxyType({"left_out_if_empty": True})
"""Metadata of a field that `to_json` leaves out where it is empty; `{"json": NAME}` renames one."""

_MAX_DEPTH = 64
_SHOWN_CHARACTERS = 60
# Control characters but tab, line feed and carriage return could steer the terminal that a document
# is shown on; a lone surrogate cannot be encoded.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_json(content: bytes) -> object:
    """Parse a document more strictly than `json.loads`.

    Args:
        content: UTF-8, with or without a byte order mark.

    Raises:
        BadArgumentError: if it is not JSON in UTF-8, names a field of an object twice, is nested
            more than 64 deep, or holds a number beyond float64 or a text with control characters.
    """
    try:
        value: object = json.loads(
            content.decode("utf-8-sig"),
            parse_constant=_refuse_constant,
            object_pairs_hook=_object_of_distinct_fields,
        )
    except RecursionError:
        raise BadArgumentError(f"it is nested more than {_MAX_DEPTH} deep") from None
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise BadArgumentError(f"it is nested more than {_MAX_DEPTH} deep")
        if isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            pending += [(part, depth + 1) for part in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise BadArgumentError("a number is too large")
        elif isinstance(item, str) and (found := _UNPRINTABLE.search(item)):
            raise BadArgumentError(f"a text holds the control character {found[0]!r}")
    return value


def _refuse_constant(name: str) -> float:
    raise BadArgumentError(f"{name} is not a JSON number")


def _object_of_distinct_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadArgumentError(f"the field {twice[:60]!r} is there twice")
    return fields


def from_json(kind: type[_T], value: object, where: str = "") -> _T:
    """Build a dataclass from parsed JSON or YAML.

    Args:
        kind: The dataclass.
        value: The parsed value.
        where: How messages name it; "" for a whole document.

    Raises:
        RecordError: naming every field that is missing, unknown or of another kind, and what a
            `__post_init__` refuses.
    """
    problems: list[str] = []
    record: _T = _record(kind, value, where, problems)
    if problems:
        raise RecordError(problems)
    return record


def check_record(record: Any, further: Sequence[str] = ()) -> None:
    """Check the values of a dataclass against its type hints, for a `__post_init__`.

    Args:
        record: The dataclass.
        further: Clauses for what else is wrong with it.

    Raises:
        RecordError: naming every wrong field, and what else is wrong.
    """
    problems: list[str] = []
    kind: Any = type(record)
    for field in dataclasses.fields(record):
        _value(_hints(kind)[field.name], getattr(record, field.name), field.name, problems)
    if problems or further:
        raise RecordError([*problems, *further])


def to_json(record: Any) -> dict[str, Any]:
    """A dataclass as a JSON object, unknown fields included."""
    document = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name != "extra" and (value or "left_out_if_empty" not in field.metadata):
            document[field.metadata.get("json", field.name)] = _plain(value)
    return {**document, **getattr(record, "extra", {})}


def show_value(value: object) -> str:
    """A value as an error message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _record(kind: Any, value: object, path: str, problems: list[str]) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'the document'} must be a mapping, got {show_value(value)}")
        return None
    before = len(problems)
    unknown, values = dict(value), {}
    for field in dataclasses.fields(kind):
        if field.name == "extra":
            continue
        name = field.metadata.get("json", field.name)
        inner = f"{path}.{name}" if path else name
        if name in unknown:
            hint = _hints(kind)[field.name]
            values[field.name] = _value(hint, unknown.pop(name), inner, problems)
        elif field.default is field.default_factory is dataclasses.MISSING:
            problems.append(f"{inner} is missing")
    if "extra" in _hints(kind):
        values["extra"] = unknown
    else:
        problems += [
            f"unknown key '{path}.{name}'" if path else f"unknown key {name!r}" for name in unknown
        ]
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except ValueError as err:
        problems.append(f"{path}: {err}" if path else str(err))
        return None


def _value(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """The value as a field of this type holds it; problems are noted."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        before = len(problems)
        result = _value(args[0], value, path, problems)
        if len(problems) == before:
            problems += [
                f"{path} must be {bound.text}, got {show_value(value)}"
                for bound in args[1:]
                if not bound.holds(result)
            ]
        return result
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, path, problems)
    if origin in (Union, types.UnionType):
        tries: list[list[str]] = []
        for arg in args:
            tries.append([])
            result = _value(arg, value, path, tries[-1])
            if not tries[-1]:
                return result
        # What is wrong inside a value says more than that it is none of these.
        inside = [found for found in tries if not found[0].startswith(f"{path} must be ")]
        if inside:
            problems += inside[0]
            return None
    elif origin is Literal and value in args:
        return value
    elif origin in (tuple, list, Sequence) and isinstance(value, (tuple, list)):
        kinds = args if origin is tuple and args[-1] is not ... else args[:1] * len(value)
        if len(kinds) == len(value):
            items = zip(kinds, value, strict=True)
            return tuple(
                _value(arg, item, f"{path}[{index}]", problems)
                for index, (arg, item) in enumerate(items)
            )
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {
            name: _value(args[1], item, f"{path}.{name}", problems) for name, item in value.items()
        }
    elif origin is None and _is_plain(kind, value):
        return float(value) if kind is float else value
    problem = f"{path} must be {_name(kind)}, got {show_value(value)}"
    if kind is float and isinstance(value, str):
        problem += " (for YAML, 3.0e-4 is a number, but 3e-4 is text)"
    problems.append(problem)
    return None


_KINDS: Final[Mapping[Any, str]] = types.MappingProxyType(
    {
        bool: "true or false",
        int: "an integer",
        float: "a finite number",
        str: "a string",
        types.NoneType: "null",
    }
)


def _is_plain(kind: Any, value: Any) -> bool:
    if kind is object:
        return True
    if kind is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # False for NaN, and exact for an integer of any size.
        return is_number and abs(value) <= sys.float_info.max
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _name(kind: Any) -> str:
    """What a value of this type is called in "must be ..."."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _name(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_name, args))
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (tuple, list, Sequence):
        fixed = origin is tuple and args[-1] is not ...
        return f"a list of {len(args)}" if fixed else "a list"
    if origin in (dict, Mapping) or dataclasses.is_dataclass(kind):
        return "a mapping"
    return _KINDS[kind]
