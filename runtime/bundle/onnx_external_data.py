"""Which files an ONNX graph keeps tensors in, read from its bytes without the onnx package.

ONNX Runtime resolves such files by itself: for a graph given as bytes, relative to the working
directory. So they have to be known before a graph is given to it.

Source: onnx.proto of ONNX 1.16 (field numbers); the protocol buffers encoding specification.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

__all__ = ["external_data_locations"]

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING, _ENTRY = range(9)

# By message: the fields through which a tensor can be reached, and what message they hold.
_CHILDREN: Final[Mapping[int, Mapping[int, int]]] = MappingProxyType(
    {
        _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
        _TRAINING: {1: _GRAPH, 2: _GRAPH},
        _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
        _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
        _NODE: {5: _ATTRIBUTE},
        _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
        _SPARSE: {1: _TENSOR, 2: _TENSOR},
        _TENSOR: {13: _ENTRY},
    }
)
_LOCATION = b"location"
# Up to this size it is quicker to look for the word than to walk through a message's fields.
_SEARCHED_BYTES = 4096

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10
_MAX_TAG_BYTES = 5


def external_data_locations(model: bytes) -> frozenset[str]:
    """The locations that a model's tensors name as external data, in graphs at any depth.

    A location counts even where the tensor does not say that it is external.

    Args:
        model: the bytes of an ONNX file.

    Raises:
        ValueError: if the bytes are not those of a protocol buffers message.
    """
    locations: set[str] = set()
    pending = [(_MODEL, 0, len(model))]
    while pending:
        kind, start, end = pending.pop()
        if end - start <= _SEARCHED_BYTES and model.find(_LOCATION, start, end) < 0:
            continue
        if kind == _ENTRY:
            fields = {
                number: model[first:last] for number, first, last in _fields(model, start, end)
            }
            if fields.get(1) == _LOCATION:
                locations.add(fields.get(2, b"").decode())
            continue
        children = _CHILDREN[kind]
        for number, first, last in _fields(model, start, end):
            child = children.get(number)
            if child is not None:
                pending.append((child, first, last))
    return frozenset(locations)


def _fields(content: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of every length-delimited field of one message."""
    while position < end:
        start = position
        tag = content[position]
        position += 1
        if tag >= 0x80:  # a function call for each field would take most of the time
            tag, position = _varint(content, start, end)
            if position - start > _MAX_TAG_BYTES:
                raise ValueError(f"a field's tag is too long at byte {start}")
            tag &= 0xFFFFFFFF  # as protocol buffers reads it
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(content, position, end)
        elif wire_type == _BYTES:
            length, first = _varint(content, position, end)
            position = first + length
            if position <= end:
                yield tag >> 3, first, position
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            raise ValueError(f"a field has the wire type {wire_type} at byte {start}")
        if position > end:
            raise ValueError(f"a field is cut off at byte {start}")


def _varint(content: bytes, position: int, end: int) -> tuple[int, int]:
    """An integer and the position behind it."""
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if position >= end:
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position
    raise ValueError(f"an integer does not end at byte {position}")
