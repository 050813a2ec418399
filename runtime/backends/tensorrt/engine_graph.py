"""What TensorRT needs changed in a graph of a bundle, without the onnx package.

TensorRT takes an int8 constant only before a DequantizeLinear, but bundles store weights as int8
behind a Cast. And its parser refuses a Resize of two named axes beside an axis of unknown size,
such as the batch. Neither change alters what the graph computes.

Source: onnx.proto of ONNX 1.16 (field numbers); the protocol buffers encoding specification;
TensorRT-RTX 1.7.1, whose parser and builder refused both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

__all__ = ["graph_for_tensorrt"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_INT8, _INT32 = 3, 6  # TensorProto.DataType
_MAX_VARINT_BITS = 70

# A field of a message: number, wire type, first byte of its tag, first byte of its content, end.
_Field = tuple[int, int, int, int, int]


def graph_for_tensorrt(graph: bytes, fixed_sizes: Mapping[str, Sequence[int | None]]) -> bytes:
    """Write a graph as TensorRT takes it; it computes the same.

    - An int8 initialiser that only Cast nodes read becomes int32.
    - Input axes that are used with one size get that size.

    Args:
        graph: the bytes of an ONNX file with all tensors in it.
        fixed_sizes: by input, one entry for each axis: the only size that will be fed, or None.

    Raises:
        ValueError: if the bytes are not those of a protocol buffers message.
    """
    return _edit(graph, {7: lambda content: _edit_graph(content, fixed_sizes)})


def _edit_graph(graph: bytes, fixed_sizes: Mapping[str, Sequence[int | None]]) -> bytes:
    cast: set[bytes] = set()
    used_otherwise: set[bytes] = set()
    for node in _children(graph, 1):
        inputs = list(_children(node, 1))
        is_cast = next(_children(node, 4), b"") == b"Cast"
        (cast if is_cast else used_otherwise).update(inputs)
    # A graph may also give an initialiser as an output (value info: name).
    used_otherwise.update(name for value in _children(graph, 12) for name in _children(value, 1))
    widened = cast - used_otherwise

    def initialiser(tensor: bytes) -> bytes:
        return _widen(tensor) if next(_children(tensor, 8), b"") in widened else tensor

    def graph_input(value: bytes) -> bytes:
        sizes = fixed_sizes.get(next(_children(value, 1), b"").decode())
        return value if sizes is None else _fix_sizes(value, sizes)

    return _edit(graph, {5: initialiser, 11: graph_input})


def _widen(tensor: bytes) -> bytes:
    """An int8 tensor as int32; any other as it is."""
    fields = list(_fields(tensor))
    types = [_varint(tensor, first)[0] for number, _, _, first, _ in fields if number == 2]
    if types[-1:] != [_INT8]:
        return tensor
    parts = []
    for number, _, start, first, end in fields:
        if number == 2:
            parts.append(bytes([2 << 3 | _VARINT, _INT32]))
        elif number == 9:  # raw_data; values in int32_data are of both types
            wide = np.frombuffer(tensor[first:end], dtype=np.int8).astype("<i4").tobytes()
            parts.append(_bytes_field(9, wide))
        else:
            parts.append(tensor[start:end])
    return b"".join(parts)


def _fix_sizes(value: bytes, sizes: Sequence[int | None]) -> bytes:
    """A graph's input (ValueInfoProto) with sizes in place of names."""
    remaining = iter(sizes)

    def dimension(content: bytes) -> bytes:
        size = next(remaining, None)
        is_open = not any(number == 1 for number, *_ in _fields(content))
        return content if size is None or not is_open else bytes([1 << 3]) + _encoded(size)

    def shape(content: bytes) -> bytes:
        return _edit(content, {1: dimension})

    def tensor_type(content: bytes) -> bytes:
        return _edit(content, {2: shape})

    return _edit(value, {2: lambda content: _edit(content, {1: tensor_type})})


def _edit(message: bytes, editors: Mapping[int, Callable[[bytes], bytes]]) -> bytes:
    """Copy a message with the content of some of its fields, by number, exchanged."""
    parts = []
    for number, wire_type, start, first, end in _fields(message):
        editor = editors.get(number)
        if editor is None or wire_type != _BYTES:
            parts.append(message[start:end])
            continue
        content = message[first:end]
        edited = editor(content)
        parts.append(message[start:end] if edited is content else _bytes_field(number, edited))
    return b"".join(parts)


def _children(message: bytes, wanted: int) -> Iterator[bytes]:
    for number, wire_type, _, first, end in _fields(message):
        if number == wanted and wire_type == _BYTES:
            yield message[first:end]


def _fields(message: bytes) -> Iterator[_Field]:
    position = 0
    while position < len(message):
        start = position
        tag, first = _varint(message, position)
        wire_type = tag & 7
        if wire_type == _VARINT:
            _, position = _varint(message, first)
        elif wire_type == _BYTES:
            length, first = _varint(message, first)
            position = first + length
        elif wire_type in (_FIXED64, _FIXED32):
            position = first + (8 if wire_type == _FIXED64 else 4)
        else:
            raise ValueError(f"a field has the wire type {wire_type} at byte {start}")
        if position > len(message):
            raise ValueError(f"a field is cut off at byte {start}")
        yield tag >> 3, wire_type, start, first, position


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """An integer and the position behind it."""
    value = 0
    for shift in range(0, _MAX_VARINT_BITS, 7):
        if position >= len(content):
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"an integer does not end at byte {position}")


def _encoded(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _encoded(number << 3 | _BYTES) + _encoded(len(content)) + content
