"""Checks of a settings dataclass, whose values may come from a file that a user wrote."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["BELOW_ONE", "FRACTION", "NOT_NEGATIVE", "POSITIVE", "Bound", "find_problems"]


@dataclasses.dataclass(frozen=True)
class Bound:
    """Where a number may lie.

    Attributes:
        text: completes "must be ...".
        holds: whether a number is in bounds.
    """

    text: str
    holds: Callable[[float], bool]


POSITIVE: Final = Bound("positive", lambda value: value > 0)
NOT_NEGATIVE: Final = Bound("at least 0", lambda value: value >= 0)
FRACTION: Final = Bound("in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE: Final = Bound("in [0, 1)", lambda value: 0 <= value < 1)

_KINDS: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "an integer",
    float: "a finite number",
    str: "text",
}


def find_problems(settings: Any, bounds: Mapping[str, Bound], prefix: str = "") -> list[str]:
    """What is wrong with the values of a dataclass instance.

    Args:
        settings: a dataclass instance; fields that are no bool, int, float or str are left out.
        bounds: bounds of numbers by field name.
        prefix: put before the field names.

    Returns:
        A clause for each wrong field, with its value. An integer is fine for a number.
    """
    problems = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not isinstance(field.type, type) or field.type not in _KINDS:
            continue
        if not _is_of_kind(value, field.type):
            problem = f"must be {_KINDS[field.type]}, got {value!r}"
            if field.type is float and isinstance(value, str):
                problem += " (for YAML, 3.0e-4 is a number, but 3e-4 is text)"
        elif field.name in bounds and not bounds[field.name].holds(value):
            problem = f"must be {bounds[field.name].text}, got {value}"
        else:
            continue
        problems.append(f"{prefix}{field.name} {problem}")
    return problems


def _is_of_kind(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if kind in (bool, str):
        return isinstance(value, kind)
    if kind is int:
        return isinstance(value, int)
    return isinstance(value, (int, float)) and math.isfinite(value)
