"""The pieces of a report as one HTML file: no network, no script, pictures inside."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

import cv2
import numpy as np

from samus_edge.runtime.images.canvas import Canvas

__all__ = ["Cell", "fact_list", "html_page", "html_table", "jpeg_uri"]

PICTURE_WIDTH_PX: Final = 560
JPEG_QUALITY: Final = 78

CSS: Final = """
:root { color-scheme: light dark; --ink: #222; --soft: #666; --line: #ccc; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --soft: #999; --line: #444; --paper: #181818; }
}
@media print { :root { --ink: #000; --soft: #444; --line: #999; --paper: #fff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; } p, dl { max-width: 75ch; }
.soft { color: var(--soft); font-size: .9rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid var(--line); font-weight: 600; }
th.text, td.text { text-align: left; } tr.first td { border-top: 1px solid var(--line); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 1rem; }
.plots img, .plot { width: 100%; background: #fff; border-radius: 6px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; } figure img { width: 100%; display: block; }
figcaption { font-size: .84rem; overflow-wrap: anywhere; } tr { break-inside: avoid; }
"""

Cell = str | float | int


def html_page(title: str, body: Iterable[str]) -> str:
    """A document that needs nothing else.

    Args:
        title: text of the browser's tab.
        body: HTML of the page, one string per line.
    """
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def fact_list(facts: Mapping[str, str]) -> list[str]:
    """Names with values, such as what was measured on what."""
    return [
        "<dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()),
        "</dl>",
    ]


def html_table(
    columns: Sequence[str], text_columns: int, rows: Iterable[tuple[bool, Sequence[Cell]]]
) -> str:
    """A table; the first columns are text, and a row that begins something new has a line above.

    Args:
        columns: headings.
        text_columns: how many columns from the left are text; numbers are on the right.
        rows: whether the row begins something new, and its cells.
    """

    def cells(tag: str, values: Sequence[Cell]) -> str:
        return "".join(
            f"<{tag}{' class=text' if index < text_columns else ''}>{escape(_cell_text(value))}</{tag}>"
            for index, value in enumerate(values)
        )

    body = "".join(
        f"<tr{' class=first' if first else ''}>{cells('td', values)}</tr>" for first, values in rows
    )
    return (
        f"<div class='wide'><table><thead><tr>{cells('th', columns)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def jpeg_uri(picture: Canvas) -> str:
    """A (H, W, 3) uint8 RGB picture as the `src` of an image, at most 560 pixels wide."""
    height, width = picture.shape[:2]
    if width > PICTURE_WIDTH_PX:
        size_wh = (PICTURE_WIDTH_PX, round(height * PICTURE_WIDTH_PX / width))
        picture = np.asarray(
            cv2.resize(picture, size_wh, interpolation=cv2.INTER_AREA), dtype=np.uint8
        )
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done  # an 8-bit picture in memory always encodes
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _cell_text(cell: Cell) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
