"""Typed fields out of one JSON object, with every problem noted instead of only the first."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

from samus_edge.errors import BadArgumentError

__all__ = [
    "MAX_MANIFEST_BYTES",
    "parse_manifest",
]


MAX_MANIFEST_BYTES = 4 << 20
_MAX_DEPTH = 64

# Control characters but tab, line feed and carriage return could steer the terminal that a manifest
# is shown on; a lone surrogate cannot be encoded.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_manifest(content: bytes) -> object:
    """Parse a manifest more strictly than `json.loads`.

    Args:
        content: UTF-8, with or without a byte order mark.

    Raises:
        ValueError: if it is not JSON in UTF-8, names a field of an object twice, is nested more than
            64 deep, or holds a number beyond float64 or a text with control characters.
        RecursionError: if it is nested deeper than Python can parse.
    """
    value: object = json.loads(
        content.decode("utf-8-sig"),
        parse_constant=_refuse_constant,
        object_pairs_hook=_object_of_distinct_fields,
    )
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


JsonValue: TypeAlias = (
    "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
)

_T = TypeVar("_T")
_MISSING: Final = object()
_SHOWN_CHARACTERS = 60
_MAX_INTEGER = 2**53


class JsonFields:
    """Reads the fields of one JSON object and remembers which were read.

    A missing or mistyped field adds one line to `problems` and yields a neutral value, so that a
    reader can go through the whole document and then raise a single error that lists everything.

    Args:
        value: the parsed JSON value, expected to be an object.
        where: how messages name this object, for example "graphs.image_encoder"; "" at the root.
        problems: the list that messages are appended to, shared by all objects of a document.
    """

    def __init__(self, value: object, where: str, problems: list[str]) -> None:
        self._where = where
        self._problems = problems
        self._read: set[str] = set()
        self._object: dict[str, JsonValue] = {}
        if isinstance(value, dict):
            self._object = value
        elif value is _MISSING:
            problems.append(f"{where} is missing")
        else:
            problems.append(f"{where or 'the document'} must be an object, got {show_value(value)}")

    def text(self, name: str) -> str:
        """A string that is not empty."""
        value = self._take(name)
        if isinstance(value, str) and value:
            return value
        return self._mistyped(name, "a non-empty string", value, "")

    def integer(self, name: str) -> int:
        """An integer from 1 to 2**53, up to which JSON integers are exact everywhere."""
        value = self._take(name)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_INTEGER:
            return value
        return self._mistyped(name, "a positive integer up to 2**53", value, 1)

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._take(name)
        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and abs(value) <= sys.float_info.max  # false for NaN; exact for an integer of any size
        ):
            return float(value)
        return self._mistyped(name, "a finite number", value, 0.0)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self._take(name)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return self._mistyped(name, "a list of strings", value, ())

    def text_mapping(self, name: str) -> dict[str, str]:
        """An object whose values are strings."""
        value = self._take(name)
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return dict(value)
        return self._mistyped(name, "an object of strings", value, {})

    def mapping(self, name: str) -> dict[str, JsonValue]:
        """An object of anything."""
        value = self._take(name)
        if isinstance(value, dict):
            return dict(value)
        return self._mistyped(name, "an object", value, {})

    def items(self, name: str) -> list[JsonValue]:
        """A list of anything."""
        value = self._take(name)
        if isinstance(value, list):
            return list(value)
        return self._mistyped(name, "a list", value, [])

    def optional_items(self, name: str) -> list[JsonValue]:
        """A list of anything; empty where the field is missing."""
        return self.items(name) if name in self._object else []

    def optional_mapping(self, name: str) -> dict[str, JsonValue]:
        """An object of anything; empty where the field is missing."""
        return self.mapping(name) if name in self._object else {}

    def value(self, name: str) -> object:
        """Whatever is there, to be read by another `JsonFields`; a missing one is noted there."""
        return self._take(name)

    def unknown(self) -> dict[str, JsonValue]:
        """The fields that nothing has read: those of a later format version."""
        return {name: value for name, value in self._object.items() if name not in self._read}

    def path_of(self, name: str) -> str:
        """How messages name one of this object's fields."""
        return f"{self._where}.{name}" if self._where else name

    def _take(self, name: str) -> object:
        self._read.add(name)
        return self._object.get(name, _MISSING)

    def _mistyped(self, name: str, expected: str, value: object, neutral: _T) -> _T:
        if value is _MISSING:
            self._problems.append(f"{self.path_of(name)} is missing")
        else:
            self._problems.append(
                f"{self.path_of(name)} must be {expected}, got {show_value(value)}"
            )
        return neutral


def show_value(value: object) -> str:
    """A value as an error message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "..."
