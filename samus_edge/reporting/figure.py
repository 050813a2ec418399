"""Figures in one style, drawn off screen, without matplotlib's global state."""

import io
from typing import TYPE_CHECKING, Any, Final

from samus_edge.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI: Final = 110

# Told apart also with a colour vision deficiency and in grey (Okabe and Ito, 2008).
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS: Final = ("o", "s", "^", "D", "v", "P")
INK: Final = "#333333"
GRID: Final = "#DDDDDD"

STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",  # text stays text: smaller, searchable, and in the reader's font
    "svg.hashsalt": "samus-edge",  # the same plot is the same file
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def require_matplotlib() -> None:
    """Fail before a long job rather than after it.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as err:
        raise missing_extra("A chart", "matplotlib") from err


def new_figure(width_in: float, height_in: float) -> "Figure":
    """An empty figure of a size in inches, whose axes come in our style.

    Raises:
        MissingExtraError: if matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    class StyledFigure(Figure):
        # Axes take their style when they are made, and text that is not a path when it is saved.
        def add_subplot(self, *args: Any, **kwargs: Any) -> Any:
            with rc_context(STYLE):
                return super().add_subplot(*args, **kwargs)

        def savefig(self, *args: Any, **kwargs: Any) -> None:
            with rc_context(STYLE):
                super().savefig(*args, **kwargs)

    return StyledFigure(figsize=(width_in, height_in), layout="constrained")


def png_bytes(figure: "Figure") -> bytes:
    """The figure as a PNG file."""
    content = io.BytesIO()
    # Figure alone draws with Agg.
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None})
    return content.getvalue()


def svg_text(figure: "Figure") -> str:
    """The figure as an SVG document; the same drawing gives the same document."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
