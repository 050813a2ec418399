"""Figures drawn off screen, without matplotlib's global state."""

import io
from typing import TYPE_CHECKING

from samus_edge.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110


def require_matplotlib() -> None:
    """Fail before a long job rather than after it.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise MissingExtraError(
            "Charts need 'matplotlib', which is not installed. "
            "Install it with: pip install 'samus-edge[train]'"
        ) from err


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure of a size in inches.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def png_bytes(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)  # Figure alone draws with Agg
    return content.getvalue()
