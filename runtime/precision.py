"""The precisions that a bundle may offer, and the graphs that compute in one of them."""

from samus_edge.errors import BackendError
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import IMAGE_ENCODER
from samus_edge.runtime.graph_selection import GraphSelection

__all__ = [
    "PRECISIONS",
    "available_precisions",
    "check_precision",
    "precision_name",
    "reference_precision",
    "select_graphs",
]

PRECISIONS = ("auto", "fp32", "fp16", "int8", "int8-cpu")
"""What a user may ask for. There are two int8 recipes, since the best one differs: "int8" for
TensorRT (signed and symmetric), "int8-cpu" for CPUs with 8-bit dot products."""


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ValueError: if it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")


def reference_precision(bundle: Bundle) -> str:
    """The precision of the graphs that all others of a bundle were made from, usually "fp32"."""
    return bundle.graph_record(IMAGE_ENCODER).precision


def available_precisions(bundle: Bundle) -> dict[str, GraphSelection]:
    """Everything that a bundle offers, its reference first."""
    reference = reference_precision(bundle)
    others = {
        name: graphs for name, graphs in bundle.manifest.precisions.items() if name != reference
    }
    return {reference: GraphSelection(), **others}


def precision_name(bundle: Bundle, precision: str) -> str:
    """The precision that a bundle runs in when asked for one.

    Args:
        bundle: an opened bundle.
        precision: one of `PRECISIONS`; "auto" is the reference, which is the most accurate.

    Raises:
        BackendError: if the bundle has it not; names those that it has.
    """
    if precision == "auto":
        return reference_precision(bundle)
    available = available_precisions(bundle)
    if precision not in available:
        raise BackendError(
            f"bundle {bundle.path} is in {', '.join(available)}, not in {precision}. "
            f"Use one of these or auto, or add it: samus-edge calibrate --precision {precision}"
        )
    return precision


def select_graphs(bundle: Bundle, precision: str) -> GraphSelection:
    """The graphs that compute in a precision; arguments and errors as `precision_name`."""
    return available_precisions(bundle)[precision_name(bundle, precision)]
