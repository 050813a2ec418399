"""The precisions that a bundle's image encoder may have."""

from samus_edge.errors import BackendError
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.graph_contract import IMAGE_ENCODER

__all__ = ["PRECISIONS", "check_precision", "require_precision"]

PRECISIONS = ("auto", "fp32", "fp16", "int8")


def check_precision(precision: str) -> None:
    """Refuse an unknown precision.

    Raises:
        ValueError: if it is not one of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")


def require_precision(bundle: Bundle, precision: str) -> None:
    """Refuse a bundle whose image encoder has another precision than the one asked for.

    Args:
        bundle: an opened bundle.
        precision: one of `PRECISIONS`; "auto" takes what the bundle has.

    Raises:
        BackendError: naming both precisions.
    """
    found = bundle.graph_record(IMAGE_ENCODER).precision
    if precision not in ("auto", found):
        raise BackendError(
            f"bundle {bundle.path} has its image encoder in {found}, not in {precision}. "
            f"Use the precision {found} or auto, or a bundle exported in {precision}."
        )
