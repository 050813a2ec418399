"""Reports as one HTML file each: no network, no script, pictures inside."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from samus_edge.runtime.images.canvas import Canvas

PICTURE_WIDTH_PX: Final = 560
JPEG_QUALITY: Final = 78


def render_page(template: str, values: Mapping[str, object]) -> str:
    """Fill in a page of `samus_edge/reporting/templates`; text is escaped.

    Args:
        template: file name, such as "verification.html".
        values: what the template names.

    Returns:
        An HTML document that needs nothing else.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "interval": _interval,
        "jpeg_uri": _jpeg_uri,
        "svg_uri": _svg_uri,
    }
    return environment.get_template(template).render(values)


def _number(value: float | None, form: str) -> str:
    """A number in a format; nothing where there is none."""
    return "" if value is None else f"{value:{form}}"


def _interval(ends: tuple[float, float] | None, form: str) -> str:
    return "" if ends is None else f"[{ends[0]:{form}}, {ends[1]:{form}}]"


def _jpeg_uri(picture: Canvas, max_width_px: int = PICTURE_WIDTH_PX) -> str:
    """A (H, W, 3) uint8 RGB picture as the `src` of an image."""
    height, width = picture.shape[:2]
    if width > max_width_px:
        size_wh = (max_width_px, round(height * max_width_px / width))
        picture = np.asarray(
            cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8
        )
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done  # an 8-bit picture in memory always encodes
    return _data_uri("image/jpeg", encoded.tobytes())


def _svg_uri(svg: str) -> str:
    return _data_uri("image/svg+xml", svg.encode())


def _data_uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
