"""What the header of a compressed frame says: its size, its samples and their colour space."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

ColourSpace: TypeAlias = Literal["RGB", "YBR"]

_SOI, _SOC = b"\xff\xd8", b"\xff\x4f\xff\x51"  # starts of JPEG and JPEG-LS, and of JPEG 2000
_RGB_NAMES = ([82, 71, 66], [114, 103, 98])  # component identifiers "RGB" and "rgb"
_BASELINE_8_BITS, _EXTENDED_12_BITS, _LOSSLESS_JPEG = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57)
)
_JPEG_LS, _JPEG_2000, _HTJ2K = (f"1.2.840.10008.1.2.4.{number}" for number in (81, 91, 203))


@dataclass(frozen=True)
class Codestream:
    """The header of a compressed frame.

    Attributes:
        hw: (H, W), pixels; H is 0 where a JPEG says it only after the image.
        components: samples per pixel.
        precision: bits per sample.
        syntax: UID of a transfer syntax that decodes it, the most general of its kind.
        colour: colour space by its markers; None where they do not say or contradict each other.
    """

    hw: tuple[int, int]
    components: int
    precision: int
    syntax: str
    colour: ColourSpace | None

    @property
    def is_plain_jpeg(self) -> bool:
        """Whether every JPEG decoder reads it: sequential or progressive, 8 bits."""
        return self.syntax == _BASELINE_8_BITS


def read_codestream(content: bytes) -> Codestream | None:
    """Read the header of JPEG, JPEG-LS, JPEG 2000 or HTJ2K.

    Returns:
        None if it is none of them, such as RLE, or has no complete header.
    """
    if content[:2] == _SOI:
        return _read_jpeg(content)
    start = content.find(_SOC, 0, 4096)  # after the boxes of a JP2 file, if there are any
    return None if start < 0 else _read_jpeg_2000(content, start)


def with_colour_space(content: bytes, colour: ColourSpace) -> bytes:
    """A JPEG of three components whose markers state its colour space.

    Decoders guess differently where the markers are missing; all of them follow Adobe's.
    """
    kept = [_SOI, b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([colour == "YBR"])]
    end = 2
    for marker, start, length in _segments(content):
        if marker not in (0xE0, 0xEE):
            kept.append(content[start : start + length])
        end = start + length
    return b"".join([*kept, content[end:]])


def _segments(content: bytes) -> list[tuple[int, int, int]]:
    """Marker, start and length of each segment of a JPEG before its image data, marker
    included."""
    found, position = [], 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        length = 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == 0xDA or length < 4:  # start of scan
            break
        found.append((marker, position, length))
        position += length
    return found


def _read_jpeg(content: bytes) -> Codestream | None:
    has_jfif, adobe, names = False, None, []
    header = None
    for marker, start, length in _segments(content):
        body = content[start + 4 : start + length]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            has_jfif = True
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        elif (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            if len(body) < 6 or len(body) < 6 + 3 * body[5]:
                return None
            names = [body[6 + 3 * index] for index in range(body[5])]
            header = marker, body
    if header is None:
        return None
    marker, body = header
    if marker == 0xF7:
        syntax = _JPEG_LS
    elif marker in (0xC0, 0xC1, 0xC2):
        syntax = _BASELINE_8_BITS if body[0] == 8 else _EXTENDED_12_BITS
    else:
        syntax = _LOSSLESS_JPEG
    says: set[ColourSpace] = set()
    if len(names) == 3 and syntax in (_BASELINE_8_BITS, _EXTENDED_12_BITS):
        says |= {"YBR"} if has_jfif else set()
        says |= {"RGB"} if names in _RGB_NAMES else set()
        says |= {"RGB" if adobe == 0 else "YBR"} if adobe in (0, 1) else set()
    return Codestream(
        (int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")),
        body[5],
        body[0],
        syntax,
        says.pop() if len(says) == 1 else None,
    )


def _read_jpeg_2000(content: bytes, start: int) -> Codestream | None:
    size = content[start + 4 : start + 4 + 39]  # length, capabilities, SIZ's numbers
    if len(size) < 39:
        return None
    capabilities = int.from_bytes(size[2:4], "big")
    x1, y1, x0, y0 = (int.from_bytes(size[at : at + 4], "big") for at in (4, 8, 12, 16))
    components, precision = int.from_bytes(size[36:38], "big"), (size[38] & 0x7F) + 1
    position = start + 4 + int.from_bytes(size[:2], "big")
    is_transformed = False
    while content[position : position + 1] == b"\xff" and content[position + 1] not in (0x90, 0x93):
        if content[position + 1] == 0x52:  # COD; after Scod, progression and layers
            is_transformed = content[position + 8 : position + 9] == b"\1"
            break
        position += 2 + max(2, int.from_bytes(content[position + 2 : position + 4], "big"))
        if position + 2 > len(content):
            break
    return Codestream(
        (y1 - y0, x1 - x0),
        components,
        precision,
        _HTJ2K if capabilities & 0x4000 else _JPEG_2000,
        # The transformation of components gives RGB back; without it they are what was stored.
        "RGB" if components == 3 and is_transformed else None,
    )
