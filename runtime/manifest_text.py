"""From the bytes of a manifest to JSON that has one meaning and can be written again."""

import json
import math
import re

__all__ = ["MAX_MANIFEST_BYTES", "parse_manifest"]

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
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        if isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            pending += [(part, depth + 1) for part in item]
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError("a number is too large")
        elif isinstance(item, str) and (found := _UNPRINTABLE.search(item)):
            raise ValueError(f"a text holds the control character {found[0]!r}")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _object_of_distinct_fields(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice[:60]!r} is there twice")
    return fields
