"""The stored values of a DICOM file's frames, whatever their transfer syntax."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.errors import ImageFileError
from samus_edge.runtime.dicom.codestream import (
    Codestream,
    read_codestream,
    with_colour_space,
)
from samus_edge.runtime.dicom.pixel_pipeline import StoredRange, is_no_number, number_of
from samus_edge.runtime.images.image_io import MAX_FILE_PIXELS
from samus_edge.runtime.notes import Note, NoteLevel

if TYPE_CHECKING:
    import cv2
    from pydicom import Dataset

Space: TypeAlias = Literal["grey", "palette", "RGB", "YBR", "YBR_PARTIAL"]

_SPACES: dict[str, Space] = {
    "MONOCHROME1": "grey",
    "MONOCHROME2": "grey",
    "PALETTE COLOR": "palette",
    "RGB": "RGB",
    "YBR_FULL": "YBR",
    "YBR_FULL_422": "YBR",
    # What the inverse transformations of JPEG 2000 give.
    "YBR_ICT": "RGB",
    "YBR_RCT": "RGB",
    "YBR_PARTIAL_422": "YBR_PARTIAL",
    "YBR_PARTIAL_420": "YBR_PARTIAL",
}
_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, _RLE = (
    f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".2", ".5")
)
_NATIVE = (_IMPLICIT, _EXPLICIT, _BIG_ENDIAN, "1.2.840.10008.1.2.1.99")
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_VIDEO = tuple(f"{_JPEG_FAMILY}{number}" for number in range(100, 109))
_MAX_FRAME_BITS = 8 << 27  # 128 MB: the largest frame in colour of 16 bits, and no more
_MAX_FRAMES = 1 << 20
_ITEM, _ITEM_HEADER = b"\xfe\xff\x00\xe0", 8
# Decoders of JPEG 2000 hold every sample in four bytes, and more than once.
_MAX_JPEG_2000_SAMPLES = 1 << 26
_RLE_GAIN = 64  # two bytes become at most 128
_MAX_RLE_BYTES = 1 << 26


@dataclass(frozen=True)
class StoredFrame:
    """A decoded frame.

    Attributes:
        values: (H, W), or (H, W, 3) of colours, integers in `range`.
        range: what they can hold.
        space: what they mean.
    """

    values: npt.NDArray[Any]
    range: StoredRange
    space: Space


class PixelData:
    """The frames of an image, decoded one at a time.

    Args:
        dataset: of an image.
        path: for messages.

    Attributes:
        hw: (H, W) of every frame, pixels.
        frames: number of those that are there and whole.
        photometric: the label of the colour space.
        space: what the label means.
        range: of stored values, by the file's elements.
        is_big_endian: byte order of the file.

    Raises:
        ImageFileError: if it is not an image that can be read.
    """

    def __init__(self, dataset: "Dataset", path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._notes: list[Note] = []
        if "PixelData" not in dataset:
            raise ImageFileError(
                f"{path} is a DICOM file without an image. Give one with pixel data."
            )
        self.hw = (self._integer("Rows"), self._integer("Columns"))
        stated = self._integer("NumberOfFrames")
        if not 0 < self.hw[0] * self.hw[1] <= MAX_FILE_PIXELS or not 0 <= stated <= _MAX_FRAMES:
            raise ImageFileError(
                f"{path} has {stated} frames of {self.hw[1]} x {self.hw[0]} pixels; from 1 to "
                f"{MAX_FILE_PIXELS} pixels and from 1 frame are accepted."
            )
        self.photometric = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
        if self.photometric not in _SPACES:
            raise ImageFileError(
                f"{path} has another photometric interpretation than {', '.join(_SPACES)}. Export "
                "it as one of those."
            )
        self.space = _SPACES[self.photometric]
        self._samples = self._integer("SamplesPerPixel", 1)
        self._allocated = self._integer("BitsAllocated", 8)
        self._planar = self._integer("PlanarConfiguration")
        if self._frame_bits() > _MAX_FRAME_BITS:
            raise ImageFileError(
                f"{path} has frames of {self._frame_bits() // 8} bytes, more than the limit of "
                f"{_MAX_FRAME_BITS // 8}. Export it with 8 or 16 bits for a sample."
            )
        self.range, self._shift = self._significant_bits()
        self._content: bytes = dataset.PixelData
        self._syntax, is_encapsulated = self._transfer_syntax()
        self.is_big_endian = self._syntax == _BIG_ENDIAN
        self._video: _Video | None = None
        self._encoded: list[list[tuple[int, int]]] = []
        if self._syntax in _VIDEO:
            self.frames = max(stated, 1)
        elif is_encapsulated:
            self._encoded = self._encoded_frames(stated)
            self.frames = self._whole_frames(stated, len(self._encoded))
        else:
            self.frames = self._whole_frames(stated, 8 * len(self._content) // self._frame_bits())
        if self._encoded:
            self._compare_labels()

    @property
    def notes(self) -> tuple[Note, ...]:
        """What was passed over or contradicts."""
        return tuple(self._notes)

    def read(self, index: int) -> StoredFrame:
        """Decode a frame, from 0.

        Raises:
            ImageFileError: if it cannot be decoded.
        """
        if self._syntax in _VIDEO:
            return self._from_video(index)
        if not self._encoded:
            return self._native(index)
        content = b"".join(self._content[start:end] for start, end in self._encoded[index])
        header = read_codestream(content)
        if self._syntax == _RLE:
            return self._from_rle(content)
        if header is None:
            raise ImageFileError(
                f"{self._path} is damaged or not whole: frame {index} has no complete header. Copy "
                "it again."
            )
        self._check_size(header)
        if header.is_plain_jpeg:
            return self._from_jpeg(content, header)
        return self._from_codestream(content, header)

    def _integer(self, keyword: str, default: int = 0) -> int:
        value = number_of(self._dataset, keyword)
        if value is None and is_no_number(self._dataset, keyword):
            note = Note("tag_ignored", "warning", f"{keyword} is no number and was passed over.")
            if note not in self._notes:
                self._notes.append(note)
        return default if value is None else int(value)

    def _note(self, text: str, code: str = "tag_ignored", level: NoteLevel = "warning") -> None:
        self._notes.append(Note(code, level, text))

    def _significant_bits(self) -> tuple[StoredRange, int]:
        """The range of stored values, and the position of their lowest bit."""
        allocated = self._allocated
        if allocated not in (1, 8, 16, 32):
            raise ImageFileError(
                f"{self._path} has {allocated} bits for a sample; 1, 8, 16 and 32 are accepted. "
                "Export it so."
            )
        stored = self._integer("BitsStored", allocated)
        if not 1 <= stored <= allocated:
            self._note(f"Bits Stored is impossible; all {allocated} allocated bits are used.")
            stored = allocated
        high = self._integer("HighBit", stored - 1)
        if not stored - 1 <= high < allocated:
            self._note("High Bit is impossible; the lowest bits are used.")
            high = stored - 1
        is_signed = self._integer("PixelRepresentation") == 1 and self._samples == 1
        return StoredRange(stored, is_signed), high + 1 - stored

    def _transfer_syntax(self) -> tuple[str, bool]:
        """The transfer syntax, by the pixel data where it contradicts the file's, and whether
        there are fragments."""
        dataset = self._dataset
        meta = getattr(dataset, "file_meta", None)
        stated = "" if meta is None else str(meta.get("TransferSyntaxUID") or "")
        is_encapsulated = self._content[:4] == _ITEM and (
            stated not in _NATIVE or dataset["PixelData"].is_undefined_length
        )
        if not is_encapsulated:
            if stated in _NATIVE:
                return stated, False
            is_little = dataset.original_encoding[1] is not False
            if stated:
                self._note("The transfer syntax is a compressed one, but the pixel data is not.")
            return (_EXPLICIT if is_little else _BIG_ENDIAN), False
        if stated in _VIDEO:
            return stated, True
        fragments, _ = _fragments(self._content)
        header = None
        for start, end in fragments[1:2]:
            header = read_codestream(self._content[start:end])
        found = _RLE if header is None else header.syntax
        if stated in _NATIVE or not stated:
            self._note("The transfer syntax is not that of the pixel data, which decides.")
        elif stated == _RLE and header is not None:
            self._note("The transfer syntax is RLE, but the frames are JPEG, which decides.")
        elif stated.startswith(_JPEG_FAMILY) and header is None:
            return stated, True
        elif stated != _RLE and not stated.startswith(_JPEG_FAMILY):
            raise ImageFileError(
                f"{self._path} is compressed in a way that cannot be read. Export it uncompressed."
            )
        return found, True

    def _frame_bits(self) -> int:
        bits = self.hw[0] * self.hw[1] * self._samples * self._allocated
        return bits // 3 * 2 if self.photometric.endswith("_422") and self._samples == 3 else bits

    def _whole_frames(self, stated: int, whole: int) -> int:
        """Number of frames that are read."""
        if whole == 0:
            raise ImageFileError(
                f"{self._path} is damaged or not whole: it has no complete frame of "
                f"{self.hw[1]} x {self.hw[0]} pixels. Copy it again."
            )
        if stated > whole:
            self._note(
                f"{whole} of {stated} frames are there and whole; those are read.",
                "cine_truncated",
            )
        elif stated == 0 and whole > 1:
            self._note(f"Number of Frames is missing or 0; {whole} frames were found.")
        return min(stated, whole) if stated else whole

    def _encoded_frames(self, stated: int) -> list[list[tuple[int, int]]]:
        """Fragments, start and end in the pixel data, of each whole frame."""
        fragments, is_whole = _fragments(self._content)
        if not fragments:
            return []
        table_start, table_end = fragments.pop(0)
        table = np.frombuffer(
            self._content[table_start:table_end], "<u4", (table_end - table_start) // 4
        )
        extended = self._dataset.get("ExtendedOffsetTable")
        if isinstance(extended, bytes) and len(extended) >= 8:
            table = np.frombuffer(extended, "<u8", len(extended) // 8)
        offsets = [int(offset) + table_end + _ITEM_HEADER for offset in table]
        starts = {start for start, _ in fragments}
        last = max(starts, default=0)
        is_usable = (
            len(offsets) > 1
            and offsets == sorted(set(offsets))
            and all(offset in starts or (offset > last and not is_whole) for offset in offsets)
        )
        if is_usable:
            frames = [
                [each for each in fragments if begin <= each[0] < end]
                for begin, end in zip(offsets, [*offsets[1:], len(self._content) + 1], strict=True)
            ]
            # Of a file that was cut off, the last frame that has begun may lack fragments.
            begun = [frame for frame in frames if frame]
            if not is_whole and len(begun) == len(frames):
                begun = begun[:-1]
            return begun
        if stated == 1 or len(fragments) == 1:
            return [fragments] if is_whole and fragments else []
        if stated == len(fragments) or self._syntax == _RLE:
            return [[each] for each in fragments]
        # No table: a frame begins where a fragment begins like a codestream.
        grouped: list[list[tuple[int, int]]] = []
        for start, end in fragments:
            is_start = self._content[start : start + 3] in (b"\xff\xd8\xff", b"\xff\x4f\xff")
            if is_start or not grouped:
                grouped.append([])
            grouped[-1].append((start, end))
        return grouped

    def _compare_labels(self) -> None:
        """Note where the first frame's header contradicts the file's elements."""
        start, end = self._encoded[0][0]
        header = read_codestream(self._content[start:end])
        if header is None or self._syntax == _RLE:
            return
        if header.components != self._samples:
            self._note(
                f"Samples per Pixel is {self._samples}, but the compressed image has "
                f"{header.components}, which is taken."
            )
        elif header.colour is not None and header.colour != self.space:
            self._note(
                f"Photometric Interpretation contradicts the compressed image, whose markers say "
                f"{header.colour}, which is taken."
            )
        if header.precision != self.range.bits:
            self._note(
                f"Bits Stored is {self.range.bits}, but the compressed image has "
                f"{header.precision} bits; the smaller is taken.",
                level="info",
            )

    def _space(self, components: int, colour: Literal["RGB", "YBR"] | None) -> Space:
        """What samples mean: by the codestream's markers, else by the label."""
        label = self.space
        if components == 1:
            return label if label in ("grey", "palette") else "grey"
        if colour is not None:
            return colour
        return label if label not in ("grey", "palette") else "RGB"

    def _native(self, index: int) -> StoredFrame:
        from pydicom.pixels.decoders.base import get_decoder

        space, photometric = self.space, self.photometric
        if (self._samples == 1) != (space in ("grey", "palette")):
            raise ImageFileError(
                f"{self._path} has {self._samples} samples per pixel, which contradicts its "
                "photometric interpretation. Export it again."
            )
        if photometric == "YBR_PARTIAL_420":
            raise ImageFileError(
                f"{self._path} is uncompressed YBR_PARTIAL_420, which cannot be read. Export it as "
                "RGB."
            )
        if photometric == "YBR_PARTIAL_422":  # stored alike
            photometric = "YBR_FULL_422"
        syntax = _EXPLICIT if self._syntax not in _NATIVE else self._syntax
        values, _ = get_decoder(syntax).as_array(
            self._content,
            index=index,
            raw=True,
            **self._options(photometric, number_of_frames=self.frames),
        )
        return self._masked(values, space)

    def _options(self, photometric: str, **changes: Any) -> dict[str, Any]:
        """What pydicom's decoders want to know; all allocated bits are kept, as they are."""
        options: dict[str, Any] = {
            "rows": self.hw[0],
            "columns": self.hw[1],
            "samples_per_pixel": self._samples,
            "photometric_interpretation": photometric,
            "bits_allocated": self._allocated,
            "bits_stored": self._allocated,
            "pixel_representation": 0,
            "planar_configuration": self._planar,
            "number_of_frames": 1,
            "pixel_keyword": "PixelData",
            "pixel_vr": self._dataset["PixelData"].VR,
        }
        return options | changes

    def _masked(self, values: npt.NDArray[Any], space: Space) -> StoredFrame:
        """The significant bits of allocated ones."""
        bits = self.range.bits
        if bits != self._allocated:
            values = (values >> self._shift) & ((1 << bits) - 1)
        if self.range.is_signed:
            values = values.astype(np.int64 if bits > 31 else np.int32)
            values -= (values >> (bits - 1)) << bits
        if not values.dtype.isnative:
            values = values.astype(values.dtype.newbyteorder("="))
        return StoredFrame(values, self.range, space)

    def _from_rle(self, content: bytes) -> StoredFrame:
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder

        expected = self._frame_bits() // 8
        if len(content) * _RLE_GAIN > max(_MAX_RLE_BYTES, 2 * expected):
            size = _rle_size(content)
            if size > 2 * expected + 4096:
                raise ImageFileError(
                    f"{self._path} is damaged: an RLE frame expands to {size} bytes, {expected} "
                    "were expected. Copy it again."
                )
        values, _ = get_decoder(_RLE).as_array(
            encapsulate([content], has_bot=False),
            index=0,
            raw=True,
            **self._options(self.photometric),
        )
        return self._masked(values, self.space)

    def _check_size(self, header: Codestream) -> None:
        height, width = header.hw
        if header.hw != self.hw and not (height == 0 and width == self.hw[1]):
            raise ImageFileError(
                f"{self._path} states {self.hw[1]} x {self.hw[0]} pixels, but its compressed image "
                f"has {width} x {height}. Export it again."
            )
        if header.components not in (1, 3):
            raise ImageFileError(
                f"{self._path} has {header.components} samples per pixel; 1 or 3 are accepted. "
                "Export it as RGB."
            )

    def _from_jpeg(self, content: bytes, header: Codestream) -> StoredFrame:
        """8-bit JPEG, by Pillow, which is always there."""
        from io import BytesIO

        from PIL import Image

        space = self._space(header.components, header.colour)
        if header.components == 3:
            is_ybr = space in ("YBR", "YBR_PARTIAL")
            content = with_colour_space(content, "YBR" if is_ybr else "RGB")
            space = "RGB"  # Pillow converts
        with Image.open(BytesIO(content), formats=("JPEG",)) as image:
            values = np.asarray(image)
        return StoredFrame(values, StoredRange(8, is_signed=False), space)

    def _from_codestream(self, content: bytes, header: Codestream) -> StoredFrame:
        """What a plug-in of pydicom decodes."""
        from pydicom.encaps import encapsulate
        from pydicom.pixels.decoders.base import get_decoder

        samples = header.hw[0] * header.hw[1] * header.components
        if header.syntax in _JPEG_2000 and samples > _MAX_JPEG_2000_SAMPLES:
            raise ImageFileError(
                f"{self._path} has JPEG 2000 frames of {samples} samples, more than "
                f"{_MAX_JPEG_2000_SAMPLES}. Scale it down or export it uncompressed."
            )
        decoder = get_decoder(header.syntax)
        if not set(decoder.available_plugins) - _PARTIAL_PLUGINS.get(header.syntax, set()):
            raise ImageFileError(
                f"{self._path} is compressed as {decoder.UID.name}, for which no decoder is "
                f"installed. Install one: {_ADVICE[header.syntax]}; or export it uncompressed."
            )
        is_grey = header.components == 1
        is_signed = self.range.is_signed and is_grey
        try:
            values, _ = decoder.as_array(
                encapsulate([content], has_bot=False),
                index=0,
                raw=True,
                **self._options(
                    "MONOCHROME2" if is_grey else "RGB",
                    samples_per_pixel=header.components,
                    bits_allocated=8 if header.precision <= 8 else 16,
                    bits_stored=header.precision,
                    pixel_representation=int(is_signed),
                    planar_configuration=0,
                ),
            )
        except RuntimeError as err:  # of all plug-ins
            raise ImageFileError(
                f"{self._path} is damaged or not whole, or needs another decoder: its image, "
                f"{decoder.UID.name}, cannot be decoded. Copy it again, or: "
                f"{_ADVICE[header.syntax]}."
            ) from err
        # Some encoders state all allocated bits, some files more than were compressed.
        stored = StoredRange(min(header.precision, self.range.bits), is_signed)
        if header.precision > stored.bits:
            if is_signed:  # compressed without extending the sign
                values = values.astype(np.int32)
                values = np.where(values > stored.high, values - (1 << stored.bits), values)
            values = np.clip(values, stored.low, stored.high)
        return StoredFrame(values, stored, self._space(header.components, header.colour))

    def _from_video(self, index: int) -> StoredFrame:
        if self._video is None:
            fragments, _ = _fragments(self._content)
            content = b"".join(self._content[start:end] for start, end in fragments[1:])
            self._video = _Video(content, self._path, self.hw)
        values = self._video.read(index)
        return StoredFrame(values, StoredRange(8, is_signed=False), "RGB")


_JPEG_2000 = tuple(f"{_JPEG_FAMILY}{number}" for number in (91, 203))
# These say that they read extended JPEG, but only of 8 bits.
_PARTIAL_PLUGINS = {f"{_JPEG_FAMILY}51": {"pillow", "gdcm"}}
_ADVICE = {
    f"{_JPEG_FAMILY}{number}": advice
    for numbers, advice in (
        ((51,), "pip install pylibjpeg pylibjpeg-libjpeg"),
        ((57,), "pip install pylibjpeg pylibjpeg-libjpeg, or python-gdcm"),
        ((81,), "pip install pyjpegls, or python-gdcm"),
        ((91, 203), "pip install pylibjpeg pylibjpeg-openjpeg"),
    )
    for number in numbers
}


def _fragments(content: bytes) -> tuple[list[tuple[int, int]], bool]:
    """Start and end of the value of each whole item, the offset table's first, and whether the
    last one is whole."""
    found: list[tuple[int, int]] = []
    position = 0
    while content[position : position + 4] == _ITEM:
        start = position + _ITEM_HEADER
        position = start + int.from_bytes(content[position + 4 : start], "little")
        if position > len(content):
            return found, False
        found.append((start, position))
    return found, True


def _rle_size(content: bytes) -> int:
    """Bytes that an RLE frame expands to (PS3.5 G.3.1), without expanding it."""
    count = int.from_bytes(content[:4], "little")
    begins = [int.from_bytes(content[at : at + 4], "little") for at in range(4, 4 + 4 * count, 4)]
    size = 0
    for begin, end in zip(begins, [*begins[1:], len(content)], strict=True):
        position = begin
        while position < end:
            header = content[position]
            if header < 128:
                size += header + 1
                position += header + 2
            else:
                size += 257 - header if header > 128 else 0
                position += 2
    return size


class _Video:
    """MPEG-2, MPEG-4 or HEVC in a DICOM file, by OpenCV.

    Args:
        content: of the stream.
        path: for messages.
        hw: (H, W) that the file states, pixels.
    """

    def __init__(self, content: bytes, path: Path, hw: tuple[int, int]) -> None:
        self._content, self._path, self._hw = content, path, hw
        self._capture: cv2.VideoCapture | None = None
        self._file: Any = None
        self._next = 0

    def read(self, index: int) -> npt.NDArray[np.uint8]:
        """A frame, (H, W, 3), RGB."""
        import cv2

        if self._capture is None or index < self._next:
            self._open()
        assert self._capture is not None
        while self._next < index and self._capture.grab():
            self._next += 1
        is_read, frame = self._capture.read() if self._next == index else (False, None)
        if not is_read or frame is None:
            self._close()
            raise ImageFileError(
                f"{self._path} holds a video whose frame {index} cannot be decoded: it is damaged, "
                "not whole, or of a kind that OpenCV cannot read. Export it as MP4 (H.264), or "
                "uncompressed."
            )
        self._next += 1
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)

    def _open(self) -> None:
        import cv2

        self._close()
        # OpenCV reads files alone; this one goes when it is closed.
        self._file = tempfile.NamedTemporaryFile(suffix=".mp4")  # noqa: SIM115
        self._file.write(self._content)
        self._file.flush()
        self._capture = cv2.VideoCapture(self._file.name, cv2.CAP_FFMPEG)
        self._next = 0
        width, height = (
            int(self._capture.get(which))
            for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if self._capture.isOpened() and (height, width) != self._hw:
            self._close()
            raise ImageFileError(
                f"{self._path} states {self._hw[1]} x {self._hw[0]} pixels, but its video has "
                f"{width} x {height}. Export it again."
            )

    def _close(self) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None
        if self._file is not None:
            self._file.close()
            self._file = None
