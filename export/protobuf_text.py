"""Protocol buffers in their text form, written without the protobuf package or a schema."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, Union

__all__ = ["Enum", "Message", "protobuf_text"]


@dataclass(frozen=True)
class Enum:
    """A value of an enumeration, by its name."""

    name: str


Scalar: TypeAlias = str | int | bool | Enum
Message: TypeAlias = Sequence[tuple[str, Union[Scalar, "Message"]]]
"""Fields and their values, in order; a repeated field comes several times."""


def protobuf_text(message: Message) -> str:
    """A message in text form: one field a line, nested messages indented by two spaces.

    Args:
        message: its fields.

    Returns:
        ASCII text that ends with a line feed.

    Source: the protocol buffers text format language specification.
    """
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for name, value in message:
        if isinstance(value, str | int | Enum):
            yield f"{indent}{name}: {_scalar(value)}"
        else:
            yield f"{indent}{name} {{"
            yield from _lines(value, f"{indent}  ")
            yield f"{indent}}}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, bool):  # before int, which it is as well
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return f'"{"".join(map(_escaped, value.encode()))}"'


def _escaped(byte: int) -> str:
    """A byte of a string literal; what is not plain ASCII as three octal digits."""
    is_plain = 0x20 <= byte < 0x7F and byte not in b'"\\'
    return chr(byte) if is_plain else f"\\{byte:03o}"
