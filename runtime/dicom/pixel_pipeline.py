"""From stored values to grey levels, through the stages of the standard.

Modality table or rescaling, then VOI table or window, then presentation; or a palette. Each stage
takes the range of its own input, which is what pydicom's functions do not do: they give the
output of a window the range of the stored values, and read tables in the byte order of this
machine.

Source: DICOM PS3.3, C.7.6.3.1 (palettes), C.7.9.2 (segmented palettes), C.11.1, C.11.2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.notes import Note

if TYPE_CHECKING:
    from pydicom import Dataset

Values: TypeAlias = npt.NDArray[np.float64]
_TABLE_BITS = 16  # values of more bits go through the stages themselves, rows at a time
_ROWS_PIXELS = 1 << 20


def numbers_of(value: Any) -> list[float]:
    """The numbers of an element that hostile files may hold as anything; none if one is no
    number."""
    if value is None:
        return []
    values = (
        [value] if isinstance(value, str | int | float) or not hasattr(value, "__iter__") else value
    )
    try:
        numbers = [float(item) for item in values]
    except (TypeError, ValueError):
        return []
    return numbers if all(math.isfinite(number) for number in numbers) else []


def number_of(item: "Dataset", keyword: str) -> float | None:
    """The number of an element that holds exactly one."""
    numbers = numbers_of(item.get(keyword))
    return numbers[0] if len(numbers) == 1 else None


def is_no_number(item: "Dataset", keyword: str) -> bool:
    """Whether an element that should hold numbers holds something else."""
    value = item.get(keyword)
    is_empty = value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0)
    return not is_empty and not numbers_of(value)


def functional_group(dataset: "Dataset", frame: int, macro: str) -> "Dataset | None":
    """The item of a macro for a frame of an enhanced image: its own, else the shared one.

    Args:
        dataset: of an image.
        frame: from 0.
        macro: keyword of its sequence, such as "PixelMeasuresSequence".
    """
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    for group in [*groups[frame : frame + 1], *shared[:1]]:
        for item in group.get(macro) or ():
            return item  # type: ignore[no-any-return]  # pydicom's sequences hold datasets
    return None


def pixel_elements(dataset: "Dataset", frame: int) -> "Dataset":
    """The elements of modality and VOI transformations that hold for a frame."""
    from pydicom import Dataset

    found = Dataset()
    for keyword in (
        *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
        *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    ):
        if keyword in dataset:
            found[keyword] = dataset[keyword]
    for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        item = functional_group(dataset, frame, macro)
        if item is not None:
            found.update(item)
    return found


@dataclass(frozen=True)
class StoredRange:
    """What the significant bits of a sample can hold.

    Attributes:
        bits: number of them.
        is_signed: whether they are in two's complement.
    """

    bits: int
    is_signed: bool

    @property
    def low(self) -> int:
        """The smallest value."""
        return -(1 << (self.bits - 1)) if self.is_signed else 0

    @property
    def high(self) -> int:
        """The largest value."""
        return self.low + (1 << self.bits) - 1


class GreyLevels:
    """Grey levels of stored values.

    Args:
        stored: range of the values.
        compute: levels, uint8, of values; any shape.
        notes: what was passed over.
    """

    def __init__(
        self, stored: StoredRange, compute: Callable[[Values], GreyFrame], notes: Sequence[Note]
    ) -> None:
        self._stored, self._compute = stored, compute
        self.notes = tuple(notes)
        self._table: GreyFrame | None = None
        if stored.bits <= _TABLE_BITS:
            self._table = compute(np.arange(stored.low, stored.high + 1, dtype=np.float64))

    def __call__(self, values: npt.NDArray[Any]) -> GreyFrame:
        """Levels of a frame, (H, W), of integers within the range."""
        if self._table is not None:
            if self._stored.low == 0:
                return np.asarray(self._table[values])
            return np.asarray(self._table[values.astype(np.int32) - self._stored.low])
        rows = max(1, _ROWS_PIXELS // values.shape[1])
        parts = [
            self._compute(values[start : start + rows].astype(np.float64))
            for start in range(0, len(values), rows)
        ]
        return np.concatenate(parts)


@dataclass(frozen=True)
class _Table:
    """A lookup table; values below its first input have the first entry, those above the last."""

    entries: npt.NDArray[np.uint16]
    first: int
    bits: int

    def __call__(self, values: Values) -> Values:
        indices = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return np.asarray(self.entries[indices.astype(np.int64)], np.float64)


def _read_table(
    descriptor: Any, data: Any, *, is_signed: bool, is_big_endian: bool, is_words: bool = True
) -> _Table | None:
    """A table of the file.

    Args:
        descriptor: number of entries, first input, bits of an entry.
        data: bytes in the file's order, or words as numbers.
        is_signed: whether inputs can be negative: the descriptor does not say.
        is_big_endian: byte order of the file.
        is_words: whether bytes are 16-bit words, which swaps packed 8-bit entries.

    Returns:
        None if it is unusable. An entry of 8 bits may have a word of its own.
    """
    numbers = numbers_of(descriptor)
    if len(numbers) != 3 or not data:
        return None
    count, first, bits = (int(number) for number in numbers)
    count = (count & 0xFFFF) or 1 << 16
    first = (first + 0x8000) % 0x10000 - 0x8000 if is_signed else first & 0xFFFF
    if not isinstance(data, bytes | bytearray | memoryview):
        words = [int(number) & 0xFFFF for number in numbers_of(data)]
        data, is_big_endian = np.asarray(words, "<u2").tobytes(), False
    if len(data) < 2 * count and bits <= 8:
        packed = np.frombuffer(data, np.uint8)
        if is_big_endian and is_words:
            packed = packed[: len(packed) // 2 * 2].reshape(-1, 2)[:, ::-1].ravel()
        entries = packed[:count].astype(np.uint16)
    else:
        words_read = np.frombuffer(data, ">u2" if is_big_endian else "<u2", len(data) // 2)
        entries = words_read[:count].astype(np.uint16)
    if len(entries) == 0:
        return None
    # Entries of more bits than the descriptor states keep them all.
    return _Table(entries, first, max(min(bits, 16), int(entries.max()).bit_length(), 1))


def grey_pipeline(
    elements: "Dataset", stored: StoredRange, *, is_big_endian: bool, is_inverted: bool
) -> GreyLevels:
    """The stages of a grey image.

    Without a VOI table or window the full range of the values before it is shown.

    Args:
        elements: of `pixel_elements`.
        stored: range of the stored values.
        is_big_endian: byte order of the file.
        is_inverted: whether the smallest value is white: MONOCHROME1.
    """
    notes: list[Note] = []
    modality, low, high = _modality(elements, stored, is_big_endian, notes)
    voi = _voi(elements, low, high, is_big_endian, notes)

    def compute(values: Values) -> GreyFrame:
        shares = voi(modality(values))  # [0, 1]
        if is_inverted:
            shares = 1 - shares
        return np.rint(np.clip(np.nan_to_num(shares), 0, 1) * 255).astype(np.uint8)

    return GreyLevels(stored, compute, notes)


def _modality(
    elements: "Dataset", stored: StoredRange, is_big_endian: bool, notes: list[Note]
) -> tuple[Callable[[Values], Values], float, float]:
    """The first stage and the range of its output (C.11.1)."""
    for item in elements.get("ModalityLUTSequence") or ():
        table = _read_table(
            item.get("LUTDescriptor"),
            item.get("LUTData"),
            is_signed=stored.is_signed,
            is_big_endian=is_big_endian,
        )
        if table is not None:
            return table, 0, (1 << table.bits) - 1
        notes.append(_ignored("the modality table has no usable entries"))
        break
    slope, intercept = (number_of(elements, f"Rescale{name}") for name in ("Slope", "Intercept"))
    for name, number in (("Slope", slope), ("Intercept", intercept)):
        if number is None and elements.get(f"Rescale{name}"):
            notes.append(_ignored(f"Rescale {name} is not a number"))
    if slope == 0:
        notes.append(_ignored("Rescale Slope is 0"))
        slope = intercept = None
    a, b = (1.0 if slope is None else slope), (0.0 if intercept is None else intercept)
    ends = sorted((a * stored.low + b, a * stored.high + b))
    return lambda values: values * a + b, ends[0], ends[1]


def _voi(
    elements: "Dataset", low: float, high: float, is_big_endian: bool, notes: list[Note]
) -> Callable[[Values], Values]:
    """The second stage, from its input, low to high, to [0, 1] (C.11.2)."""
    for item in elements.get("VOILUTSequence") or ():
        table = _read_table(
            item.get("LUTDescriptor"),
            item.get("LUTData"),
            is_signed=low < 0,
            is_big_endian=is_big_endian,
        )
        if table is not None:
            return lambda values: table(values) / ((1 << table.bits) - 1)
        notes.append(_ignored("a VOI table has no usable entries"))
    function = str(elements.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        notes.append(_ignored("VOI LUT Function is none that the standard has; LINEAR is used"))
        function = "LINEAR"
    centres, widths = (numbers_of(elements.get(f"Window{name}")) for name in ("Center", "Width"))
    for centre, width in zip(centres, widths, strict=False):
        if width >= 1 or (width > 0 and function != "LINEAR"):
            return _window(function, centre, width)
        notes.append(
            Note("window_ignored", "info", "A grey value window without a width was passed over.")
        )
    if elements.get("WindowCenter") and elements.get("WindowWidth") and not (centres and widths):
        notes.append(_ignored("the grey value window is not made of numbers"))
    extent = max(high - low, 1e-12)
    return lambda values: (values - low) / extent


def _window(function: str, centre: float, width: float) -> Callable[[Values], Values]:
    """A window's output, [0, 1] (C.11.2.1.2, C.11.2.1.3)."""
    if function == "SIGMOID":
        return lambda values: 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return lambda values: (values > centre).astype(np.float64)
    return lambda values: (values - centre) / width + 0.5


def _ignored(what: str) -> Note:
    return Note("tag_ignored", "warning", f"{what[0].upper()}{what[1:]}.")


_COLOURS = ("Red", "Green", "Blue")


def palette_pipeline(
    dataset: "Dataset", stored: StoredRange, *, is_big_endian: bool
) -> GreyLevels | None:
    """The grey levels of a palette: 0.299 R + 0.587 G + 0.114 B of its entries.

    Args:
        dataset: with plain or segmented tables.
        stored: range of the stored values.
        is_big_endian: byte order of the file.

    Returns:
        None if a table is missing or unusable.
    """
    import cv2

    tables: list[_Table] = []
    for colour in _COLOURS:
        name = f"{colour}PaletteColorLookupTable"
        segments = dataset.get(f"Segmented{name}Data")
        plain = dataset.get(f"{name}Data")
        element = dataset[f"{name}Data"] if plain else None
        descriptor = dataset.get(f"{name}Descriptor")
        table = _read_table(
            descriptor,
            _expanded(segments, descriptor, is_big_endian) if segments and not plain else plain,
            is_signed=stored.is_signed,
            is_big_endian=is_big_endian,
            is_words=element is None or element.VR != "OB",
        )
        if table is None:
            return None
        tables.append(table)
    notes: tuple[Note, ...] = ()
    bits = max(table.bits for table in tables)
    largest = max(int(table.entries.max()) for table in tables)
    if bits > 8 and largest < 256:
        notes = (_ignored(f"the palette states {bits} bits, but its entries have 8"),)
        bits = 8

    def compute(values: Values) -> GreyFrame:
        flat = values.reshape(-1, 1)
        rgb = np.concatenate([table(flat) for table in tables], axis=1).astype(np.uint16)
        rgb8 = (rgb >> max(bits - 8, 0)).astype(np.uint8)
        grey = cv2.cvtColor(rgb8[None], cv2.COLOR_RGB2GRAY)
        return np.asarray(grey, np.uint8).reshape(values.shape)

    return GreyLevels(stored, compute, notes)


def _expanded(data: Any, descriptor: Any, is_big_endian: bool) -> list[int] | None:
    """The entries of a segmented table (C.7.9.2); None if it is damaged."""
    numbers = numbers_of(descriptor)
    if len(numbers) != 3 or not isinstance(data, bytes | bytearray | memoryview):
        return None
    words = np.frombuffer(data, ">u2" if is_big_endian else "<u2", len(data) // 2)
    count, size = (int(numbers[0]) & 0xFFFF) or 1 << 16, 2 if numbers[2] > 8 else 1
    values = words.tolist() if size == 2 else words.astype("<u2").view(np.uint8).tolist()
    entries: list[int] = []
    try:
        _expand(values, size, 0, count, len(values), entries, set(), is_indirect=False)
    except (IndexError, ValueError):
        return None
    return entries[:count]


def _expand(
    values: list[int],
    size: int,
    position: int,
    count: int,
    segments: int,
    entries: list[int],
    starts: set[int],
    *,
    is_indirect: bool,
) -> None:
    """Append the entries of segments, from a position.

    Args:
        values: the table's bytes or words.
        size: bytes of a value.
        position: of the first segment, index of `values`.
        count: entries at which it ends.
        segments: how many to expand at most.
        entries: so far; appended to.
        starts: positions of the segments so far; appended to.
        is_indirect: whether these segments are repeated ones, which cannot repeat others.
    """
    for _ in range(segments):
        if position + 1 >= len(values) or len(entries) >= count:
            return
        if not is_indirect:
            starts.add(position)
        kind, length = values[position], values[position + 1]
        position += 2
        if kind == 0:  # discrete
            entries.extend(values[position : position + length])
            position += length
        elif kind == 1:  # linear, from the last entry
            first, last = entries[-1], values[position]
            steps = np.rint(first + (last - first) * np.arange(1, length + 1) / max(length, 1))
            entries.extend(int(step) for step in steps)
            position += 1
        elif kind == 2 and not is_indirect:
            width = 4 // size
            offset = 0
            for part in reversed(values[position : position + width]):
                offset = offset << (8 * size) | part
            # The standard counts bytes, some writers entries.
            target = offset // size if offset // size in starts else offset
            _expand(values, size, target, count, length, entries, starts, is_indirect=True)
            position += width
        else:
            raise ValueError(kind)


def to_8_bits(samples: npt.NDArray[Any], bits: int) -> GreyFrame:
    """Unsigned samples from their full range to 8 bits, rounded.

    Args:
        samples: any shape, of at most `bits` bits.
        bits: of a sample.
    """
    if bits > _TABLE_BITS:
        samples, bits = samples >> (bits - _TABLE_BITS), _TABLE_BITS
    if bits == 8 and samples.dtype == np.uint8:
        return samples
    largest = (1 << bits) - 1
    table = (
        (np.arange(largest + 1, dtype=np.uint32) * 255 + largest // 2) // max(largest, 1)
    ).astype(np.uint8)
    return np.asarray(table[samples], np.uint8)
