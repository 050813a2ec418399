"""The architectures by name, without torch."""

from typing import Final

from samus_edge.errors import BadArgumentError

ARCHS: Final = ("tiny", "vit_b")


def check_arch(arch: str) -> str:
    """The name as it was given.

    Raises:
        BadArgumentError: if it is not one of :data:`ARCHS`.
    """
    if arch not in ARCHS:
        raise BadArgumentError(f"arch must be one of {', '.join(ARCHS)}, got {arch!r}.")
    return arch
